"""Prediction ids that were not issued to the caller: refused one by one with a reason, by their tag alone."""

import hmac
import random
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event, text

from shared import prediction_ids
from shared.contracts.scopes import Scope
from shared.ids import new_id
from shared.keys import generate, hash_of
from shared.prediction_ids import PredictionIds
from shared.registry.tables import ApiKey
from tests.conftest import PREDICTION_SECRET
from tests.integration.serving.conftest import Replica, bearer, flight, until
from tests.integration.serving.registry import Registry
from tests.unit.serving.tiny_model import tiny_model

NOT_ISSUED = "prediction_id: was not issued here; send the id exactly as /predict returned it"
IDS = PredictionIds(PREDICTION_SECRET)


@pytest.fixture
async def deployed(registry: Registry, replica: Replica) -> Replica:
    """A replica with one live model."""
    registry.pipeline()
    registry.version(tiny_model(0.25))
    assert (await replica.promote(1)).status_code == 200
    return replica


@contextmanager
def statements(replica: Replica) -> Iterator[list[str]]:
    """What feedback asks PostgreSQL meanwhile (the catalogue is read all the time)."""
    engine = replica.serving.transactions._sessions.kw["bind"]
    asked: list[str] = []

    def hear(_: object, __: object, statement: str, *___: object) -> None:
        if any(word in statement for word in ("labels", "prediction_requests", "advisory")):
            asked.append(statement)

    event.listen(engine, "before_cursor_execute", hear)
    try:
        yield asked
    finally:
        event.remove(engine, "before_cursor_execute", hear)


async def verdicts(replica: Replica, *ids: Any, **options: Any) -> list[tuple[str, str | None]]:
    answer = await replica.client.post(
        "/feedback", json=[{"prediction_id": each, "label": 1} for each in ids], **options
    )
    assert answer.status_code == 200, answer.text
    return [(verdict["status"], verdict.get("reason")) for verdict in answer.json()["results"]]


def stored(replica: Replica) -> int:
    with replica.sessions.begin() as session:
        found: int = session.execute(text("select count(*) from labels")).scalar_one()
        return found


async def predicted(replica: Replica, rows: int) -> list[str]:
    answer = await replica.predict(*map(flight, range(rows)))
    return [row["prediction_id"] for row in answer.json()["predictions"]]


async def test_forged_ids_are_refused_without_a_look_at_the_registry(deployed: Replica) -> None:
    issued = await predicted(deployed, 3)
    one, draw = issued[0], random.Random(3)
    other = (await predicted(deployed, 1))[0]
    altered = [one[:at] + draw.choice("0123456789abcdef".replace(one[at], "")) + one[at + 1 :] for at in range(54)]
    truncated = [one[:length] for length in (0, 1, 32, 38, 53)]
    beyond = [f"{one[:32]}{row:06x}{tag}" for row in (3, 7, 8, 2**24 - 1) for tag in (one[38:], issued[2][38:])]
    spliced = [one[:38] + other[38:], one[:32] + other[32:], issued[1][:38] + one[38:]]
    spelled = [one.upper(), f" {one}", f"{one}\n", f"{one[:8]}-{one[8:]}", one + "0", str(uuid.uuid4()), "١" * 54]
    other_secret = PredictionIds("x" * 32).make("delays", new_id(), 0)
    of_no_pipeline = IDS.make("other", new_id(), 0)
    forged = [*altered, *truncated, *beyond, *spliced, *spelled, other_secret, of_no_pipeline]
    with statements(deployed) as asked:
        assert await verdicts(deployed, *forged) == [("rejected", NOT_ISSUED)] * len(forged)
        assert asked == []
        assert await verdicts(deployed, 7, [], {}, True) == [("rejected", "prediction_id: must be a text")] * 4
        assert asked == []
        assert await verdicts(deployed, *issued) == [("accepted", None)] * 3
        assert asked
    assert stored(deployed) == 3


async def test_the_tag_is_compared_in_constant_time(deployed: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    (one,) = await predicted(deployed, 1)
    compared: list[tuple[str, str]] = []
    compare = hmac.compare_digest

    def spy(made: str, given: str) -> bool:
        if len(given) == len(one):
            compared.append((made, given))
        return compare(made, given)

    monkeypatch.setattr(prediction_ids.hmac, "compare_digest", spy)
    forged = one[:-1] + ("0" if one[-1] != "0" else "1")
    assert await verdicts(deployed, forged, one) == [("rejected", NOT_ISSUED), ("accepted", None)]
    assert compared == [(one, forged), (one, one)]


async def test_ids_of_a_pipeline_that_the_caller_may_not_see_are_ids_of_none(
    registry: Registry, deployed: Replica
) -> None:
    other = registry.pipeline("other")
    key = generate()
    with registry.sessions.begin() as session:
        row = ApiKey(
            id=key.split("_")[1], name="shop", secret_hash=hash_of(key), scopes=[Scope.FEEDBACK], created_by="test"
        )
        row.pipelines = ["other"]
        session.add(row)
    await until(lambda: "other" in deployed.serving.follower.catalogue.pipelines, "the second pipeline is known")
    (theirs,) = await predicted(deployed, 1)
    mine = IDS.make("other", new_id(), 0)

    async def known() -> bool:
        return (await deployed.client.post("/feedback", json=[{}], headers=bearer(key))).status_code == 200

    await until(known, "the key is known")
    assert await verdicts(deployed, theirs, mine, headers=bearer(key)) == [("rejected", NOT_ISSUED), ("accepted", None)]
    named = [
        {"prediction_id": theirs, "label": 1, "model": "delays"},
        {"key": "a", "label": 1, "model": "delays"},
        {"key": "a", "label": 1},  # the one pipeline that the caller sees
    ]
    answer = (await deployed.client.post("/feedback", json=named, headers=bearer(key))).json()
    assert [verdict.get("reason") for verdict in answer["results"]] == [
        "model: there is no pipeline of that name"
    ] * 2 + [None]
    with deployed.sessions.begin() as session:
        assert set(session.scalars(text("select pipeline_id from labels"))) == {other}


async def test_an_id_whose_time_cannot_be_is_refused_even_with_a_good_tag(deployed: Replica) -> None:
    now = datetime.now(UTC)
    last = uuid.UUID(int=(2**48 - 1) << 80 | 7 << 76 | 2 << 62)
    absurd = [new_id(now + timedelta(hours=1)), new_id(datetime(1970, 1, 1, tzinfo=UTC)), last]
    ids = [IDS.make("delays", request, 0) for request in absurd]
    reason = "prediction_id: carries a time that cannot be: the clock that made it was wrong"
    assert await verdicts(deployed, *ids) == [("rejected", reason)] * 3
    good = [
        new_id(now + timedelta(minutes=4)),
        new_id(now - timedelta(days=900)),
    ]  # a replica's clock may be a little ahead
    assert await verdicts(deployed, *(IDS.make("delays", request, 0) for request in good)) == [("accepted", None)] * 2


async def test_a_row_that_a_request_does_not_have_labels_nothing(deployed: Replica) -> None:
    """Only who has the secret can make such an id; the log, when it comes, has no row for it."""
    (one,) = await predicted(deployed, 1)
    request, _ = IDS.verify("delays", one)
    beyond = IDS.make("delays", request, 5)
    assert await verdicts(deployed, beyond) == [("accepted", None)]
    await deployed.shipped(1)
    with deployed.sessions.begin() as session:
        query = "select r.keys[l.row_index + 1] from labels l join prediction_requests r using (request_id)"
        assert session.execute(text(query)).scalar_one() is None
