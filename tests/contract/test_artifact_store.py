"""What every artifact store promises, checked on each: a folder, obstore in memory, and S3 over HTTP."""

import hashlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import obstore
import pytest
from obstore.store import MemoryStore

from shared.artifacts import ArtifactStore, open_store
from shared.artifacts.s3 import BucketStore
from shared.errors import ArtifactCorrupt, ArtifactMissing, Invalid
from tests.s3_server import BUCKET, running_s3

DATA = b"the bytes of a model" * 1000
DIGEST = hashlib.sha256(DATA).hexdigest()
NO_DIGESTS = {
    "empty": "",
    "parent": "..",
    "traversal": "../../etc/passwd",
    "absolute": "/etc/passwd",
    "upper case": DIGEST.upper(),
    "short": DIGEST[:-1],
    "long": DIGEST + "0",
    "line end": DIGEST + "\n",
    "not ASCII": "é" * 64,
}


@dataclass
class Case:
    store: ArtifactStore
    damage: Callable[[str, bytes], None]
    """Overwrite what is stored under a digest, behind the store's back."""


@pytest.fixture(params=["folder", "memory", "s3"])
def case(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Case]:
    if request.param == "folder":
        root = tmp_path / "store"

        def damage_file(digest: str, data: bytes) -> None:
            path = root / digest[:2] / digest
            path.unlink()
            path.write_bytes(data)

        yield Case(open_store(root.as_uri()), damage_file)
    elif request.param == "memory":
        memory = MemoryStore()
        yield Case(
            BucketStore(memory, "models"),
            lambda digest, data: obstore.put(memory, f"models/{digest[:2]}/{digest}", data) and None,
        )
    else:
        with running_s3() as server:
            for name, value in server.environment.items():
                monkeypatch.setenv(name, value)
            yield Case(
                open_store(f"s3://{BUCKET}/some/prefix"),
                lambda digest, data: server.objects.update({f"some/prefix/{digest[:2]}/{digest}": data}),
            )


def test_bytes_come_back_under_their_sha256(case: Case) -> None:
    assert case.store.put_bytes(DATA) == DIGEST
    assert case.store.exists(DIGEST)
    assert case.store.get(DIGEST) == DATA


def test_nothing_at_all_is_an_artifact_too(case: Case) -> None:
    digest = case.store.put_bytes(b"")
    assert digest == hashlib.sha256(b"").hexdigest()
    assert case.store.get(digest) == b""


def test_a_file_is_stored_as_its_bytes_are(case: Case, tmp_path: Path) -> None:
    large = tmp_path / "train.parquet"
    large.write_bytes(bytes(range(256)) * 50_000)  # more than one part of a multipart upload
    digest = case.store.put_file(large)
    assert digest == hashlib.sha256(large.read_bytes()).hexdigest()
    assert case.store.get(digest) == large.read_bytes()
    assert case.store.fetch(digest, tmp_path / "cache").read_bytes() == large.read_bytes()


def test_storing_again_changes_nothing(case: Case) -> None:
    assert case.store.put_bytes(DATA) == case.store.put_bytes(DATA) == DIGEST
    assert case.store.get(DIGEST) == DATA


def test_what_is_not_stored_is_missing(case: Case, tmp_path: Path) -> None:
    assert not case.store.exists(DIGEST)
    with pytest.raises(ArtifactMissing, match=DIGEST):
        case.store.get(DIGEST)
    with pytest.raises(ArtifactMissing, match=DIGEST):
        case.store.fetch(DIGEST, tmp_path / "cache")


def test_deleted_is_missing_and_deleting_twice_is_fine(case: Case) -> None:
    case.store.put_bytes(DATA)
    case.store.delete(DIGEST)
    case.store.delete(DIGEST)
    assert not case.store.exists(DIGEST)
    with pytest.raises(ArtifactMissing):
        case.store.get(DIGEST)


@pytest.mark.parametrize(
    "damaged", [b"", DATA[:-1], DATA + b"x", b"X" + DATA[1:]], ids=["emptied", "cut", "grown", "one byte changed"]
)
def test_damaged_bytes_are_never_handed_out(case: Case, tmp_path: Path, damaged: bytes) -> None:
    case.store.put_bytes(DATA)
    case.damage(DIGEST, damaged)
    with pytest.raises(ArtifactCorrupt, match=DIGEST):
        case.store.get(DIGEST)
    with pytest.raises(ArtifactCorrupt, match=DIGEST):
        case.store.fetch(DIGEST, tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_storing_again_mends_a_damaged_copy(case: Case) -> None:
    case.store.put_bytes(DATA)
    case.damage(DIGEST, b"damaged")
    case.store.put_bytes(DATA)
    assert case.store.get(DIGEST) == DATA


def test_a_fetched_file_is_verified_at_each_use(case: Case, tmp_path: Path) -> None:
    case.store.put_bytes(DATA)
    path = case.store.fetch(DIGEST, tmp_path / "cache")
    assert path.read_bytes() == DATA
    if path.is_relative_to(tmp_path / "cache"):
        path.unlink()
        path.write_bytes(b"damaged on the local disk")
        assert case.store.fetch(DIGEST, tmp_path / "cache").read_bytes() == DATA
        case.store.delete(DIGEST)
        assert case.store.fetch(DIGEST, tmp_path / "cache").read_bytes() == DATA, "the cache needs no network"


@pytest.mark.parametrize("text", NO_DIGESTS.values(), ids=NO_DIGESTS.keys())
def test_only_a_digest_names_an_artifact(case: Case, tmp_path: Path, text: str) -> None:
    for use in (case.store.get, case.store.exists, case.store.delete):
        with pytest.raises(Invalid, match="64 lower-case hex digits"):
            use(text)
    with pytest.raises(Invalid, match="64 lower-case hex digits"):
        case.store.fetch(text, tmp_path / "cache")


def test_many_may_store_and_read_at_once(case: Case, tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for number in range(10):
                data = str(number).encode() * 1000
                digest = case.store.put_bytes(data)
                assert case.store.get(digest) == data
                assert case.store.fetch(digest, tmp_path / "cache").read_bytes() == data
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_working_store_answers_the_ping(case: Case) -> None:
    case.store.ping()
