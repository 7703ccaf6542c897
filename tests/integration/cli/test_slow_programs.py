"""Programs that do not end when an engine is prepared: an error that names the cure, and no process left."""

import os
from pathlib import Path

import psutil
import pytest

from cli.stack import account, postgres
from cli.stack.errors import StackError


def hanging(folder: Path, name: str) -> Path:
    """A program that never ends."""
    program = folder / name
    program.write_text("#!/bin/sh\nexec sleep 3600\n")
    program.chmod(0o755)
    return program


def left() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if child.name() == "sleep"]


def test_trying_an_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account, "TRIED_WITHIN_S", 2.0)
    with pytest.raises(StackError, match=r"postgres did not end within 2 s.*start again.*DATABASE_URL"):
        account.runs(account.SAME_USER, hanging(tmp_path, "postgres"), "--version")
    assert left() == []


def test_setting_up_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hanging(tmp_path, "initdb")
    monkeypatch.setattr(postgres, "programs", lambda: tmp_path)
    monkeypatch.setattr(postgres, "SET_UP_WITHIN_S", 2.0)
    with pytest.raises(StackError, match=r"initdb did not end within 2 s.*--home.*DATABASE_URL"):
        postgres.initialise(tmp_path / "data", "password", account.SAME_USER)
    assert left() == []
    assert sorted(os.listdir(tmp_path)) == ["initdb"]
