"""/metrics, /healthz and /readyz for processes without a web server of their own: workers and the background process."""

import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import orjson
import structlog
from prometheus_client import REGISTRY
from prometheus_client.exposition import choose_encoder

from shared.errors import RelevoError

Check = Callable[[], None]
"""One dependency: returns when it is well, raises when it is not. It must bound its own time."""

log = structlog.stdlib.get_logger(__name__)


def start_worker_http(port: int, checks: Mapping[str, Check], *, host: str = "127.0.0.1") -> "WorkerHttp | None":
    """Answer on `host`:`port` from a daemon thread; port 0 means off.

    Raises:
        OSError: the port is taken; the message names it and the setting.
    """
    if port == 0:
        return None
    try:
        server = WorkerHttp(host, port, checks)
    except OSError as error:
        raise OSError(
            error.errno, f"cannot answer on {host}:{port} ({error.strerror}); set RELEVO_METRICS_PORT to a free port"
        ) from error
    server.start()
    return server


class WorkerHttp:
    """The server. Bound when made, answering after `start`."""

    def __init__(self, host: str, port: int, checks: Mapping[str, Check]) -> None:
        self._server = _Server((host, port), _Handler)
        self._server.checks = dict(checks)
        self._thread = threading.Thread(target=self._server.serve_forever, name="worker-http", daemon=True)

    @property
    def port(self) -> int:
        """The port it is bound to."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop answering and free the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def run_checks(checks: Mapping[str, Check]) -> tuple[bool, dict[str, dict[str, object]]]:
    """Whether every check passes, and for each by name `{"ok", "ms", "detail"?}`."""
    results: dict[str, dict[str, object]] = {}
    for name, check in checks.items():
        began = time.monotonic()
        result: dict[str, object] = {"ok": True}
        try:
            check()
        except RelevoError as error:
            result = {"ok": False, "detail": error.detail}
        except Exception as error:  # noqa: BLE001 - whatever a driver raises, the check failed
            # Drivers put addresses and user names into their messages: those go to the log alone.
            log.debug("readiness check failed", check=name, error=str(error))
            result = {"ok": False, "detail": type(error).__name__}
        results[name] = {**result, "ms": round((time.monotonic() - began) * 1000, 1)}
    return all(result["ok"] for result in results.values()), results


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    checks: dict[str, Check]
    ready = True

    def look(self) -> tuple[bool, dict[str, dict[str, object]]]:
        """Run the checks; a change is logged once, not at every probe."""
        ready, results = run_checks(self.checks)
        if ready != self.ready:
            self.ready = ready
            log.info("ready again") if ready else log.warning("not ready", checks=results)
        return ready, results

    def handle_error(self, request: object, client_address: object) -> None:
        # A prober that hangs up in the middle is no event.
        log.debug("health request broke off", client=str(client_address))


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 10  # seconds a client may keep silent
    server_version = "relevo"
    sys_version = ""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/healthz":
            self._json(HTTPStatus.OK, {"status": "ok"})
        elif path == "/readyz":
            ready, checks = self.server.look()
            status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
            self._json(status, {"status": "ready" if ready else "unavailable", "checks": checks})
        elif path == "/metrics":
            encode, content_type = choose_encoder(self.headers.get("Accept", ""))
            self._answer(HTTPStatus.OK, content_type, encode(REGISTRY))
        else:
            self._json(HTTPStatus.NOT_FOUND, {"title": "Not found", "status": 404})

    def _json(self, status: HTTPStatus, body: object) -> None:
        self._answer(status, "application/json", orjson.dumps(body))

    def _answer(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Probes come every few seconds: not worth a line."""
