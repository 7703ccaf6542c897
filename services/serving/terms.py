"""On which terms a request is answered: how urgent it is, how long its answer is of use, and how often its key may ask."""

from collections.abc import Mapping
from math import ceil

from services.serving.admission import Priority
from services.serving.config import MOST_TIMEOUT_MS, ServingSettings
from services.serving.errors import KeyTooFast
from shared.contracts.scopes import Scope
from shared.errors import FieldError, Invalid
from shared.keys import Principal

PRIORITY, TIMEOUT = b"x-relevo-priority", b"x-relevo-timeout-ms"
PRIORITIES = {b"high": Priority.HIGH, b"normal": Priority.NORMAL, b"low": Priority.LOW}
MOST_KEYS = 10_000

Urgency = tuple[Priority, float]
"""Priority and deadline, as `Terms.of` gives them."""


class Terms:
    """What headers and settings say. Its methods belong to one event loop."""

    def __init__(self, settings: ServingSettings) -> None:
        self._timeout_s = settings.timeout_ms / 1000
        self._rates = KeyRates(settings.key_rate, settings.key_burst) if settings.key_rate else None

    def of(self, headers: Mapping[bytes, bytes], caller: Principal, began_s: float) -> Urgency:
        """Priority and deadline of a request.

        Args:
            headers: by lower-case name.
            began_s: when it was received, by the clock that the deadline is of.

        Raises:
            Invalid: a header makes no sense.
            Forbidden: high priority without the scope for it.
            KeyTooFast: the key asks more often than it may.
        """
        priority, timeout_s = Priority.NORMAL, self._timeout_s
        if (given := headers.get(TIMEOUT)) is not None:
            timeout_s = _timeout_s(given)
        if (given := headers.get(PRIORITY)) is not None:
            priority = _priority(given)
            if priority is Priority.HIGH:
                caller.require(Scope.PREDICT_PRIORITY)
        if self._rates is not None and (wait_s := self._rates.take(caller.key_id, began_s)):
            raise KeyTooFast(ceil(wait_s))
        return priority, began_s + timeout_s

    def undo(self, caller: Principal) -> None:
        """The last request of this caller is asked about again: it counts once."""
        if self._rates is not None:
            self._rates.give_back(caller.key_id)


class KeyRates:
    """A token bucket for each key, as the generic cell rate algorithm has it (ITU-T I.371): one number, when it is full again."""

    def __init__(self, per_s: float, burst: int) -> None:
        self._each_s = 1 / per_s
        self._ahead_s = (burst - 1) / per_s
        self._full_at_s: dict[str, float] = {}

    def take(self, key_id: str, now_s: float) -> float:
        """Take a token: 0; or seconds until there is one."""
        full_at_s = max(self._full_at_s.get(key_id, now_s), now_s)
        if full_at_s - now_s > self._ahead_s:
            return full_at_s - now_s - self._ahead_s
        if len(self._full_at_s) >= MOST_KEYS:  # keys that are full need no number
            self._full_at_s = {key: at_s for key, at_s in self._full_at_s.items() if at_s > now_s}
        self._full_at_s[key_id] = full_at_s + self._each_s
        return 0.0

    def give_back(self, key_id: str) -> None:
        """Undo a `take` that gave 0."""
        self._full_at_s[key_id] -= self._each_s


def _timeout_s(given: bytes) -> float:
    if given.isdigit() and len(given) < 10 and 1 <= (timeout_ms := int(given)) <= MOST_TIMEOUT_MS:
        return timeout_ms / 1000
    raise _wrong("X-Relevo-Timeout-Ms", f"must be a whole number of milliseconds from 1 to {MOST_TIMEOUT_MS}")


def _priority(given: bytes) -> Priority:
    found = PRIORITIES.get(given)
    if found is None:
        raise _wrong("X-Relevo-Priority", "must be high, normal or low")
    return found


def _wrong(header: str, what: str) -> Invalid:
    error: FieldError = {"loc": ["header", header], "msg": what}
    return Invalid(f"The header {header} {what}.", errors=[error])
