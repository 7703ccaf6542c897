"""What only a folder store can get wrong: half-written files, full disks, links, modes."""

import errno
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.artifacts.base import sha256_hex
from shared.artifacts.folder import FolderStore
from shared.errors import ArtifactCorrupt, StoreFull, Unavailable

DATA = b"model"
DIGEST = sha256_hex(DATA)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "a" / "store"


@pytest.fixture
def store(root: Path) -> FolderStore:
    return FolderStore(root)


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if not path.is_dir()]


def test_artifacts_lie_in_folders_named_by_the_first_two_digits(store: FolderStore, root: Path) -> None:
    store.put_bytes(DATA)
    assert files(root) == [root / DIGEST[:2] / DIGEST]


def test_others_of_the_group_may_read_and_nobody_may_change_a_file(store: FolderStore, root: Path) -> None:
    before = os.umask(0o077)
    try:
        store.put_bytes(DATA)
    finally:
        os.umask(before)
    assert stat.S_IMODE((root / DIGEST[:2] / DIGEST).stat().st_mode) == 0o440
    assert stat.S_IMODE((root / DIGEST[:2]).stat().st_mode) & 0o777 == 0o770


def test_a_folder_that_exists_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    FolderStore(tmp_path)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


def test_a_writer_that_breaks_off_leaves_nothing(store: FolderStore, root: Path) -> None:
    def half() -> Iterator[bytes]:
        yield DATA
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.write(half())
    assert files(root) == []


def test_bytes_of_another_digest_are_not_kept(store: FolderStore, root: Path) -> None:
    with pytest.raises(ArtifactCorrupt, match=DIGEST):
        store.write([b"something else"], expected=DIGEST)
    assert files(root) == []


def test_what_killed_writers_left_is_removed_after_a_day(store: FolderStore, root: Path) -> None:
    old, young = root / ".incoming" / "old", root / ".incoming" / "young"
    for path in (old, young):
        path.write_bytes(b"half a mod")
    long_ago = time.time() - 2 * 86_400
    os.utime(old, (long_ago, long_ago))
    FolderStore(root)
    assert files(root) == [young]


@pytest.mark.parametrize(
    ("code", "kind", "sentence"),
    [
        (errno.ENOSPC, StoreFull, "disk of the artifact store is full; free some space"),
        (errno.EDQUOT, StoreFull, "disk of the artifact store is full; free some space"),
        (errno.EIO, Unavailable, "cannot write to the artifact store: Input/output error"),
    ],
)
def test_a_disk_that_refuses_is_unavailable_and_nothing_is_left(
    store: FolderStore, root: Path, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[Unavailable], sentence: str
) -> None:
    def refuse(_descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(Unavailable, match=sentence) as refused:
        store.put_bytes(DATA)
    assert type(refused.value) is kind
    assert str(root) not in refused.value.detail
    assert files(root) == []


FILL = """
import pathlib, sys
from shared.artifacts.folder import FolderStore
from shared.errors import Unavailable
store = FolderStore(pathlib.Path(sys.argv[1]))
kept = store.put_bytes(b"small")
try:
    store.put_bytes(bytes(2_000_000))
except Unavailable as error:
    print(error.detail)
assert store.get(kept) == b"small"
print(sorted(path.name for path in pathlib.Path(sys.argv[1]).rglob("*") if path.is_file()) == [kept])
"""


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare (util-linux)")
    inside = f'mount -t tmpfs -o size=1m none "{tmp_path}" && exec "$0" -c "$1" "{tmp_path}/store"'
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", inside, sys.executable, FILL],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip("this system lets nobody mount a small disk")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "the disk of the artifact store is full; free some space on it and try again", "True",
    ]  # fmt: skip


def test_a_link_to_the_right_bytes_is_refused(store: FolderStore, root: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(DATA)
    (root / DIGEST[:2]).mkdir()
    (root / DIGEST[:2] / DIGEST).symlink_to(elsewhere)
    with pytest.raises(ArtifactCorrupt, match="symbolic link"):
        store.get(DIGEST)
    assert not store.exists(DIGEST)


def test_a_linked_folder_is_refused(store: FolderStore, root: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / DIGEST).write_bytes(DATA)
    (root / DIGEST[:2]).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactCorrupt, match="symbolic link"):
        store.get(DIGEST)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_what_is_no_file_is_refused_without_waiting(store: FolderStore, root: Path, make) -> None:
    (root / DIGEST[:2]).mkdir()
    make(root / DIGEST[:2] / DIGEST)
    with pytest.raises(ArtifactCorrupt, match="no regular file"):
        store.get(DIGEST)


def test_the_ping_tells_that_the_folder_is_gone(store: FolderStore, root: Path) -> None:
    shutil.rmtree(root)
    with pytest.raises(Unavailable, match="cannot read the artifact store: No such file"):
        store.ping()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Unavailable, match="cannot open the artifact store"):
        FolderStore(tmp_path / "file" / "store")
