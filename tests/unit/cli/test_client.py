"""The client against a real server: what it sends, what it makes of errors, and when it dares to try again."""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from cli.addresses import SERVICES, Addresses
from cli.client import Client
from cli.transport import ATTEMPTS, MAX_WAIT_S, CallFailed, Refused, Transport, Unreachable
from tests.unit.cli.scripted import Answer, Scripted

AWAY = Answer(503, {"detail": "The registry is away."}, {"Retry-After": "2"})


@pytest.fixture
def client(addresses: Addresses) -> Iterator[Client]:
    with Client(addresses) as opened:
        yield opened


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def transport(addresses: Addresses, waits: list[float]) -> Iterator[Transport]:
    """One whose waits are noted down and cost no time."""
    with Transport(addresses, sleep=waits.append) as opened:
        yield opened


def test_each_call_carries_the_key(client: Client, server: Scripted) -> None:
    client.pipeline("flights")
    (asked,) = server.asked
    assert (asked.method, asked.path) == ("GET", "/v1/pipelines/flights")
    assert asked.headers["authorization"] == "Bearer rlv_key"


def test_a_prediction_names_a_version_only_when_asked(client: Client, server: Scripted) -> None:
    client.predict("flights", [{"flight_id": "a"}])
    client.predict("flights", [{"flight_id": "a"}], version=3)
    live, pinned = server.asked
    assert live.path == "/v1/models/flights/predict"
    assert live.json == {"instances": [{"flight_id": "a"}]}
    assert pinned.json["version"] == 3


def test_work_is_asked_for_with_a_key_of_its_own_each_time(client: Client, server: Scripted) -> None:
    server.script = [Answer(202, {"id": "c"})]
    moment = datetime(2013, 3, 1, 8, tzinfo=UTC)
    client.start_cycle("flights", moment)
    client.start_cycle("flights")
    first, second = server.asked
    assert first.json == {"as_of": "2013-03-01T08:00:00+00:00"}
    assert second.json == {}
    assert first.headers["idempotency-key"] != second.headers["idempotency-key"]


@pytest.mark.parametrize(("history", "generation"), [([{"generation": 7}], 7), ([], 0)])
def test_a_release_names_the_generation_it_found_and_is_repeated_with_it(
    client: Client, server: Scripted, history: list[dict[str, int]], generation: int
) -> None:
    found = Answer(body={"items": history, "next": None})
    for release in (lambda: client.promote("flights", 3), lambda: client.rollback("flights", reason="worse")):
        server.reset()
        server.script = [found, Answer(drop=True), Answer(body={"live_version": 2})]
        assert release()["live_version"] == 2
        looked, *sent = server.asked
        assert (looked.method, looked.path, looked.query) == ("GET", "/admin/models/flights/history", "limit=1")
        assert [asked.json["expected_generation"] for asked in sent] == [generation] * 2


def test_names_cannot_leave_their_place_in_the_path(client: Client, server: Scripted) -> None:
    client.pipeline("../keys?x=1")
    assert server.asked[0].path == "/v1/pipelines/..%2Fkeys%3Fx%3D1"


def test_lists_are_read_page_by_page(client: Client, server: Scripted) -> None:
    server.script = [
        Answer(body={"items": [{"n": 3}, {"n": 2}], "next": "2"}),
        Answer(body={"items": [{"n": 1}], "next": None}),
    ]
    assert [row["n"] for row in client.datasets("flights")] == [3, 2, 1]
    assert [asked.query for asked in server.asked] == ["limit=100", "limit=100&after=2"]


def test_a_problem_becomes_a_sentence_with_its_fields(client: Client, server: Scripted) -> None:
    errors = [{"loc": ["body", "network", "kind"], "msg": "must be linear, mlp or dcn"}] + [
        {"loc": ["body", "features", str(n)], "msg": "unknown"} for n in range(7)
    ]
    server.script = [Answer(422, {"detail": "The pipeline is not valid.", "errors": errors})]
    with pytest.raises(Refused) as caught:
        client.apply({"name": "flights"})
    said = str(caught.value)
    assert said.startswith("The pipeline is not valid. (network.kind: must be linear, mlp or dcn; features.0: unknown;")
    assert "and 3 more" in said
    assert said.endswith("[data: POST /v1/pipelines, 422]")
    assert (caught.value.status, caught.value.problem["errors"]) == (422, errors)


def test_an_answer_that_is_no_problem_still_makes_a_sentence(client: Client, server: Scripted) -> None:
    server.script = [Answer(502, b"<html>Bad gateway</html>")]
    with pytest.raises(Refused, match=r"Bad Gateway \[data: GET /v1/pipelines/flights, 502\]"):
        client.pipeline("flights")


def test_a_service_that_is_away_for_a_moment_is_asked_again(
    transport: Transport, server: Scripted, waits: list[float]
) -> None:
    server.script = [AWAY, AWAY, Answer(body={"ok": 1})]
    assert transport.call("data", "GET", "/v1/pipelines").json() == {"ok": 1}
    assert waits == [2.0, 2.0]


def test_a_service_that_stays_away_is_given_up(transport: Transport, server: Scripted, waits: list[float]) -> None:
    server.script = [Answer(503, {"detail": "The registry is away."}, {"Retry-After": "3600"})]
    with pytest.raises(Refused, match="The registry is away"):
        transport.call("data", "GET", "/v1/pipelines")
    assert len(server.asked) == ATTEMPTS
    assert max(waits) == MAX_WAIT_S


def test_what_might_happen_twice_is_not_tried_again(transport: Transport, server: Scripted) -> None:
    server.script = [AWAY]
    with pytest.raises(Refused):
        transport.call("serving", "POST", "/v1/models/flights/predict", json={})
    assert len(server.asked) == 1


def test_a_repeated_call_keeps_its_idempotency_key(transport: Transport, server: Scripted) -> None:
    server.script = [Answer(drop=True), AWAY, Answer(202, {})]
    transport.call("trainer", "POST", "/v1/pipelines/p/cycles", json={"as_of": None}, idempotency_key="k")
    assert [asked.headers["idempotency-key"] for asked in server.asked] == ["k"] * 3
    assert [asked.json for asked in server.asked] == [{"as_of": None}] * 3


def test_a_broken_answer_to_what_might_happen_twice_is_an_error(transport: Transport, server: Scripted) -> None:
    server.script = [Answer(drop=True)]
    with pytest.raises(Unreachable, match="did not answer"):
        transport.call("serving", "POST", "/v1/models/flights/predict", json={})
    assert len(server.asked) == 1


def test_other_errors_are_never_tried_again(transport: Transport, server: Scripted) -> None:
    server.script = [Answer(500, {"detail": "Something went wrong."})]
    with pytest.raises(Refused):
        transport.call("data", "GET", "/v1/pipelines")
    assert len(server.asked) == 1


def test_no_service_at_all_is_said_with_the_cure(waits: list[float]) -> None:
    # Port 1 of the loopback: nothing listens there, and nobody may without privileges.
    nowhere = Addresses(**dict.fromkeys(SERVICES, "http://127.0.0.1:1"), key="k")
    with Transport(nowhere, sleep=waits.append) as transport, pytest.raises(CallFailed, match="Is the stack running"):
        transport.call("serving", "POST", "/v1/models/flights/predict", json={})
    assert len(waits) == ATTEMPTS - 1, "a connection that was refused carried nothing, so any call may be tried again"


def test_what_waits_in_the_prediction_log_is_read_from_the_metrics(client: Client, server: Scripted) -> None:
    text = b"# HELP relevo_serving_spool_bytes x\n# TYPE relevo_serving_spool_bytes gauge\nrelevo_serving_spool_bytes 1.5e+03\n"
    server.script = [Answer(body=text)]
    assert client.log_waiting_bytes() == 1500
    assert server.asked[0].path == "/metrics"
