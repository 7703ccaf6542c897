"""Serving's admin API as the validator uses it: promote a version, by compare-and-set."""

import uuid
from datetime import datetime

import httpx

from shared.errors import Conflict, Unavailable
from shared.observability.context import request_id

TIMEOUT = httpx.Timeout(60, connect=3)
"""A promotion waits until serving has loaded and warmed the version, which may take some seconds."""
NOT_LOADABLE = "urn:relevo:problem:not-loadable"
TRY_LATER = frozenset({401, 403, 408, 425, 429})
"""A wrong service key is the operator's to mend: the release waits for that, like for a server that is away."""


class NotLoadable(Conflict):
    """Serving cannot load the version: its artifact is missing, damaged, or no model that fits."""


class ServingClient:
    """Calls one serving service with the services' own API key. Made once a process; safe to share among threads."""

    def __init__(self, url: str, key: str, *, transport: httpx.BaseTransport | None = None) -> None:
        self._http = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"},
            timeout=TIMEOUT,
            follow_redirects=False,
            trust_env=False,  # the key is for serving alone, whatever proxy the environment names
            transport=transport,
        )

    def close(self) -> None:
        self._http.close()

    def promote(
        self,
        pipeline: str,
        version: int,
        *,
        expected_generation: int,
        validation_id: uuid.UUID,
        reason: str,
        effective_at: datetime | None,
    ) -> int:
        """Put a version into production if the deployment still has the generation expected (0: nothing deployed).

        The generation makes the call repeatable: one whose answer was lost is answered again and changes nothing.

        Args:
            effective_at: in a replay, the simulated moment of the release.

        Returns:
            The new generation.

        Raises:
            NotLoadable: serving cannot load the version; asking again is no use.
            Conflict: serving refuses it: another generation, or a version it cannot take; the detail is serving's own.
            Unavailable: serving cannot be reached or asked now; the same call may be made again.
        """
        headers = {"X-Request-ID": request_id.get()} if request_id.get() else {}
        body = {
            "version": version,
            "expected_generation": expected_generation,
            "validation": str(validation_id),
            "reason": reason,
            "effective_at": effective_at.isoformat() if effective_at else None,
        }
        try:
            answer = self._http.post(f"/admin/models/{pipeline}/promote", json=body, headers=headers)
        except httpx.HTTPError as error:
            raise Unavailable(
                f"Serving cannot be reached ({type(error).__name__}); the release is tried again."
            ) from error
        if answer.is_success:
            return _generation(answer)
        if answer.is_server_error or answer.status_code in TRY_LATER or not answer.is_client_error:
            raise Unavailable(f"Serving answered {answer.status_code}; the release is tried again. {_detail(answer)}")
        refusal = NotLoadable if _field(answer, "type") == NOT_LOADABLE else Conflict
        raise refusal(_detail(answer) or f"Serving answered {answer.status_code}.")


def _generation(answer: httpx.Response) -> int:
    try:
        return int(answer.json()["generation"])
    except (ValueError, KeyError, TypeError) as error:
        raise Unavailable(
            "Serving's answer to a promotion names no generation; it is read from the registry."
        ) from error


def _detail(answer: httpx.Response) -> str:
    return _field(answer, "detail")[:1000]


def _field(answer: httpx.Response, name: str) -> str:
    try:
        return str(answer.json()[name])
    except (ValueError, KeyError, TypeError):
        return ""
