"""What is counted of the requests to a raw route: into the metrics that the instrumentation of all other routes makes."""

from typing import Any

from prometheus_client import REGISTRY

from shared.observability.tally import CountTally, HistogramTally, SummaryTally, Tallies

_TALLIES = Tallies()  # made before the metrics it moves into, which come with the app


class Meter:
    """Tallies of one method, status and route."""

    def __init__(self, method: str, status: int, handler: str) -> None:
        self._requests = _tally(CountTally, "http_requests_total", method=method, status=str(status), handler=handler)
        self._received = _tally(SummaryTally, "http_request_size_bytes", handler=handler)
        self._sent = _tally(SummaryTally, "http_response_size_bytes", handler=handler)
        self._seconds = _tally(HistogramTally, "http_request_duration_seconds", method=method, handler=handler)
        self._seconds_of_all = _tally(HistogramTally, "http_request_duration_highr_seconds")

    def count(self, seconds: float, received_bytes: int, sent_bytes: int) -> None:
        """Count one answered request."""
        received, sent = self._received, self._sent
        self._requests.value += 1
        received.count += 1
        received.total += received_bytes
        sent.count += 1
        sent.total += sent_bytes
        self._seconds.observe(seconds)
        self._seconds_of_all.observe(seconds)


def _tally(kind: Any, name: str, **labels: str) -> Any:
    def make() -> Any:
        metric: Any = REGISTRY._names_to_collectors[name]
        return kind(metric.labels(**labels) if labels else metric)

    return _TALLIES.get((name, *labels.values()), make)
