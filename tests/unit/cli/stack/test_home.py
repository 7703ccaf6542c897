"""The home folder: private, checked before use, and files that are replaced as a whole."""

import fcntl
import json
import os
import re
import stat
import time
from pathlib import Path

import pytest

from cli.stack import home as homes
from cli.stack.errors import StackError
from cli.stack.home import Home

KEY = re.compile(r"rlv_[0-9a-f]{12}_[A-Za-z0-9_-]{43}")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_everything_made_is_for_its_owner_alone(tmp_path: Path) -> None:
    home = Home(tmp_path / "a" / "b")
    homes.prepare(home)
    homes.load_secrets(home)
    assert {mode(path) for path in (home.root, home.logs, home.artifacts, home.spool, home.cache)} == {0o700}
    assert mode(home.secrets) == 0o600


def test_secrets_are_made_once_and_have_their_form(tmp_path: Path) -> None:
    home = Home(tmp_path)
    made = homes.load_secrets(home)
    assert homes.load_secrets(home) == made
    assert KEY.fullmatch(made.admin_key)
    assert KEY.fullmatch(made.service_key)
    assert len(made.prediction_secret) >= 32
    assert made != homes.Secrets.generate()


def test_lost_secrets_are_not_replaced_while_data_needs_them(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.postgres.mkdir()
    (home.postgres / "PG_VERSION").write_text("18\n")
    with pytest.raises(StackError, match=r"secrets.json is missing.*restore"):
        homes.load_secrets(home)
    assert not home.secrets.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"admin_key": 1}', "null"])
def test_damaged_secrets_are_told_and_kept(tmp_path: Path, text: str) -> None:
    home = Home(tmp_path)
    home.secrets.write_text(text)
    with pytest.raises(StackError, match="damaged"):
        homes.load_secrets(home)
    assert home.secrets.read_text() == text


def test_a_full_disk_is_told_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(StackError, match=r"is full: 3 MB are free.*--home"):
        homes.prepare(Home(tmp_path), free_bytes=3 * 2**20)


def test_a_file_in_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StackError, match="is not a folder"):
            homes.prepare(Home(place))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_folder_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StackError, match=r"cannot be written.*--home"):
        homes.prepare(Home(tmp_path / "home"))


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "stack.json"
    homes.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        homes.write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["stack.json"]


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert homes.holder(home) is None
    with homes.locked(home):
        assert homes.holder(home) == os.getpid()
        with pytest.raises(StackError, match=rf"already runs in .*pid {os.getpid()}.*relevo down"), homes.locked(home):
            pass
    assert homes.holder(home) is None
    with homes.locked(home):
        pass


def test_who_only_looks_keeps_nobody_from_starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path)
    with homes.locked(home):
        pass
    looks = os.open(home.lock, os.O_RDONLY)
    fcntl.flock(looks, fcntl.LOCK_SH)  # as `holder` does, for a moment that ends while the other waits
    waits: list[float] = []

    def look_ends(seconds: float) -> None:
        waits.append(seconds)
        fcntl.flock(looks, fcntl.LOCK_UN)

    monkeypatch.setattr(time, "sleep", look_ends)
    try:
        with homes.locked(home):
            assert homes.holder(home) == os.getpid()
    finally:
        os.close(looks)
    assert len(waits) == 1


def test_there_is_no_stack_until_one_is_up(tmp_path: Path) -> None:
    assert homes.read_stack(tmp_path) is None
    homes.write_json(tmp_path / "stack.json", {"serving": "http://127.0.0.1:8000"})
    assert homes.read_stack(tmp_path) == {"serving": "http://127.0.0.1:8000"}
