"""One HTTP call to a service: the key, JSON in and out, problems as one readable sentence, bounded retries where safe."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx
import orjson

from cli.addresses import Addresses

ATTEMPTS = 6
"""Tries of one call, the first included."""
BACKOFF_S = 0.2
"""Wait before the second try; doubled for each further one, up to `MAX_WAIT_S`."""
MAX_WAIT_S = 5.0
SHOWN_ERRORS = 5
"""Field errors of a problem that its sentence names; the rest are counted."""


class CallFailed(Exception):
    """A call to a service did not succeed; the message is a sentence for a person.

    CallFailed
    ├── Refused       the service answered with an error
    └── Unreachable   the service gave no answer
    """


class Refused(CallFailed):
    """The service answered with an error: `status`, and `problem`, its problem+json ({} when there was none)."""

    def __init__(self, message: str, status: int, problem: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.status = status
        self.problem = problem


class Unreachable(CallFailed):
    """The service gave no answer."""


class Transport:
    """Calls the services at `addresses`. Close it, or use it as a context manager."""

    def __init__(
        self, addresses: Addresses, *, timeout_s: float = 60, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._addresses = addresses
        self._sleep = sleep
        self._http = httpx.Client(
            headers={"Authorization": f"Bearer {addresses.key}"},
            timeout=httpx.Timeout(timeout_s, connect=5),
            # Below the servers' own five seconds, so that no call goes out on a connection that is just being closed.
            limits=httpx.Limits(keepalive_expiry=3),
            trust_env=False,
        )

    def __enter__(self) -> "Transport":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def call(
        self,
        service: str,
        method: str,
        path: str,
        *,
        json: Any = None,
        content: bytes | None = None,
        content_type: str = "application/json",
        query: Mapping[str, object] | None = None,
        idempotency_key: str | None = None,
        repeatable: bool = False,
    ) -> httpx.Response:
        """Make one call and return its answer, which is a success.

        A call whose connection could not be opened is tried again. So is one that broke off or met 503, when doing it
        twice does no harm: GET, PUT, DELETE, a call with an idempotency key, or one that the caller calls `repeatable`.

        Raises:
            Refused: the service answered with an error.
            Unreachable: it gave no answer.
        """
        body = orjson.dumps(json) if json is not None else content
        headers = {} if body is None else {"Content-Type": content_type}
        if idempotency_key:
            headers["Idempotency-Key"] = idempotency_key
        harmless = repeatable or idempotency_key is not None or method in ("GET", "PUT", "DELETE")
        parameters = {name: _text(value) for name, value in (query or {}).items() if value is not None}
        request = self._http.build_request(
            method, self._addresses.of(service) + path, content=body, headers=headers, params=parameters
        )
        for attempt in range(1, ATTEMPTS + 1):
            wait_s = min(BACKOFF_S * 2 ** (attempt - 1), MAX_WAIT_S)
            last = attempt == ATTEMPTS
            try:
                response = self._http.send(request)
            except httpx.TransportError as error:
                never_sent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
                if last or not (harmless or never_sent):
                    raise Unreachable(_silence(service, self._addresses.of(service), error)) from error
            else:
                if response.is_success:
                    return response
                retry_after_s = _retry_after_s(response)
                if last or not harmless or retry_after_s is None:
                    raise Refused(_sentence(service, method, path, response), response.status_code, _problem(response))
                wait_s = max(wait_s, min(retry_after_s, MAX_WAIT_S))
            self._sleep(wait_s)
        raise AssertionError("the last try returns or raises")


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _retry_after_s(response: httpx.Response) -> float | None:
    """Seconds that a 503 asks to wait; None when the answer is not one to try again."""
    if response.status_code != 503:
        return None
    try:
        return max(0.0, float(response.headers["Retry-After"]))
    except (KeyError, ValueError):
        return None


def _problem(response: httpx.Response) -> dict[str, Any]:
    try:
        problem = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        return {}
    return problem if isinstance(problem, dict) else {}


def _sentence(service: str, method: str, path: str, response: httpx.Response) -> str:
    """What went wrong, in one sentence with the wrong fields after it."""
    problem = _problem(response)
    detail = str(problem.get("detail") or problem.get("title") or response.reason_phrase or "no reason given")
    fields = [
        f"{'.'.join(str(part) for part in error.get('loc', ()) if part != 'body')}: {error.get('msg', '')}"
        for error in problem.get("errors") or ()
        if isinstance(error, dict)
    ]
    fields = [field for field in fields if field not in detail]
    if len(fields) > SHOWN_ERRORS:
        fields = [*fields[:SHOWN_ERRORS], f"and {len(fields) - SHOWN_ERRORS} more"]
    said = detail + (f" ({'; '.join(fields)})" if fields else "")
    return f"{said} [{service}: {method} {path}, {response.status_code}]"


def _silence(service: str, address: str, error: httpx.TransportError) -> str:
    what = "cannot be reached" if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout) else "did not answer"
    return f"The {service} service at {address} {what} ({type(error).__name__}). Is the stack running? `relevo status` tells."
