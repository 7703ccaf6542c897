"""Key texts, principals, and the ring: what it trusts, for how long, and how fast it learns."""

import asyncio
import re
import threading
from datetime import UTC, datetime, timedelta

import pytest

from shared.contracts.scopes import ADMIN, OFFLINE, Scope
from shared.errors import Forbidden, NotFound, Unauthenticated, Unavailable
from shared.keyring import MAX_AGE_S, KeyRing, Reading, StoredKey
from shared.keys import Principal, generate, hash_of, parse
from shared.registry.tables.access import ApiKey

AT = datetime(2013, 1, 1, tzinfo=UTC)


class Clock:
    """A monotonic clock that is moved by hand."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def _stored(text: str, *scopes: Scope, expires_at: datetime | None = None) -> StoredKey:
    return StoredKey(Principal(parse(text) or "", "tester", frozenset(scopes)), hash_of(text), expires_at)


def _ring(*keys: tuple[str, StoredKey], clock: Clock | None = None) -> KeyRing:
    reading = Reading(AT, {parse(text) or "": stored for text, stored in keys})
    ring = KeyRing(lambda: reading, offline_age_s=600, clock=clock or Clock())
    ring.refresh()
    return ring


def test_generated_keys_have_the_form_and_differ() -> None:
    first, second = generate(), generate()
    assert re.fullmatch(r"rlv_[0-9a-f]{12}_[A-Za-z0-9_-]{43}", first)
    assert first != second
    assert parse(first) == first[4:16]


@pytest.mark.parametrize(
    "text", ["", "rlv_", "rlv_0123456789ab_short", generate() + "\n", generate().upper(), " " + generate()]
)
def test_anything_else_is_no_key(text: str) -> None:
    assert parse(text) is None


def test_only_the_whole_text_hashes_to_what_is_stored() -> None:
    text = generate()
    assert len(hash_of(text)) == 64
    assert hash_of(text) != hash_of(text[:-1])
    assert text.split("_", 2)[2] not in repr(_stored(text))


def test_principal_scopes_and_pipelines() -> None:
    limited = Principal("a", "n", frozenset({Scope.READ}), frozenset({"mine"}))
    assert limited.allows(Scope.READ)
    assert limited.allows_pipeline("mine")
    assert not limited.allows_pipeline("other")
    assert Principal("a", "n", frozenset()).allows_pipeline("any")
    with pytest.raises(Forbidden, match="`deploy`"):
        limited.require(Scope.DEPLOY)
    with pytest.raises(NotFound):
        limited.require_pipeline("other")


@pytest.mark.parametrize(
    ("scopes", "pipelines", "covered"),
    [
        (["read"], ["mine"], True),
        (["read"], ["mine", "other"], False),
        (["read"], None, False),
        (["deploy"], ["mine"], False),
    ],
)
def test_a_principal_covers_what_holds_no_more(scopes: list[str], pipelines: list[str] | None, covered: bool) -> None:
    limited = Principal("a", "n", frozenset({Scope.READ, Scope.KEYS}), frozenset({"mine"}))
    row = ApiKey(id="b", name="b", secret_hash="", scopes=scopes, pipelines=pipelines)
    assert limited.covers(row) is covered
    assert Principal("a", "n", ADMIN).covers(row)


def test_the_ring_gives_the_holder_of_a_good_key() -> None:
    text = generate()
    assert _ring((text, _stored(text, Scope.READ))).check(text, Scope.READ).name == "tester"


def test_the_ring_refuses_unknown_forged_and_scopeless_keys() -> None:
    text = generate()
    ring = _ring((text, _stored(text, Scope.READ)))
    with pytest.raises(Unauthenticated):
        ring.check(generate(), Scope.READ)
    with pytest.raises(Unauthenticated):
        ring.check(text[:17] + generate()[17:], Scope.READ)
    with pytest.raises(Unauthenticated):
        ring.check("", Scope.READ)
    with pytest.raises(Forbidden, match="`deploy`"):
        ring.check(text, Scope.DEPLOY)


def test_expiry_follows_the_database_clock_carried_on() -> None:
    clock, text = Clock(), generate()
    ring = _ring((text, _stored(text, Scope.PREDICT, expires_at=AT + timedelta(seconds=60))), clock=clock)
    clock.now_s += 59
    ring.check(text, Scope.PREDICT)
    clock.now_s += 1
    with pytest.raises(Unauthenticated, match="expired"):
        ring.check(text, Scope.PREDICT)


def test_before_the_first_reading_nothing_is_trusted() -> None:
    ring = KeyRing(lambda: Reading(AT, {}), offline_age_s=600)
    assert ring.age_s is None
    with pytest.raises(Unavailable):
        ring.check(generate(), Scope.PREDICT)


@pytest.mark.parametrize("scope", list(Scope))
def test_an_old_ring_fails_closed_except_for_predictions_and_feedback(scope: Scope) -> None:
    clock, text = Clock(), generate()
    ring = _ring((text, _stored(text, *Scope)), clock=clock)
    clock.now_s += MAX_AGE_S + 1
    if scope in OFFLINE:
        ring.check(text, scope)
    else:
        with pytest.raises(Unavailable):
            ring.check(text, scope)
    clock.now_s += 600
    with pytest.raises(Unavailable):
        ring.check(text, scope)


def test_a_resumed_reading_is_as_old_as_it_is() -> None:
    clock, text = Clock(), generate()
    stored = _stored(text, Scope.PREDICT, Scope.DEPLOY, expires_at=AT + timedelta(hours=9))
    ring = KeyRing(lambda: Reading(AT, {}), offline_age_s=600, clock=clock)
    ring.resume(Reading(AT, {parse(text) or "": stored}), 500)
    assert ring.check(text, Scope.PREDICT)
    with pytest.raises(Unavailable):
        ring.check(text, Scope.DEPLOY)
    clock.now_s += 101
    with pytest.raises(Unavailable):
        ring.check(text, Scope.PREDICT)
    ring.refresh()
    with pytest.raises(Unauthenticated):
        ring.check(text, Scope.PREDICT)


def test_a_failing_loader_keeps_what_was_read() -> None:
    text = generate()
    answers = [Reading(AT, {parse(text) or "": _stored(text, Scope.READ)})]

    def load() -> Reading:
        if not answers:
            raise ConnectionError("away")
        return answers.pop()

    ring = KeyRing(load, offline_age_s=600)
    ring.refresh()
    with pytest.raises(ConnectionError):
        ring.refresh()
    assert ring.check(text, Scope.READ).name == "tester"


async def test_the_thread_learns_of_new_and_revoked_keys_and_survives_failures() -> None:
    text = generate()
    keys: dict[str, StoredKey] = {}
    failing = threading.Event()

    def load() -> Reading:
        if failing.is_set():
            raise ConnectionError("away")
        return Reading(AT, dict(keys))

    ring = KeyRing(load, offline_age_s=600)
    await asyncio.wrap_future(ring.start())
    try:
        assert ring.may_be_new(text)
        keys[parse(text) or ""] = _stored(text, Scope.READ)
        await asyncio.wrap_future(ring.refreshed())
        assert ring.check(text, Scope.READ)
        failing.set()
        await asyncio.wrap_future(ring.refreshed())
        assert ring.check(text, Scope.READ)
        failing.clear()
        keys.clear()
        await asyncio.wrap_future(ring.refreshed())
        with pytest.raises(Unauthenticated):
            ring.check(text, Scope.READ)
    finally:
        ring.stop()


async def test_many_who_ask_share_one_read() -> None:
    reads, gate = 0, threading.Event()

    def load() -> Reading:
        nonlocal reads
        reads += 1
        gate.wait(10)
        return Reading(AT, {})

    ring = KeyRing(load, offline_age_s=600)
    first = ring.start()
    try:
        waiting = [ring.refreshed() for _ in range(50)]
        gate.set()
        await asyncio.wait_for(asyncio.gather(*map(asyncio.wrap_future, [first, *waiting])), 10)
        assert reads <= 3
    finally:
        gate.set()
        ring.stop()


def test_without_a_thread_nobody_waits() -> None:
    assert KeyRing(lambda: Reading(AT, {}), offline_age_s=1).refreshed().done()
