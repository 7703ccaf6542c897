"""All live API keys, kept at hand: read from Postgres by a thread every second, so that no request waits for the database.

When Postgres is away the ring goes on with what it last read. How old that may get depends on the scope: `MAX_AGE_S` for most, so
that a revoked key cannot administer anything for longer; the setting `RELEVO_KEYS_MAX_AGE_S` for predictions and feedback, which
must outlive an outage (docs/decisions/0004-deny-by-default.md).
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from sqlalchemy import func, select
from sqlmodel import col

from shared.contracts.scopes import OFFLINE, Scope
from shared.errors import Forbidden, Unauthenticated, Unavailable
from shared.keys import Principal, hash_of, parse, same_hash
from shared.registry.session import Sessions
from shared.registry.tables.access import ApiKey

log = structlog.stdlib.get_logger(__name__)

REFRESH_S = 1.0
"""Time between two reads: with the read itself, the bound on how long a revoked key still works."""
REFRESH_GAP_S = 0.1
"""Least time between two reads, however many unknown keys are tried."""
MOST_RECOGNISED = 10_000
MAX_AGE_S = 10.0
"""How old the ring may get for all scopes but those of `OFFLINE`."""


@dataclass(frozen=True, slots=True)
class StoredKey:
    """One key that is not revoked, as the database has it."""

    principal: Principal
    secret_hash: str
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class Reading:
    """All live keys, and the database's time when they were read."""

    at: datetime
    keys: Mapping[str, StoredKey]


Loader = Callable[[], Reading]


def read_from(sessions: Sessions) -> Loader:
    """A loader that reads the registry."""

    def load() -> Reading:
        with sessions.begin() as session:
            at = session.execute(select(func.now())).scalar_one()
            rows: Iterable[ApiKey] = session.execute(select(ApiKey).where(col(ApiKey.revoked_at).is_(None))).scalars()
            return Reading(at, {row.id: _stored(row) for row in rows})

    return load


def _stored(row: ApiKey) -> StoredKey:
    pipelines = None if row.pipelines is None else frozenset(row.pipelines)
    return StoredKey(Principal(row.id, row.name, frozenset(row.scopes), pipelines), row.secret_hash, row.expires_at)


class KeyRing:
    """The process's live keys. `start` and `stop` frame its life; `check` never blocks and never touches the database."""

    def __init__(self, load: Loader, *, offline_age_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._load = load
        self._offline_age_s = offline_age_s
        self._clock = clock
        self._reading: tuple[float, Reading] | None = None
        self._let_in: tuple[tuple[float, Reading] | None, dict[tuple[bytes, Scope], Principal]] = (None, {})
        self._lock = threading.Lock()
        self._pending: Future[None] = Future()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._failing = False

    def start(self) -> "Future[None]":
        """Read in the background, now and every `REFRESH_S`. The future is done when the first read succeeded or failed."""
        first = self._pending
        self._stopping.clear()
        self._wake.set()
        self._thread = threading.Thread(target=self._run, name="keyring", daemon=True)
        self._thread.start()
        return first

    def stop(self) -> None:
        """End the thread; a read in flight is waited for up to five seconds."""
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
            self._thread = None

    def refresh(self) -> None:
        """Read now, in this thread. Raises whatever the loader raises; the last reading stays."""
        began = self._clock()
        reading = self._load()
        self._reading = (began, reading)

    def resume(self, reading: Reading, age_s: float) -> None:
        """Take up what an earlier process read `age_s` seconds ago, until the next good read. Call it before `start`."""
        self._reading = (self._clock() - age_s, reading)

    def refreshed(self) -> "Future[None]":
        """Done after the next read that begins from now on (shared by all who ask; done at once when no thread reads)."""
        with self._lock:
            future = self._pending
        if self._thread is None:
            done: Future[None] = Future()
            done.set_result(None)
            return done
        self._wake.set()
        return future

    @property
    def age_s(self) -> float | None:
        """Seconds since the last good read; None before the first."""
        return None if self._reading is None else self._clock() - self._reading[0]

    def may_be_new(self, text: str) -> bool:
        """Whether this is a key text with an id that is not on the ring: perhaps made since the last read (see `refreshed`)."""
        key_id = parse(text)
        return key_id is not None and (self._reading is None or key_id not in self._reading[1].keys)

    def recognised(self, authorization: bytes, scope: Scope) -> Principal | None:
        """Who was let in with exactly this header for this scope since the last read of the keys; None: ask `check`.

        The fast way for who asks again and again: nothing is parsed or hashed.
        """
        reading = self._reading
        if reading is None or self._clock() - reading[0] > MAX_AGE_S:
            return None
        known_by, let_in = self._let_in
        return let_in.get((authorization, scope)) if known_by is reading else None

    def remember(self, authorization: bytes, scope: Scope, principal: Principal) -> None:
        """Let `recognised` know whom `check` has just let in; not kept when the key expires, or the keys were read again."""
        reading = self._reading
        stored = None if reading is None else reading[1].keys.get(principal.key_id)
        if stored is None or stored.principal is not principal or stored.expires_at is not None:
            return
        if self._let_in[0] is not reading or len(self._let_in[1]) >= MOST_RECOGNISED:
            self._let_in = (reading, {})
        self._let_in[1][(authorization, scope)] = principal

    def check(self, text: str, scope: Scope) -> Principal:
        """Who holds this key, if it is good for the scope.

        Raises:
            Unauthenticated: not a key, or one that is unknown, revoked, expired or forged.
            Forbidden: a good key without the scope.
            Unavailable: the ring is too old to trust for this scope.
        """
        key_id = parse(text)
        if key_id is None:
            raise Unauthenticated("The API key does not look like one: rlv_<id>_<secret>.")
        if self._reading is None:
            raise Unavailable("API keys cannot be checked yet: the registry has not answered so far.")
        read_at, reading = self._reading
        age_s = self._clock() - read_at
        if age_s > (self._offline_age_s if scope in OFFLINE else MAX_AGE_S):
            raise Unavailable("API keys cannot be checked: the registry has not answered for too long.")
        stored = reading.keys.get(key_id)
        if stored is None or not same_hash(stored.secret_hash, hash_of(text)):
            raise Unauthenticated("The API key is unknown or was revoked.")
        if stored.expires_at is not None and stored.expires_at <= reading.at + timedelta(seconds=age_s):
            raise Unauthenticated("The API key has expired.")
        if not stored.principal.allows(scope):
            raise Forbidden(f"This needs an API key with the scope `{scope}`.")
        return stored.principal

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.wait(REFRESH_S)
            self._wake.clear()
            with self._lock:
                waiting, self._pending = self._pending, Future()
            if not self._stopping.is_set():
                self._refresh_quietly()
            waiting.set_result(None)
            self._stopping.wait(REFRESH_GAP_S)
        with self._lock:
            waiting, self._pending = self._pending, Future()
        waiting.set_result(None)

    def _refresh_quietly(self) -> None:
        try:
            self.refresh()
        except Exception as error:  # noqa: BLE001 - any failure of the loader means: go on with what is known
            if not self._failing:
                log.warning(
                    "API keys cannot be read; going on with those known", error=type(error).__name__, age_s=self.age_s
                )
            self._failing = True
            return
        if self._failing:
            log.info("API keys are read again")
        self._failing = False
