"""The task behind `validator.deliver_alert`: post one alert to the operator's webhook, once it is due.

Attempts are counted in the row before they are made; a failed one is nudged again later (`housekeeping.py`).
"""

import uuid
from typing import Any

import httpx
import structlog

from services.validator import repository
from shared.registry.session import Sessions
from shared.registry.tables import Alert

log = structlog.get_logger(__name__)

TIMEOUT = httpx.Timeout(5, connect=3)
"""A receiver that dawdles must not keep the worker from judging."""


class Webhook:
    """Posts JSON to one address. Redirects are not followed: the operator named this address and no other."""

    def __init__(self, url: str, *, transport: httpx.BaseTransport | None = None) -> None:
        self._url = url
        self._http = httpx.Client(timeout=TIMEOUT, follow_redirects=False, trust_env=False, transport=transport)

    def close(self) -> None:
        self._http.close()

    def post(self, body: dict[str, Any], delivery: str) -> str | None:
        """Send it.

        Args:
            delivery: names the alert in the header `Relevo-Delivery`, the same at each attempt, so a receiver can tell repeats.

        Returns:
            What went wrong, without the address (it may hold a token); None when the receiver answered 2xx.
        """
        try:
            answer = self._http.post(self._url, json=body, headers={"Relevo-Delivery": delivery})
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return type(error).__name__
        return None if answer.is_success else f"status {answer.status_code}"


def deliver(sessions: Sessions, webhook: Webhook | None, alert_id: uuid.UUID) -> None:
    """Deliver the alert if it is due and a webhook is configured."""
    if webhook is None:
        return
    with sessions.begin() as session:
        claimed = repository.claim_delivery(session, alert_id)
    if claimed is None:
        return
    alert, pipeline = claimed
    failure = webhook.post(_body(alert, pipeline), str(alert.id))
    if failure is not None:
        log.warning("alert was not delivered", alert=str(alert.id), attempt=alert.webhook_attempts, reason=failure)
        return
    with sessions.begin() as session:
        repository.mark_delivered(session, alert.id)


def _body(alert: Alert, pipeline: str) -> dict[str, Any]:
    return {
        "id": str(alert.id),
        "pipeline": pipeline,
        "kind": alert.kind,
        "severity": alert.severity,
        "message": alert.message,
        "detail": alert.detail,
        "created_at": alert.created_at.isoformat(),
    }
