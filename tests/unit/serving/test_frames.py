"""Frames: whole ones are read, torn and damaged ones are recognised, whatever the cut."""

import zlib

from hypothesis import given
from hypothesis import strategies as st

from services.serving.prediction_log.frames import HEADER, frame, next_frame_bytes, read_frames

payloads = st.lists(st.binary(min_size=1, max_size=60), max_size=6)


@given(payloads, st.data())
def test_a_cut_anywhere_leaves_the_whole_frames_before_it(records: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(map(frame, records))
    cut = data.draw(st.integers(0, len(whole)))
    read = read_frames(whole[:cut])
    assert read == records[: len(read)]
    assert cut - sum(HEADER.size + len(record) for record in read) < HEADER.size + 60


@given(payloads.filter(bool), st.data())
def test_a_flipped_bit_is_never_taken_for_a_record(records: list[bytes], data: st.DataObject) -> None:
    whole = bytearray(b"".join(map(frame, records)))
    position = data.draw(st.integers(0, len(whole) - 1))
    whole[position] ^= 1 << data.draw(st.integers(0, 7))
    read = read_frames(bytes(whole))
    assert read == records[: len(read)]
    assert len(read) < len(records)


def test_pages_that_were_never_written_are_no_frames() -> None:
    assert read_frames(frame(b"one") + bytes(64)) == [b"one"]


def test_the_length_of_a_frame_is_known_from_its_header() -> None:
    assert next_frame_bytes(frame(b"four")) == HEADER.size + 4
    assert next_frame_bytes(frame(b"four")[:9]) == HEADER.size + 4
    assert next_frame_bytes(b"abc") is None
    assert frame(b"four")[4:8] == zlib.crc32(b"four").to_bytes(4, "little")
