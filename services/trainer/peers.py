"""The other services as the trainer asks them: a dataset of the data service, a verdict of the validator."""

import uuid
from datetime import datetime
from typing import Any

import httpx

from shared.errors import Conflict, Unavailable
from shared.observability.context import request_id

TRY_LATER = frozenset({401, 403, 408, 425, 429})
"""A wrong service key is the operator's to mend: the cycle waits for that, as for a service that is away."""


class Refused(Conflict):
    """The other service understood the request and will never carry it out."""


class Peer:
    """One service, called with the services' own API key. Made once a process; safe to share among threads."""

    def __init__(
        self, name: str, url: str, key: str, *, timeout_s: float, transport: httpx.BaseTransport | None = None
    ) -> None:
        self.name = name
        self._http = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"},
            timeout=httpx.Timeout(timeout_s, connect=3),
            follow_redirects=False,
            trust_env=False,  # the services' key never leaves through a proxy
            transport=transport,
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def post(self, path: str, body: dict[str, Any], *, idempotency_key: str) -> uuid.UUID:
        """Ask for work once, however often this is called.

        Returns:
            The id of the row that stands for the work.

        Raises:
            Refused: the service will not do it; the detail is its own.
            Unavailable: it cannot be reached or asked now; call again.
        """
        headers = {"Idempotency-Key": idempotency_key}
        if request_id.get():
            headers["X-Request-ID"] = request_id.get()
        try:
            answer = self._http.post(path, json=body, headers=headers)
        except httpx.HTTPError as error:
            raise Unavailable(f"The {self.name} service cannot be reached ({type(error).__name__}).") from error
        if answer.is_client_error and answer.status_code not in TRY_LATER:
            raise Refused(f"The {self.name} service refused: {_detail(answer)}")
        if not answer.is_success:
            raise Unavailable(f"The {self.name} service answered {answer.status_code}: {_detail(answer)}")
        try:
            return uuid.UUID(str(answer.json()["id"]))
        except (ValueError, KeyError, TypeError) as error:
            raise Unavailable(f"The {self.name} service answered without the id of a row.") from error


class Peers:
    """The two services a cycle needs."""

    def __init__(self, data: Peer, validator: Peer) -> None:
        self.data, self.validator = data, validator

    def request_dataset(self, pipeline: str, cycle_id: uuid.UUID, as_of: datetime) -> uuid.UUID:
        """The id of the cycle's dataset."""
        body = {"as_of": as_of.isoformat(), "cycle": str(cycle_id)}
        return self.data.post(f"/v1/pipelines/{pipeline}/datasets", body, idempotency_key=f"cycle-{cycle_id}-dataset")

    def request_validation(self, pipeline: str, cycle_id: uuid.UUID, candidate: int) -> uuid.UUID:
        """The id of the cycle's validation."""
        body = {"candidate": candidate, "cycle": str(cycle_id)}
        return self.validator.post(
            f"/v1/pipelines/{pipeline}/validations", body, idempotency_key=f"cycle-{cycle_id}-validation"
        )

    def close(self) -> None:
        """Close the connections to both."""
        self.data.close()
        self.validator.close()


def _detail(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["detail"])[:1000]
    except (ValueError, KeyError, TypeError):
        return f"status {answer.status_code} without a reason"
