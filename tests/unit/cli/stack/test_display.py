"""What the terminal and `status.json` show."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from cli.stack import display, snapshot
from cli.stack.decide import Phase, Whole
from cli.stack.home import Home, Stack
from cli.stack.snapshot import Part, Snapshot

SEEN = Snapshot(
    whole=Whole.DEGRADED,
    supervisor=7,
    since=50.0,
    parts=(
        Part("postgres", Phase.READY, pid=10, since=100.0),
        Part("migrate", Phase.DONE),
        Part("serving", Phase.BACKOFF, restarts=2, reason="killed by signal 9"),
    ),
)


def test_a_snapshot_survives_its_file(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert snapshot.read(home) is None
    snapshot.write(home, SEEN)
    assert snapshot.read(home) == SEEN
    home.status.write_text('{"whole": "of another release"}')
    assert snapshot.read(home) is None


def test_pids_are_those_that_run() -> None:
    assert SEEN.pids == {"supervisor": 7, "postgres": 10}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (3600, "1 h"), (90_061, "1 d 1 h"), (-5, "0 s")],
)
def test_uptime(seconds: float, text: str) -> None:
    assert display.uptime(Part("x", Phase.READY, since=100.0), 100.0 + seconds) == text


def test_what_does_not_run_has_no_uptime() -> None:
    assert display.uptime(Part("x", Phase.STOPPED), 100.0) == ""


def test_the_table_names_each_part_and_why() -> None:
    out = io.StringIO()
    Console(file=out, width=120).print(display.table(SEEN, now=160.0))
    lines = out.getvalue().splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["postgres", "ready", "10", "1", "min"],
        ["migrate", "done"],
        ["serving", "backoff", "2", "killed", "by", "signal", "9"],
    ]


def test_progress_in_a_pipe_is_a_line_for_each_change() -> None:
    out = io.StringIO()
    with display.Progress(Console(file=out, width=120)) as progress:
        progress.show(Snapshot(whole=Whole.STARTING, supervisor=7, since=50.0, note="preparing PostgreSQL"))
        progress.show(SEEN)
        progress.show(SEEN)
    said = [line.split(" s  ")[1] for line in out.getvalue().splitlines()]
    assert said == ["preparing PostgreSQL", "postgres: ready", "migrate: done", "serving: backoff (killed by signal 9)"]


def test_addresses_and_the_key_are_never_cut() -> None:
    out = io.StringIO()
    key = "rlv_0123456789ab_" + "k" * 43
    stack = Stack(serving="http://127.0.0.1:8000", data="http://127.0.0.1:8001", trainer="http://127.0.0.1:8002",
                  validator="http://127.0.0.1:8003", admin_key=key, pids={})  # fmt: skip
    display.addresses(Console(file=out, width=30), stack, "/srv/[relevo]")
    assert f"admin key  {key}  also in /srv/[relevo]/stack.json\n" in out.getvalue()
    assert "serving    http://127.0.0.1:8000  http://127.0.0.1:8000/docs\n" in out.getvalue()
