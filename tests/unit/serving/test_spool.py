"""The spool: nothing appended is lost or given twice, whatever is torn, full or left behind."""

import errno
import os
import tempfile
from pathlib import Path
from weakref import WeakKeyDictionary

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.serving.errors import LogFull, LogUnwritable
from services.serving.prediction_log import frames
from services.serving.prediction_log import spool as module
from services.serving.prediction_log.folder import claim, claim_orphans
from services.serving.prediction_log.frames import HEADER, MAGIC, frame
from services.serving.prediction_log.record import head
from services.serving.prediction_log.spool import Spool
from services.serving.prediction_log.tail import Tail


def open_spool(folder: Path, **options: object) -> Spool:
    return Spool(folder, **{"limit_bytes": 10_000, **options})  # type: ignore[arg-type]


TAILS: "WeakKeyDictionary[Spool, Tail]" = WeakKeyDictionary()


def tail_of(spool: Spool) -> Tail:
    """The one reader of a spool, as its shipper is."""
    if spool not in TAILS:
        TAILS[spool] = Tail(spool._folder, sealed_below=spool.sealed_below, passed=spool.shipped)
    return TAILS[spool]


def drain(spool: Spool, *, max_bytes: int = 1 << 20, max_records: int = 100) -> list[bytes]:
    """Ship everything."""
    found: list[bytes] = []
    while (batch := tail_of(spool).next_batch(max_bytes=max_bytes, max_records=max_records)) is not None:
        found += batch.payloads
        tail_of(spool).pass_(batch)
    return found


def segments(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.seg"))


def test_records_come_out_in_order_across_segments_and_small_reads(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, segment_bytes=64)
    records = [f"record {number}".encode() for number in range(20)]
    for record in records:
        spool.append(record)
    assert len(segments(tmp_path)) > 3
    assert drain(spool, max_bytes=10, max_records=2) == records
    assert spool.waiting_bytes == 0
    assert len(segments(tmp_path)) == 1, "only the open segment is left"


def test_a_batch_that_was_not_marked_is_given_again(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    spool.append(b"one")
    first = tail_of(spool).next_batch(max_bytes=100, max_records=10)
    again = tail_of(spool).next_batch(max_bytes=100, max_records=10)
    assert first is not None
    assert again is not None
    assert first.payloads == again.payloads == [b"one"]


def test_leftovers_of_a_killed_process_are_shipped_and_its_torn_tail_is_not(tmp_path: Path) -> None:
    killed = open_spool(tmp_path)
    killed.append(b"one")
    killed.append(b"two")
    (path,) = tmp_path.glob("*.seg")
    with path.open("ab") as file:
        file.write(frame(b"three")[:-2])
    spool = open_spool(tmp_path)
    spool.append(b"four")
    assert drain(spool) == [b"one", b"two", b"four"]
    assert segments(tmp_path) == ["000000000002.seg"]


def test_a_damaged_segment_is_kept_for_a_look(tmp_path: Path) -> None:
    whole = MAGIC + frame(b"one") + b"\xff" * 40
    (tmp_path / "000000000001.seg").write_bytes(whole)
    spool = open_spool(tmp_path)
    assert drain(spool) == [b"one"]
    assert segments(tmp_path) == []
    assert (tmp_path / "000000000001.damaged").read_bytes() == whole
    assert tail_of(spool).take_damaged() == 1


def a_record(number: int) -> bytes:
    return head(1_700_000_000_000 + number, 1) + b'{"keys":["%d"]}' % number


@given(st.integers(1, 5), st.data())
def test_a_flipped_bit_anywhere_costs_at_most_the_record_it_is_in(count: int, data: st.DataObject) -> None:
    records = [a_record(number) for number in range(count)]
    damaged = bytearray(MAGIC + b"".join(map(frame, records)))
    bit = data.draw(st.integers(0, 8 * len(damaged) - 1))
    damaged[bit // 8] ^= 1 << bit % 8
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "000000000001.seg").write_bytes(damaged)
        spool = open_spool(folder)
        hit = (bit // 8 - len(MAGIC)) // len(frame(records[0]))
        assert drain(spool) == [record for number, record in enumerate(records) if number != hit]
        assert tail_of(spool).take_damaged() == 1
        assert segments(folder) == []
        assert (folder / "000000000001.damaged").read_bytes() == damaged


@given(st.data())
def test_a_torn_tail_is_no_damage(data: st.DataObject) -> None:
    whole = MAGIC + frame(a_record(1))
    torn = frame(a_record(2))
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "000000000001.seg").write_bytes(whole + torn[: data.draw(st.integers(1, len(torn) - 1))])
        spool = open_spool(folder)
        assert drain(spool) == [a_record(1)]
        assert tail_of(spool).take_damaged() == 0
        assert os.listdir(folder) == []


def test_a_page_that_was_never_written_costs_what_was_on_it(tmp_path: Path) -> None:
    written = [frame(a_record(number)) for number in range(100)]
    (tmp_path / "000000000001.seg").write_bytes(MAGIC + b"".join([*written[:10], bytes(4096), *written[90:]]))
    found = drain(open_spool(tmp_path))
    assert found == [a_record(number) for number in (*range(10), *range(90, 100))]


def test_a_damaged_segment_is_never_written_over(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        spool = open_spool(tmp_path)  # each time in a folder without segments
        spool.append(a_record(number))
        spool.close()
        (path,) = tmp_path.glob("*.seg")
        path.write_bytes(path.read_bytes() + b"\xff" * 40)
        assert drain(open_spool(tmp_path)) == [a_record(number)]
    kept = sorted(tmp_path.glob("*.damaged"))
    assert [path.read_bytes()[8:-40] for path in kept] == [frame(a_record(number)) for number in (1, 2, 3)]


def test_a_damaged_segment_is_kept_where_files_cannot_be_linked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "000000000001.seg").write_bytes(MAGIC + b"\xff" * 40)

    def refused(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    drain(open_spool(tmp_path))
    assert os.listdir(tmp_path) == ["000000000001.damaged"]
    assert (tmp_path / "000000000001.damaged").read_bytes() == MAGIC + b"\xff" * 40


def test_a_record_that_no_reader_would_take_is_not_appended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MAX_PAYLOAD_BYTES", 100)
    spool = open_spool(tmp_path)
    for payloads in ((b"one", b"x" * 101), (b"one", b"")):
        with pytest.raises(ValueError, match="1 to 100 bytes"):
            spool.append(*payloads)
    spool.append(b"x" * 100)
    assert drain(spool) == [b"x" * 100]


def test_the_oldest_that_waits_is_told_from_the_disk(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, segment_bytes=64)
    assert spool.oldest_ms is None
    for number in range(4):
        spool.append(a_record(number))
    for number in range(4):
        assert spool.oldest_ms == 1_700_000_000_000 + number
        batch = tail_of(spool).next_batch(max_bytes=1, max_records=1)
        assert batch is not None
        tail_of(spool).pass_(batch)
    assert spool.oldest_ms is None


def test_a_damaged_log_has_the_age_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "000000000001.seg"
    path.write_bytes(MAGIC + b"\xff" * 40)
    os.utime(path, (1_700_000_000, 1_700_000_000))
    assert open_spool(tmp_path).oldest_ms == 1_700_000_000_000


def test_a_segment_that_cannot_be_removed_is_removed_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = open_spool(tmp_path, segment_bytes=64)
    for number in range(4):
        spool.append(a_record(number))

    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refused)
        assert len(drain(spool)) == 4
        assert spool.waiting_bytes == 0
    assert len(segments(tmp_path)) == 4
    spool.sync()
    assert len(segments(tmp_path)) == 1, "only the open segment is left"


def test_a_file_that_is_no_segment_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "000000000001.seg").write_bytes(b"something else entirely")
    (tmp_path / "000000000002.seg").write_bytes(MAGIC[:3])
    spool = open_spool(tmp_path)
    spool.append(b"one")
    assert drain(spool) == [b"one"]


def test_more_than_the_limit_is_refused_until_something_is_shipped(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, limit_bytes=3 * (HEADER.size + 10))
    for _ in range(3):
        spool.append(b"0123456789")
    with pytest.raises(LogFull):
        spool.append(b"0123456789")
    drain(spool)
    spool.append(b"0123456789")


@pytest.mark.parametrize("taken", [0, 5], ids=["refused", "taken in part"])
def test_a_full_disk_refuses_the_record_and_leaves_the_others_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: int
) -> None:
    spool = open_spool(tmp_path)
    spool.append(b"one")
    write = os.write

    def full(descriptor: int, data: bytes) -> int:
        if taken:
            return write(descriptor, data[:taken])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "write", full)
        with pytest.raises(LogUnwritable, match="disk is full"):
            spool.append(b"two")
    spool.append(b"three")
    assert drain(open_spool(tmp_path)) == [b"one", b"three"], "a restart reads the same"


def test_nothing_is_appended_behind_what_the_shipper_may_have_read_of_a_failed_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = open_spool(tmp_path)
    spool.append(b"one")
    tail = Tail(tmp_path, sealed_below=spool.sealed_below, passed=lambda *_: None)
    write = os.write
    found: list[bytes] = []

    def ship() -> None:
        while (batch := tail.next_batch(max_bytes=1 << 20, max_records=10)) is not None:
            found.extend(batch.payloads)
            tail.pass_(batch)

    def in_part(descriptor: int, data: bytes) -> int:
        """The first of two records is whole in the file for a moment, and is read then."""
        written = write(descriptor, data[:-2])
        ship()
        return written

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "write", in_part)
        with pytest.raises(LogUnwritable):
            spool.append(b"two", b"three")
    spool.append(b"four")
    ship()
    assert found == [b"one", b"two", b"four"]


def test_a_disk_that_cannot_even_be_cut_back_gets_a_new_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = open_spool(tmp_path)
    spool.append(b"one")

    def broken(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "write", broken)
        patch.setattr(module.os, "ftruncate", broken)
        with pytest.raises(LogUnwritable):
            spool.append(b"two")
    spool.append(b"three")
    assert len(segments(tmp_path)) == 2
    assert drain(spool) == [b"one", b"three"]


def test_a_failed_sync_ends_the_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = open_spool(tmp_path)
    spool.append(b"one")

    def broken(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "fsync", broken)
        with pytest.raises(OSError, match="Input/output"):
            spool.sync()
    spool.append(b"two")
    spool.sync()
    assert len(segments(tmp_path)) == 2
    assert drain(spool) == [b"one", b"two"]


def test_an_old_segment_is_removed_once_it_is_shipped(tmp_path: Path) -> None:
    now_s = 0.0
    spool = open_spool(tmp_path, segment_age_s=60, clock=lambda: now_s)
    spool.append(b"one")
    drain(spool)
    assert len(segments(tmp_path)) == 1
    now_s = 61.0
    spool.sync()
    assert segments(tmp_path) == []


def test_closing_keeps_what_waits_and_refuses_more(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    spool.append(b"one")
    spool.close()
    with pytest.raises(LogFull):
        spool.append(b"two")
    assert drain(open_spool(tmp_path)) == [b"one"]


def test_each_process_has_a_folder_and_orphans_are_found(tmp_path: Path) -> None:
    first, second = claim(tmp_path), claim(tmp_path)
    assert [first.path.name, second.path.name] == ["replica-0", "replica-1"]
    open_spool(second.path).append(b"left behind")
    assert list(claim_orphans(tmp_path)) == [], "its process is alive"
    second.release()
    assert [folder.path.name for folder in claim_orphans(tmp_path)] == ["replica-1"]
    with claim(tmp_path) as third:
        assert third.path.name == "replica-1"


def test_readiness_is_red_before_predictions_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = open_spool(tmp_path, limit_bytes=1000)
    spool.append(b"x" * 500)
    spool.check()
    spool.append(b"x" * 450)
    with pytest.raises(LogFull):
        spool.check()
    drain(spool)
    spool.check()
    monkeypatch.setattr(module, "FREE_BYTES", 2**70)
    with pytest.raises(LogUnwritable):
        spool.check()


def test_what_is_being_written_is_waited_for_and_read_once_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "000000000001.seg"
    whole = MAGIC + frame(b"one") + frame(b"two")
    passed: list[tuple[int, int]] = []
    tail = Tail(tmp_path, sealed_below=1, passed=lambda number, end: passed.append((number, end)))
    found: list[bytes] = []
    for end in range(len(whole) + 1):
        path.write_bytes(whole[:end])
        while (batch := tail.next_batch(max_bytes=1 << 20, max_records=10)) is not None:
            found += batch.payloads
            tail.pass_(batch)
    assert found == [b"one", b"two"]
    assert passed[-1] == (1, len(whole))


def test_a_segment_that_another_follows_is_over(tmp_path: Path) -> None:
    (tmp_path / "000000000001.seg").write_bytes(MAGIC + frame(b"one") + frame(b"torn")[:-1])
    tail = Tail(tmp_path, sealed_below=1, passed=lambda *_: None)
    first = tail.next_batch(max_bytes=100, max_records=10)
    assert first is not None
    tail.pass_(first)
    assert tail.next_batch(max_bytes=100, max_records=10) is None, "the rest may still come"
    (tmp_path / "000000000002.seg").write_bytes(MAGIC + frame(b"two"))
    second = tail.next_batch(max_bytes=100, max_records=10)
    assert second is not None
    assert (second.number, second.payloads, second.full) == (2, [b"two"], False)


def test_a_segment_that_is_removed_while_the_folder_is_read_is_no_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "000000000001.seg", tmp_path / "000000000002.seg"
    first.write_bytes(MAGIC + frame(b"one"))
    second.write_bytes(MAGIC + frame(b"two"))
    tail = Tail(tmp_path, sealed_below=2, passed=lambda *_: None)
    batch = tail.next_batch(max_bytes=100, max_records=10)
    assert batch is not None
    tail.pass_(batch)
    listed = sorted(tmp_path.glob("*.seg"))
    first.unlink()
    monkeypatch.setattr(Path, "glob", lambda *_: iter(listed))
    after = tail.next_batch(max_bytes=100, max_records=10)
    assert after is not None
    assert after.payloads == [b"two"]
