"""Keeps secrets out of the logs, whoever logs them: by the name of a field, and by what a secret looks like in text."""

import re
from collections.abc import Mapping, MutableMapping
from typing import Any

HIDDEN = "[redacted]"

_SECRET_NAME = re.compile(
    r"(^|[_-])(authorization|cookie|password|passwd|pwd|secret|token|credentials?|(api|service|admin|access)[_-]?key)s?$",
    re.IGNORECASE,
)
_PATTERNS = (
    # An API key keeps its public part, which tells whose key it was.
    (re.compile(r"\b(rlv_[A-Za-z0-9]+_)[A-Za-z0-9_-]+"), rf"\g<1>{HIDDEN}"),
    (re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE), rf"\g<1> {HIDDEN}"),
    (re.compile(r"\b([a-z][a-z0-9+.-]*://[^:/?#@\s\"']*):[^@/?#\s\"']+@", re.IGNORECASE), rf"\g<1>:{HIDDEN}@"),
    (
        re.compile(r"\b((?:password|secret_access_key|session_token)\s*[=:]\s*)[^\s,;&\"']+", re.IGNORECASE),
        rf"\g<1>{HIDDEN}",
    ),
)
_MAX_DEPTH = 6


def redact_text(text: str) -> str:
    """The text with API keys, bearer tokens and passwords in URLs and connection strings replaced."""
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def redact(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor: redacts every value of the event, nested ones too."""
    for name, value in event.items():
        event[name] = HIDDEN if _SECRET_NAME.search(name) else _redact_value(value, _MAX_DEPTH)
    return event


def _redact_value(value: object, depth: int) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return redact_text(value)
    if depth == 0:
        return HIDDEN
    if isinstance(value, Mapping):
        return {
            name: HIDDEN if _SECRET_NAME.search(str(name)) else _redact_value(inner, depth - 1)
            for name, inner in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [_redact_value(inner, depth - 1) for inner in value]
    return redact_text(str(value))
