"""What only an object store can get wrong: the network, credentials, a bucket that is not there."""

from collections.abc import Iterator
from pathlib import Path

import obstore
import pytest

from shared.artifacts import ArtifactStore, open_store
from shared.artifacts.base import sha256_hex
from shared.errors import Conflict, Unavailable
from tests.s3_server import BUCKET, S3Server, running_s3

DATA = b"model"
DIGEST = sha256_hex(DATA)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    with running_s3() as running:
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        yield running


@pytest.fixture
def store(server: S3Server) -> ArtifactStore:
    return open_store(f"s3://{BUCKET}/prefix")


def test_objects_lie_under_the_prefix(server: S3Server, store: ArtifactStore) -> None:
    store.put_bytes(DATA)
    assert server.objects == {f"prefix/{DIGEST[:2]}/{DIGEST}": DATA}


def test_a_large_file_goes_up_in_parts(server: S3Server, store: ArtifactStore, tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(bytes(12_000_000))
    digest = store.put_file(large)
    assert len([path for method, path in server.requests if method == "PUT" and "partNumber" in path]) > 1
    assert server.objects == {f"prefix/{digest[:2]}/{digest}": large.read_bytes()}


def test_an_error_that_passes_is_survived(server: S3Server, store: ArtifactStore) -> None:
    server.failures = [500, 503]
    store.put_bytes(DATA)
    server.failures = [503]
    assert store.get(DIGEST) == DATA


def test_an_error_that_lasts_is_unavailable_and_tells_no_address(server: S3Server, store: ArtifactStore) -> None:
    server.failures = [500] * 100
    for call in (lambda: store.put_bytes(DATA), lambda: store.get(DIGEST), lambda: store.exists(DIGEST), store.ping):
        with pytest.raises(Unavailable, match="artifact store") as refused:
            call()
        assert "127.0.0.1" not in refused.value.detail


def test_refused_credentials(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    with pytest.raises(Unavailable, match="check its address, bucket and keys"):
        open_store(f"s3://{BUCKET}").ping()


def test_a_bucket_that_is_not_there(server: S3Server) -> None:
    with pytest.raises(Unavailable, match="bucket"):
        open_store("s3://another").ping()
    with pytest.raises(Unavailable, match="bucket"):
        open_store("s3://another").put_bytes(DATA)


def test_a_server_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    with running_s3() as gone:
        for name, value in gone.environment.items():
            monkeypatch.setenv(name, value)
    with pytest.raises(Unavailable, match="check its address"):
        open_store(f"s3://{BUCKET}").ping()


def test_a_file_that_changes_while_it_is_stored_is_not_kept(
    server: S3Server, store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "train.parquet"
    path.write_bytes(DATA)
    put = obstore.put

    def change_first(*args: object, **options: object) -> object:
        path.write_bytes(b"other bytes")
        return put(*args, **options)

    monkeypatch.setattr("obstore.put", change_first)
    with pytest.raises(Conflict, match="changed while it was being stored"):
        store.put_file(path)
    assert server.objects == {}
