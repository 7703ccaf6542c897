"""Frames through a pipe that cuts them anywhere."""

from hypothesis import given
from hypothesis import strategies as st

from services.serving.shadow.frames import Frame, Frames

FRAMES = st.lists(
    st.builds(Frame, st.text("abc-", min_size=1, max_size=20), st.integers(1, 2**31 - 1), st.binary(max_size=200)),
    max_size=8,
)


@given(FRAMES, st.lists(st.integers(0, 2000), max_size=20))
def test_frames_come_out_as_they_went_in(frames: list[Frame], cuts: list[int]) -> None:
    data = b"".join(frame.encode() for frame in frames)
    reader, found, last = Frames(), [], 0
    for cut in [*sorted(cuts), len(data)]:
        found += reader.feed(data[last:cut])
        last = max(last, min(cut, len(data)))
    assert found == frames
