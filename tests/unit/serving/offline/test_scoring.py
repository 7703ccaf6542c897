"""From batches to a generation's files, and from the files to answers: every key, every feature, the scores of the model."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from services.serving.models.catalogue import Offline
from services.serving.offline import columns
from services.serving.offline.generation import Generation, open_generation
from services.serving.offline.manifest import INDEX_FILE, ROWS_FILE, Manifest, read_manifest
from services.serving.offline.scoring import Scored, Scorer, score_rows
from shared.artifacts.folder import FolderStore
from shared.errors import ArtifactCorrupt, Invalid
from shared.manifest import DatasetFile
from shared.scoring import open_model
from shared.spec import parse
from tests.unit.serving.tiny_model import SIGNATURE, SPEC, tiny_model

AT_US = 1_370_188_800_000_000
SPEC_OF = parse(SPEC)
SEED = 2**63 + 11


def scorer(model: bytes | None = None) -> Scorer:
    session = open_model(model or tiny_model(0.25, weight=0.1), threads=1)
    return Scorer(session, SPEC_OF, SIGNATURE["inputs"], 3)


def batch(keys: list[str], **changes: list[Any]) -> pa.RecordBatch:
    columns_given = {
        "key": keys,
        "time": [AT_US] * len(keys),
        "carrier": [("AA", "UA", None)[n % 3] for n in range(len(keys))],
        "distance": [None if n % 5 == 0 else float(n) for n in range(len(keys))],
        **changes,
    }
    return pa.record_batch(columns_given, schema=columns.columns_of(SPEC_OF))


def stored(store: FolderStore, scored: Scored) -> dict[str, DatasetFile]:
    return {
        name: DatasetFile(store.put_file(path), path.stat().st_size, scored.rows)
        for name, path in ((ROWS_FILE, scored.rows_path), (INDEX_FILE, scored.write_index()))
    }


def opened(folder: Path, scored: Scored) -> Generation:
    store = FolderStore(folder / "store")
    files = stored(store, scored)
    manifest = Manifest("delays", 3, scored.rows, scored.batch_rows, SEED, files)
    digest = store.put_bytes(manifest.encode())
    assert read_manifest(store.get(digest), digest) == manifest
    return open_generation(store, Offline(1, digest, 3, datetime(2026, 1, 1, tzinfo=UTC)), folder / "cache")


@pytest.mark.parametrize("held_rows", [1_000_000, 1000])
def test_every_key_is_found_with_its_score_and_features(tmp_path: Path, held_rows: int) -> None:
    keys = [f"ключ/{number}" for number in range(20_000)]
    sizes = (1, 9000, 3, 10_996)
    starts = np.cumsum([0, *sizes])
    parts = [batch(keys).slice(start, size) for start, size in zip(starts, sizes, strict=False)]
    done: list[int] = []
    generation = opened(
        tmp_path, score_rows(iter(parts), scorer(), tmp_path, SEED, done=done.append, held_rows=held_rows)
    )
    assert done[-1] == len(keys)
    assert done == sorted(done)
    for number in (0, 1, 2, 8191, 8192, 12_345, 19_999):
        found = generation.find(keys[number])
        assert found is not None
        carrier = ("AA", "UA", None)[number % 3]
        distance = None if number % 5 == 0 else float(number)
        expected = min(1.0, 0.25 + 0.125 * (carrier == "AA") + 0.0001 * (distance or 0))
        assert found.score == pytest.approx(expected, abs=1e-6)
        given = {"flight": keys[number], "departs": AT_US, "carrier": carrier, "distance": distance}
        assert generation.instance(found, "flight", "departs") == {
            name: value for name, value in given.items() if value is not None
        }
    for absent in ("", "ключ/20000", "x" * 300):
        assert generation.find(absent) is None


def test_equal_hashes_are_told_apart_by_the_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.serving.offline.scoring.hash_keys", lambda keys, _: np.full(len(keys), 7, np.uint64))
    monkeypatch.setattr("services.serving.offline.generation.hash_key", lambda *_: 7)
    generation = opened(tmp_path, score_rows(iter([batch(["a", "b", "c"])]), scorer(), tmp_path, SEED))
    rows = [found.row for key in "abc" if (found := generation.find(key)) is not None]
    assert rows == [0, 1, 2]
    assert generation.find("d") is None


def test_a_key_given_twice_is_refused_by_name(tmp_path: Path) -> None:
    scored = score_rows(iter([batch(["a", "b"]), batch(["c", "b"])]), scorer(), tmp_path, SEED)
    with pytest.raises(Invalid, match="The key 'b' stands in rows 1 and 3"):
        scored.write_index()


def test_scores_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    one = batch(["a", "b"], distance=[1.0, 2.0])
    broken = scorer(tiny_model(float("nan")))
    with pytest.raises(Invalid, match="Version 3 gives no finite score for 2 of 2 rows; the first has the key 'a'"):
        score_rows(iter([one]), broken, tmp_path, SEED)


def test_what_stops_the_reading_or_the_telling_stops_all(tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def breaking() -> Iterator[pa.RecordBatch]:
        yield batch([str(number) for number in range(9000)])
        raise Stopped

    with pytest.raises(Stopped):
        score_rows(breaking(), scorer(), tmp_path, SEED)

    def stop(_: int) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        score_rows(iter([batch(["a"])]), scorer(), tmp_path, SEED, done=stop)


def test_a_file_that_was_changed_is_not_opened(tmp_path: Path) -> None:
    scored = score_rows(iter([batch(["a", "b"])]), scorer(), tmp_path, SEED)
    store = FolderStore(tmp_path / "store")
    files = stored(store, scored)
    digest = store.put_bytes(Manifest("delays", 3, 2, scored.batch_rows, SEED, files).encode())
    path = store.fetch(files[ROWS_FILE].sha256, tmp_path)
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    offline = Offline(1, digest, 3, datetime(2026, 1, 1, tzinfo=UTC))
    with pytest.raises(ArtifactCorrupt):
        open_generation(store, offline, tmp_path)
    with pytest.raises(ArtifactCorrupt, match="no generation"):
        read_manifest(b'{"files": {}, "format": 1}', "f" * 64)
