"""One line of JSON (or coloured text) for each log record, from structlog and the standard library alike, to stderr.

log = structlog.stdlib.get_logger(__name__)
log.info("dataset built", pipeline=name, rows=rows)
"""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import orjson
import structlog
from structlog.types import Processor

from shared.observability.context import request_id
from shared.observability.redact import redact

# Libraries that install handlers of their own, or that say at INFO what belongs to DEBUG.
_TAKEN_OVER = ("uvicorn", "uvicorn.error", "uvicorn.access", "celery", "celery.task", "kombu", "sqlalchemy", "alembic")
_QUIET = ("httpx", "httpcore", "asyncio", "celery.redirected", "onnx_ir", "onnxscript", "tracing")


def configure_logging(level: str, format: str, service: str) -> None:  # noqa: A002 - the setting's own name
    """Send all logs of this process to stderr, each line with time (UTC, ISO 8601), level, service and request id.

    May be called again: the last call counts.

    Args:
        level: DEBUG, INFO, WARNING or ERROR.
        format: "json" or "console".
        service: the name each line carries, such as "serving" or "trainer-worker".
    """
    before: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _add_request_id,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _Service(service),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *before,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = _Stderr()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=before,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.StackInfoRenderer(),
                structlog.processors.format_exc_info,
                redact,
                _renderer(format),
            ],
        )
    )
    root = logging.getLogger()
    for old in root.handlers[:]:
        if type(old) in (_Stderr, logging.StreamHandler):  # an earlier call's or basicConfig's; all else stays
            root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    for name in _TAKEN_OVER:
        logger = logging.getLogger(name)
        # One without a handler was silenced on purpose (uvicorn --no-access-log) or never had any.
        if logger.handlers:
            logger.handlers.clear()
            logger.propagate = True
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    logging.captureWarnings(True)


class _Stderr(logging.StreamHandler):
    """Writes to what `sys.stderr` is at that moment, which may have been replaced since the set-up."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        return sys.stderr


class _Service:
    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, _logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event.setdefault("service", self._name)
        return event


def _add_request_id(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    current = request_id.get()
    if current:
        event.setdefault("request_id", current)
    return event


def _renderer(format: str) -> Processor:  # noqa: A002
    if format == "console":
        return structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    return structlog.processors.JSONRenderer(serializer=_to_json)


_JSON_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY


def _to_json(event: MutableMapping[str, Any], **_ignored: object) -> str:
    try:
        return orjson.dumps(event, default=str, option=_JSON_OPTIONS).decode()
    except TypeError:
        # Integers past 64 bits, lone surrogates: what orjson refuses must not cost the line.
        return orjson.dumps({name: _plain(value) for name, value in event.items()}).decode()


def _plain(value: object) -> object:
    try:
        return orjson.Fragment(orjson.dumps(value, default=str, option=_JSON_OPTIONS))
    except TypeError:
        return ascii(value)
