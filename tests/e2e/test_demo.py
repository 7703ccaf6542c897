"""A short replay of the flights, as `make demo` runs the long one: its own stack, a good end, nothing left running."""

import json
from pathlib import Path

from tests.e2e.stack import free_base, left_of, run

KEYS = {"flights", "cycles", "released", "rejected", "live_log_loss", "frozen_log_loss", "live_auc", "frozen_auc"}


def test_two_weeks_of_flights(tmp_path: Path) -> None:
    home = tmp_path / "home"
    options = {"--sample": "0.03", "--until": "2013-03-14", "--every": "7d", "--port-base": str(free_base())}
    words = [word for option in options.items() for word in option]
    ended = run("relevo", "demo", "--home", str(home), *words)
    assert ended.returncode == 0, ended.stderr
    figures = json.loads(ended.stdout.splitlines()[-1])
    assert set(figures) == KEYS
    assert (figures["cycles"], figures["flights"] > 200) == (2, True)
    assert 1 <= figures["released"] <= 2
    assert 0.3 < figures["live_log_loss"] < 1
    assert (home / "demo.png").read_bytes().startswith(b"\x89PNG")
    assert left_of(home) == []
