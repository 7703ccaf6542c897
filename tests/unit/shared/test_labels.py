"""What a source said last: the same whether it came in one list or in many, and however often a list is sent again."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from shared.labels import RANK, About, LabelSource, NewLabel, Word, date_untimed

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


class Store:
    """What PostgreSQL does with labels: each content once, the effective one by rank, time and digest."""

    def __init__(self) -> None:
        self.labels: dict[str, NewLabel] = {}

    def add(self, labels: Sequence[NewLabel]) -> list[bool]:
        """Whether each was new."""
        last: dict[About, Word] = {}
        for label in sorted(self.labels.values(), key=lambda label: (label.label_time, label.content_digest)):
            last[label.about] = Word(label.label, label.label_time, label.content_digest)
        new = []
        for label in date_untimed(labels, last):
            new.append(label is not None and label.content_digest not in self.labels)
            if label is not None:
                self.labels.setdefault(label.content_digest, label)
        return new

    def effective(self) -> float:
        """The label that counts."""
        order = max((RANK[each.source], each.label_time, each.content_digest) for each in self.labels.values())
        return self.labels[order[2]].label


def said(label: float, second: int, *, timed: bool = False, source: LabelSource = LabelSource.EXPLICIT) -> NewLabel:
    moment = NOON + second * SECOND
    return NewLabel(label, moment, moment, source, "k", timed=timed)


def test_the_last_word_of_one_list_counts_and_sending_it_again_changes_nothing() -> None:
    for last in (0, 1):
        store = Store()
        assert store.add([said(1 - last, 0), said(last, 0)]) == [True, True]
        assert store.effective() == last
        assert store.add([said(1 - last, 9), said(last, 9)]) == [False, False]
        assert store.effective() == last


def test_a_word_without_a_time_beats_one_from_a_clock_that_runs_ahead() -> None:
    store = Store()
    store.add([said(1, 200, timed=True)])
    assert store.add([said(0, 10)]) == [True]
    assert store.effective() == 0
    assert store.add([said(1, 200, timed=True), said(0, 20)]) == [False, False]
    assert store.effective() == 0


def test_of_two_at_one_moment_the_content_decides_also_within_a_list() -> None:
    for first, second in ((0, 1), (1, 0)):
        timed = [said(first, 0, timed=True), said(second, 0, timed=True)]
        for last in (0, 1):
            store = Store()
            store.add([*timed, said(last, 9)])
            assert store.effective() == last


def test_a_word_that_was_held_up_stays_behind_a_later_one() -> None:
    about = said(0, 9).about
    late = Word(0, NOON + 9 * SECOND, "", received_at=NOON + 9 * SECOND)
    assert date_untimed([said(1, 5)], {about: late}) == [said(1, 5)]
    assert date_untimed([said(1, 9)], {about: late}) == [
        replace(said(1, 9), label_time=late.time + timedelta(microseconds=1))
    ]


def test_what_was_said_with_a_time_is_left_as_it_is() -> None:
    labels = [said(1, 3, timed=True), said(0, 1, timed=True), said(1, 3, timed=True)]
    assert date_untimed(labels, {}) == labels


WORDS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 1.0, 2.0]),
        st.integers(0, 3),
        st.sampled_from([LabelSource.EXPLICIT, LabelSource.IMPLICIT]),
    ),
    min_size=1,
    max_size=8,
)


@given(
    words=WORDS,
    dated=st.sets(st.sampled_from([LabelSource.EXPLICIT, LabelSource.IMPLICIT])),
    cuts=st.sets(st.integers(1, 7)),
    again=st.integers(1, 3),
)
def test_one_list_and_many_end_alike_and_the_last_one_may_be_sent_again(
    words: list[tuple[float, int, LabelSource]], dated: set[LabelSource], cuts: set[int], again: int
) -> None:
    """Each source either says since when, always, or never does."""

    def as_received(received: int, some: Sequence[tuple[float, int, LabelSource]]) -> list[NewLabel]:
        return [
            said(label, at if source in dated else received, timed=source in dated, source=source)
            for label, at, source in some
        ]

    whole, parts = Store(), Store()
    whole.add(as_received(60, words))
    ends = [0, *sorted(cut for cut in cuts if cut < len(words)), len(words)]
    for number, (start, end) in enumerate(pairwise(ends)):
        parts.add(as_received(60 + number, words[start:end]))
    assert parts.effective() == whole.effective()
    for number in range(again):
        assert not any(whole.add(as_received(80 + number, words)))
        assert not any(parts.add(as_received(80 + number, words[ends[-2] :])))
