"""/healthz: the process is alive. /readyz: each dependency by name, asked off the event loop and with a deadline.

The body has the form that workers answer with (`shared.observability.worker_http`), plus the dependencies a service can do without
for a while.
"""

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from shared.observability.worker_http import Check, run_checks

DEADLINE_S = 3.0

router = APIRouter(tags=["health"])


class Alive(BaseModel):
    """The process answers."""

    status: str = "ok"


class CheckResult(BaseModel):
    """How one dependency answered."""

    ok: bool
    ms: float
    detail: str | None = None


class Readiness(BaseModel):
    """Whether the service can do its work."""

    status: str
    """ready, degraded (works, without what `degraded` names) or unavailable."""
    checks: dict[str, CheckResult]
    degraded: list[str]


class ReadinessProbe:
    """Asks all dependencies at once. Callers at the same time share one look, so probing cannot pile up work."""

    def __init__(self, needed: Mapping[str, Check], helpful: Mapping[str, Check]) -> None:
        self._checks = {**needed, **helpful}
        self._needed = frozenset(needed)
        self._pool = ThreadPoolExecutor(max_workers=max(1, len(self._checks)), thread_name_prefix="readyz")
        self._asked: dict[str, asyncio.Future[CheckResult]] = {}
        self._look: asyncio.Task[Readiness] | None = None

    async def look(self) -> Readiness:
        """Ask, or join those who are asking."""
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(self._ask_all())
        return await asyncio.shield(self._look)

    async def ready(self) -> bool:
        """Whether all that is needed answers."""
        results = await asyncio.gather(*(self._ask(name) for name in self._needed))
        return all(result.ok for result in results)

    def close(self) -> None:
        """Let the threads end."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _ask_all(self) -> Readiness:
        results = await asyncio.gather(*(self._ask(name) for name in self._checks))
        checks = dict(zip(self._checks, results, strict=True))
        failed = [name for name, result in checks.items() if not result.ok]
        degraded = [name for name in failed if name not in self._needed]
        status = "unavailable" if len(degraded) < len(failed) else "degraded" if degraded else "ready"
        return Readiness(status=status, checks=checks, degraded=degraded)

    async def _ask(self, name: str) -> CheckResult:
        asked = self._asked.get(name)
        if asked is None or asked.done():  # one that still hangs is waited for, never doubled
            asked = asyncio.get_running_loop().run_in_executor(self._pool, _run, name, self._checks[name])
            self._asked[name] = asked
        done, _ = await asyncio.wait({asked}, timeout=DEADLINE_S)
        if not done:
            return CheckResult(ok=False, ms=DEADLINE_S * 1000, detail=f"no answer within {DEADLINE_S:g} s")
        return asked.result()


def _run(name: str, check: Check) -> CheckResult:
    _, results = run_checks({name: check})
    return CheckResult.model_validate(results[name])


@router.get("/healthz")
async def healthz() -> Alive:
    """The process is alive."""
    return Alive()


@router.get("/readyz", responses={503: {"model": Readiness}}, response_model_exclude_none=True)
async def readyz(request: Request, response: Response) -> Readiness:
    """Every dependency by name; 503 when one that is needed is away."""
    probe: ReadinessProbe = request.app.state.readiness
    report = await probe.look()
    if report.status == "unavailable":
        response.status_code = 503
    return report
