"""Delivering alerts to a webhook that fails, redirects and recovers; a real HTTP server receives them."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import orjson
import pytest
from sqlalchemy import select, text
from sqlmodel import col

from services.validator import repository
from services.validator.config import ValidatorSettings
from services.validator.housekeeping import Housekeeper
from services.validator.validate import validate
from services.validator.webhook import Webhook, deliver
from shared.contracts.tasks import TaskName
from shared.registry.tables import Alert, OutboxMessage
from tests.integration.validator.world import World


class Receiver(BaseHTTPRequestHandler):
    """Answers with the statuses given, then with 200; keeps what it received."""

    statuses: list[int]
    received: list[tuple[str, dict[str, object]]]

    def do_POST(self) -> None:
        body = orjson.loads(self.rfile.read(int(self.headers["content-length"])))
        self.received.append((self.headers["relevo-delivery"], body))
        status = self.statuses.pop(0) if self.statuses else 200
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[tuple[type[Receiver], str]]:
    handler = type("Handler", (Receiver,), {"statuses": [], "received": []})
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield handler, f"http://127.0.0.1:{server.server_address[1]}/hook"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def alert(world: World, settings: ValidatorSettings) -> Alert:
    row = world.validation(world.version(weight=-1.0))
    configured = settings.model_copy(update={"webhook_url": "configured"})
    validate(world.sessions, world.store, configured, row)
    with world.sessions.begin() as session:
        (found,) = session.scalars(select(Alert))
    return found


def nudges(world: World, task: TaskName) -> int:
    with world.sessions.begin() as session:
        return len(session.scalars(select(OutboxMessage).where(col(OutboxMessage.task) == task)).all())


def make_due(world: World) -> None:
    with world.sessions.begin() as session:
        session.execute(text("update alerts set created_at = created_at - interval '5 minutes'"))


def test_delivered_once(world: World, alert: Alert, receiver: tuple[type[Receiver], str]) -> None:
    handler, url = receiver
    assert nudges(world, TaskName.DELIVER_ALERT) == 1
    webhook = Webhook(url)
    for _ in range(2):
        deliver(world.sessions, webhook, alert.id)
    webhook.close()
    ((delivery, body),) = handler.received
    assert delivery == body["id"] == str(alert.id)
    assert (body["pipeline"], body["kind"], body["severity"]) == ("flights", "candidate-insane", "critical")
    found: Alert = world.get(Alert, alert.id)
    assert found.delivered_at is not None
    assert found.webhook_attempts == 1


@pytest.mark.parametrize("status", [500, 302, 404])
def test_a_failed_attempt_is_counted_and_made_again_when_it_is_due(
    world: World, alert: Alert, receiver: tuple[type[Receiver], str], status: int
) -> None:
    handler, url = receiver
    handler.statuses[:] = [status]
    webhook = Webhook(url)
    deliver(world.sessions, webhook, alert.id)
    deliver(world.sessions, webhook, alert.id)  # not due yet: nothing happens
    assert len(handler.received) == 1
    assert world.get(Alert, alert.id).delivered_at is None
    make_due(world)
    housekeeper = Housekeeper(world.sessions, every_s=60, webhook=True)
    housekeeper.look()
    housekeeper.look()
    assert nudges(world, TaskName.DELIVER_ALERT) == 2  # the alert's own, and one more
    deliver(world.sessions, webhook, alert.id)
    webhook.close()
    found: Alert = world.get(Alert, alert.id)
    assert (found.webhook_attempts, found.delivered_at is not None) == (2, True)


def test_given_up_after_some_attempts(world: World, alert: Alert) -> None:
    webhook = Webhook("http://127.0.0.1:1/hook")  # nobody listens on port 1
    with world.sessions.begin() as session:
        session.execute(text("update alerts set created_at = now() - interval '1 hour'"))
    for _ in range(repository.ALERT_ATTEMPTS + 2):
        deliver(world.sessions, webhook, alert.id)
    webhook.close()
    found: Alert = world.get(Alert, alert.id)
    assert (found.webhook_attempts, found.delivered_at) == (repository.ALERT_ATTEMPTS, None)


def test_an_old_alert_is_not_delivered_by_a_webhook_configured_today(
    world: World, alert: Alert, receiver: tuple[type[Receiver], str]
) -> None:
    handler, url = receiver
    with world.sessions.begin() as session:
        session.execute(text("update alerts set created_at = now() - interval '2 days'"))
        assert repository.due_alerts(session) == {}
    webhook = Webhook(url)
    deliver(world.sessions, webhook, alert.id)
    webhook.close()
    assert handler.received == []


def test_without_a_webhook_nothing_is_sent_or_nudged(world: World, settings: ValidatorSettings) -> None:
    validate(world.sessions, world.store, settings, world.validation(world.version(weight=-1.0)))
    assert nudges(world, TaskName.DELIVER_ALERT) == 0
    with world.sessions.begin() as session:
        (alert,) = session.scalars(select(Alert))
    deliver(world.sessions, None, alert.id)
    assert world.get(Alert, alert.id).webhook_attempts == 0
