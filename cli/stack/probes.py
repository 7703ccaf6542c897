"""Asking a part over HTTP whether it is ready."""

import asyncio
from collections.abc import Awaitable, Callable

import httpx

NotReady = Callable[[], Awaitable[str | None]]
"""Asks once: None means ready, a text says why not. It raises nothing and answers within seconds."""

TIMEOUT_S = 5.0


def http(url: str) -> NotReady:
    """Ready when GET `url` answers 200."""
    # Making a client is what costs (it reads certificates); no connection is kept, so none outlives the part.
    limits = httpx.Limits(max_keepalive_connections=0)
    client = httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False, limits=limits)

    async def ask() -> str | None:
        try:
            async with asyncio.timeout(2 * TIMEOUT_S):
                answer = await client.get(url)
        except httpx.ConnectError:
            return "does not listen yet"
        except (httpx.HTTPError, TimeoutError) as error:
            return f"no answer: {type(error).__name__}"
        if answer.status_code == 200:
            return None
        return f"answers {answer.status_code}: {answer.text[:300]}"

    return ask
