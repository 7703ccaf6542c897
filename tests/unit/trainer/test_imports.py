"""What a process need not load, it does not: workers start faster, and fail of less."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["tasks", "background", "train_process"])
def test_workers_do_without_the_web_framework(module: str) -> None:
    code = (
        f"import sys, services.trainer.{module}; print([name for name in ('fastapi', 'torch') if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"
