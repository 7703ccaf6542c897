"""Asking a part over HTTP whether it is ready."""

import asyncio
from collections.abc import Awaitable, Callable

import httpx

NotReady = Callable[[], Awaitable[str | None]]
"""Asks once: None means ready, a text says why not. It raises nothing and answers within seconds."""

TIMEOUT_S = 5.0


def http(url: str) -> NotReady:
    """Ready when GET `url` answers 200."""

    async def ask() -> str | None:
        try:
            async with asyncio.timeout(2 * TIMEOUT_S), httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False) as client:
                answer = await client.get(url)
        except httpx.ConnectError:
            return "does not listen yet"
        except (httpx.HTTPError, TimeoutError) as error:
            return f"no answer: {type(error).__name__}"
        if answer.status_code == 200:
            return None
        return f"answers {answer.status_code}: {answer.text[:300]}"

    return ask
