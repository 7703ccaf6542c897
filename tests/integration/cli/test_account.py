"""PostgreSQL under root: in a namespace of its own, or as nobody; in private folders."""

import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.stack import account, leash, postgres
from cli.stack.errors import StackError

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another account")
PROGRAM = postgres.programs() / "postgres"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter (pytest's own are private)."""
    folder = Path(tempfile.mkdtemp(prefix="relevo-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_a_private_folder_stays_private_and_roots(tmp_path: Path) -> None:
    user = account.for_engine(tmp_path, PROGRAM)
    if user is not account.NAMESPACE:
        pytest.skip("this machine forbids user namespaces")
    postgres.initialise(tmp_path / "postgres", "password", user, durable=False)
    made = (tmp_path / "postgres").stat()
    assert (made.st_uid, stat.S_IMODE(made.st_mode)) == (0, 0o700)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


def test_nobody_owns_the_data_where_namespaces_are_forbidden(open_folder: Path) -> None:
    home = open_folder / "home"
    home.mkdir(mode=0o700)
    try:
        user = account.fallback(home, PROGRAM)
    except StackError as error:
        pytest.skip(str(error))  # the programs themselves lie in a private folder
    postgres.initialise(home / "postgres", "password", user, durable=False)
    assert (home / "postgres").stat().st_uid == pwd.getpwnam("nobody").pw_uid
    assert stat.S_IMODE(home.stat().st_mode) == 0o711  # may be passed, not listed
    assert account.runs(user, PROGRAM, "-D", home / "postgres", "-C", "max_connections")
    # The next start may find namespaces again: the data changes hands.
    account.own(home / "postgres", account.NAMESPACE)
    assert {path.stat().st_uid for path in (home / "postgres").rglob("*")} == {0}


def test_a_private_parent_is_not_opened_but_explained(open_folder: Path) -> None:
    private = open_folder / "private"
    (private / "home").mkdir(parents=True)
    private.chmod(0o700)
    with pytest.raises(StackError, match=r"nobody cannot reach .*ordinary user.*--home.*DATABASE_URL"):
        account.fallback(private / "home", PROGRAM)
    assert stat.S_IMODE(private.stat().st_mode) == 0o700


def test_an_account_that_cannot_be_taken_is_no_account() -> None:
    unknown = account.Account(options=("--namespace", "1", "--user", "2:2"))  # uid 2 is not mapped inside
    assert not account.runs(unknown, "/bin/true")


def test_the_leash_says_what_it_cannot_run(capfd: pytest.CaptureFixture[str]) -> None:
    assert subprocess.run(leash.command(["/no/such/program"]), check=False).returncode == 127
    assert "cannot run /no/such/program" in capfd.readouterr().err
