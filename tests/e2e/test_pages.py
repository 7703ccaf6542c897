"""The commands of README.md and docs/api.md, run as they stand there, one page after the other, against the stack."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.stack import BIN, DEADLINE_S, ROOT, SERVICES, Stack, clean_environment, until

STRICT = """
set -euo pipefail
curl() { command curl --fail-with-body "$@"; echo; }
"""


@pytest.fixture(scope="module")
def place(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the commands find what they name: the virtual environment, the examples, the stack's home."""
    folder = tmp_path_factory.mktemp("pages")
    for name, target in {".venv/bin": BIN, "examples": ROOT / "examples", ".relevo": stack.home}.items():
        link = folder / name
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(target, target_is_directory=True)
    return folder


def blocks(page: str, heading: str) -> list[str]:
    """The shell commands under a heading; `""`: of the whole page."""
    text = (ROOT / page).read_text()
    if heading:
        text = text.split(f"## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def run_blocks(stack: Stack, place: Path, found: list[str], strict: str = STRICT) -> str:
    """Run the commands in one shell, with this stack's ports; what they printed."""
    script = strict + "\n".join(found)
    for offset, _ in enumerate(SERVICES):
        script = script.replace(f"localhost:{8000 + offset}", f"127.0.0.1:{stack.base + offset}")
    ended = subprocess.run(
        ["bash", "-c", script],
        cwd=place, env=clean_environment(), capture_output=True, text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, f"{ended.stdout[-3000:]}\n{ended.stderr[-3000:]}"
    return ended.stdout


@pytest.fixture(scope="module")
def own_pipeline(stack: Stack, place: Path) -> str:
    """What the ten minutes of the README print."""
    return run_blocks(stack, place, blocks("README.md", "Bring your own pipeline in ten minutes"))


def test_a_pipeline_of_ones_own_as_the_readme_has_it(stack: Stack, own_pipeline: str) -> None:
    assert "released" in own_pipeline
    first = stack.get("serving", "/admin/models/bike-demand/history")["items"][-1]
    assert (first["action"], first["version"]) == ("promote", 1)
    ((bikes,),) = until(lambda: stack.query("select score from predictions where key = 'lake-now'"), "the prediction")
    assert 0 < bikes < 50


@pytest.mark.skipif(shutil.which("curl") is None, reason="the page is about curl")
def test_the_tour_of_the_apis(stack: Stack, place: Path, own_pipeline: str) -> None:
    printed = run_blocks(stack, place, blocks("docs/api.md", ""))
    assert '"state":"released"' in printed
    assert (place / "test.parquet").read_bytes().startswith(b"PAR1")
    (many,) = re.findall(r'\{"index":1,"status":"rejected","reason":"([^"]+)"\}', printed)
    assert many.startswith("label")
    history = stack.get("serving", "/admin/models/bike-demand/history")["items"]
    assert [change["shadow"] for change in history[:2]] == [None, {"version": 1, "share": 0.1}]
    history = history[2:]
    assert [change["reason"] for change in history[:5]] == ["seen enough", "", "", "and back", "compare by hand"]
    assert [change["canary"] for change in history[:3]] == [
        None,
        {"version": 1, "share": 0.2},
        {"version": 1, "share": 0.05},
    ]
    short = run_blocks(stack, place, blocks("README.md", "API tour"))
    assert '"live_version":1' in short.splitlines()[-1].replace(" ", "")
