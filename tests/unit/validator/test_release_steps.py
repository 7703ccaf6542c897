"""What to do about a pending release, as a scenario table; and what serving's answers mean."""

import uuid
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from services.validator.release import MOST_REJUDGED, Production, Step, next_step, replayed_at
from services.validator.serving_client import NotLoadable, ServingClient
from shared.errors import Conflict, Unavailable

CANDIDATE, BASELINE, RIVAL = uuid.uuid4(), uuid.uuid4(), uuid.uuid4()


@pytest.mark.parametrize(
    ("judged_against", "live", "rejudged", "approved", "step"),
    [
        (None, None, 0, False, Step.PROMOTE),
        (BASELINE, BASELINE, 0, False, Step.PROMOTE),
        (BASELINE, BASELINE, 99, True, Step.PROMOTE),
        (BASELINE, CANDIDATE, 0, False, Step.DONE),
        (None, CANDIDATE, 0, True, Step.DONE),
        (BASELINE, RIVAL, 0, False, Step.JUDGE_AGAIN),
        (None, RIVAL, 0, False, Step.JUDGE_AGAIN),
        (BASELINE, RIVAL, MOST_REJUDGED - 1, False, Step.JUDGE_AGAIN),
        (BASELINE, RIVAL, MOST_REJUDGED, False, Step.HOLD),
        (BASELINE, RIVAL, 0, True, Step.HOLD),
    ],
)
def test_next_step(
    judged_against: uuid.UUID | None, live: uuid.UUID | None, rejudged: int, approved: bool, step: Step
) -> None:
    got = next_step(
        candidate=CANDIDATE,
        judged_against=judged_against,
        production=Production(live, 5),
        rejudged=rejudged,
        approved=approved,
    )
    assert got is step


def test_only_a_replay_has_a_simulated_moment() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert replayed_at(now - timedelta(hours=3), now) is None
    assert replayed_at(now - timedelta(days=300), now) == now - timedelta(days=300)


def promote(answer: httpx.Response | Exception) -> int:
    def handle(_: httpx.Request) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        return answer

    client = ServingClient("http://serving", "key", transport=httpx.MockTransport(handle))
    return client.promote("p", 3, expected_generation=1, validation_id=CANDIDATE, reason="r", effective_at=None)


def test_the_new_generation_is_returned() -> None:
    assert promote(httpx.Response(200, json={"generation": 4})) == 4


@pytest.mark.parametrize("status", [409, 404, 422, 400])
def test_a_refusal_is_a_conflict_with_servings_own_words(status: int) -> None:
    with pytest.raises(Conflict, match="Version 3 is gone"):
        promote(httpx.Response(status, json={"detail": "Version 3 is gone."}))
    with pytest.raises(Conflict, match=str(status)):
        promote(httpx.Response(status, text="<html>"))


def test_a_version_that_cannot_be_loaded_is_told_apart() -> None:
    with pytest.raises(NotLoadable, match="damaged"):
        promote(httpx.Response(409, json={"type": "urn:relevo:problem:not-loadable", "detail": "It is damaged."}))


@pytest.mark.parametrize(
    "answer",
    [
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("slow"),
        httpx.Response(500, text="oops"),
        httpx.Response(503, json={"detail": "loading"}),
        httpx.Response(401, json={"detail": "unknown key"}),
        httpx.Response(429),
        httpx.Response(302, headers={"location": "http://elsewhere"}),
        httpx.Response(200, text="no json"),
        httpx.Response(200, json={"other": 1}),
    ],
)
def test_whatever_may_pass_is_tried_again(answer: httpx.Response | Exception) -> None:
    with pytest.raises(Unavailable):
        promote(answer)
