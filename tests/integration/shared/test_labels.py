"""Statements with a time: in any order, any number of times, in lists of any size, the same label counts."""

import random
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlmodel import Session

from shared.ids import new_id
from shared.labels import EFFECTIVE_ORDER, RANK, LabelSource, NewLabel, insert_labels
from shared.registry.session import Sessions
from shared.registry.tables import Pipeline

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
REQUEST = new_id(NOON)
EFFECTIVE = text(f"select label from labels where pipeline_id = :pipeline order by {EFFECTIVE_ORDER} limit 1")


def statement(label: float, second: int, source: LabelSource, by_key: bool, delay: int) -> NewLabel:
    moment = NOON + timedelta(seconds=second)
    about: dict[str, str | tuple[uuid.UUID, int]] = {"key": "k"} if by_key else {"prediction": (REQUEST, 3)}
    return NewLabel(label, moment, moment + timedelta(seconds=delay), source, timed=True, **about)  # type: ignore[arg-type]


STATEMENTS = st.lists(
    st.builds(
        statement,
        st.sampled_from([0.0, 1.0, 0.1, 1e300]),
        st.integers(0, 3),  # few moments: many are equal
        st.sampled_from(LabelSource),
        st.booleans(),
        st.integers(0, 2),
    ),
    min_size=1,
    max_size=10,
)


def arrive(session: Session, statements: Sequence[NewLabel], draw: random.Random) -> uuid.UUID:
    """Send each at least once to a new pipeline, shuffled, some again, in lists of random sizes."""
    pipeline = Pipeline(name=f"p{draw.getrandbits(60)}", spec_version=1)
    session.add(pipeline)
    session.flush()
    waiting = [*statements, *(draw.choice(statements) for _ in range(draw.randrange(6)))]
    draw.shuffle(waiting)
    new = 0
    while waiting:
        size = draw.randint(1, len(waiting))
        new += sum(insert_labels(session, pipeline.id, waiting[:size]))
        del waiting[:size]
    assert new == len({each.content_digest for each in statements})
    return pipeline.id


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(statements=STATEMENTS, seed=st.integers(0, 2**32))
def test_any_order_and_any_repetition_give_the_same_effective_label(
    sessions: Sessions, statements: list[NewLabel], seed: int
) -> None:
    draw = random.Random(seed)
    last = max(statements, key=lambda each: (RANK[each.source], each.label_time, each.content_digest))
    with sessions() as session:
        for _ in range(2):
            pipeline = arrive(session, statements, draw)
            assert session.scalar(EFFECTIVE, {"pipeline": pipeline}) == last.label
        session.rollback()
