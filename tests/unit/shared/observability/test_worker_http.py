"""The health endpoint of processes without a web server."""

import threading
from collections.abc import Iterator

import httpx
import psycopg
import pytest

from shared.errors import Unavailable
from shared.observability.metrics import JOBS, set_build_info
from shared.observability.worker_http import Check, WorkerHttp, start_worker_http


def away() -> None:
    raise Unavailable("the queue is away")


def leaky() -> None:
    raise psycopg.OperationalError("connection to 10.0.0.7 failed for user relevo")


@pytest.fixture
def checks() -> dict[str, Check]:
    return {"redis": lambda: None, "postgres": lambda: None}


@pytest.fixture
def client(checks: dict[str, Check]) -> Iterator[httpx.Client]:
    server = WorkerHttp("127.0.0.1", 0, checks)
    server.start()
    with httpx.Client(base_url=f"http://127.0.0.1:{server.port}") as http:
        yield http
    server.close()


def test_alive(client: httpx.Client) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}


def test_ready_names_each_dependency(client: httpx.Client) -> None:
    answer = client.get("/readyz")
    assert answer.status_code == 200
    assert answer.json()["status"] == "ready"
    assert {name: check["ok"] for name, check in answer.json()["checks"].items()} == {"redis": True, "postgres": True}


def test_not_ready_says_which_and_leaks_nothing(client: httpx.Client, checks: dict[str, Check]) -> None:
    broken = WorkerHttp("127.0.0.1", 0, {**checks, "redis": away, "postgres": leaky})
    broken.start()
    answer = httpx.get(f"http://127.0.0.1:{broken.port}/readyz?verbose")
    broken.close()
    assert answer.status_code == 503
    assert answer.json()["status"] == "unavailable"
    assert answer.json()["checks"]["redis"]["detail"] == "the queue is away"
    assert answer.json()["checks"]["postgres"]["detail"] == "OperationalError"


def test_metrics_in_both_formats(client: httpx.Client) -> None:
    set_build_info("test")
    JOBS.labels(kind="run", outcome="succeeded").inc()
    text = client.get("/metrics").text
    assert 'relevo_build_info{python="' in text
    assert 'relevo_jobs_total{kind="run",outcome="succeeded"}' in text
    open_metrics = client.get("/metrics", headers={"Accept": "application/openmetrics-text"})
    assert open_metrics.text.endswith("# EOF\n")


def test_nothing_else_is_there(client: httpx.Client) -> None:
    assert client.get("/").status_code == 404
    assert client.post("/healthz").status_code == 501


def test_a_silent_client_does_not_hold_up_others(client: httpx.Client, checks: dict[str, Check]) -> None:
    entered, leave = threading.Event(), threading.Event()

    def slow() -> None:
        entered.set()
        leave.wait(60)

    server = WorkerHttp("127.0.0.1", 0, {"slow": slow})
    server.start()
    address = f"http://127.0.0.1:{server.port}"
    waiting = threading.Thread(target=lambda: httpx.get(f"{address}/readyz", timeout=90))
    waiting.start()
    assert entered.wait(60)
    assert httpx.get(f"{address}/healthz", timeout=60).status_code == 200
    leave.set()
    waiting.join()
    server.close()


def test_port_0_is_off_and_a_taken_port_is_named() -> None:
    assert start_worker_http(0, {}) is None
    taken = WorkerHttp("127.0.0.1", 0, {})
    with pytest.raises(OSError, match="RELEVO_METRICS_PORT"):
        start_worker_http(taken.port, {})
    taken._server.server_close()
