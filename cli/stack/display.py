"""Showing a stack in the terminal: parts turning ready while it starts, and the table of `relevo status`."""

import time
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from cli.stack.decide import Phase, Whole
from cli.stack.home import Stack
from cli.stack.snapshot import Part, Snapshot

COLOURS = {
    Phase.READY: "green",
    Phase.DONE: "green",
    Phase.STARTING: "yellow",
    Phase.UNREADY: "yellow",
    Phase.BACKOFF: "red",
    Phase.FAILED: "red",
    Phase.STOPPING: "yellow",
}


class Progress:
    """Shows snapshots as they come: redrawn in place on a terminal; elsewhere one line when a part changes for good."""

    def __init__(self, console: Console, known: Snapshot | None = None) -> None:
        self._console = console
        self._began = time.monotonic()
        self._last = known
        """Changes are told from here on."""
        self._live = Live(console=console, refresh_per_second=8, transient=True) if console.is_terminal else None

    def __enter__(self) -> "Progress":
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._live:
            self._live.stop()
            self._live = None

    def show(self, seen: Snapshot) -> None:
        """Show what changed since the last one."""
        before, self._last = self._last, seen
        if self._live:
            head = Text(seen.note or f"{seen.whole} … {time.monotonic() - self._began:.0f} s", style="bold")
            self._live.update(Group(head, table(seen)) if seen.parts else head)
            return
        if seen.note and (before is None or before.note != seen.note):
            self._say(seen.note)
        phases = {part.name: part.phase for part in before.parts} if before else {}
        for part in seen.parts:
            if part.phase is not phases.get(part.name) and part.phase in (
                Phase.READY, Phase.DONE, Phase.BACKOFF, Phase.FAILED, Phase.STOPPED, Phase.UNREADY,
            ):  # fmt: skip
                self._say(f"{part.name}: {part.phase}" + (f" ({part.reason})" if part.reason else ""))

    def _say(self, text: str) -> None:
        self._console.print(f"{time.monotonic() - self._began:6.1f} s  {text}", markup=False, highlight=False)


def table(seen: Snapshot, *, now: float | None = None) -> RenderableType:
    """The parts as a table; with uptimes when `now` (Unix seconds) is given."""
    shown = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("part", "state", "pid", "restarts", *(("uptime",) if now is not None else ()), "why"):
        shown.add_column(heading, justify="right" if heading in ("pid", "restarts", "uptime") else "left", no_wrap=True)
    for part in seen.parts:
        colour = COLOURS.get(part.phase, "dim")
        row = [part.name, f"[{colour}]{part.phase}[/]", str(part.pid or ""), str(part.restarts or "")]
        if now is not None:
            row.append(uptime(part, now))
        shown.add_row(*row, escape(part.reason))
    return shown


def uptime(part: Part, now: float) -> str:
    """How long its present run has lasted, such as `3 h 20 min`; empty when it does not run."""
    if part.since is None:
        return ""
    minutes, seconds = divmod(max(0, round(now - part.since)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    pairs = ((days, "d"), (hours, "h"), (minutes, "min"), (seconds, "s"))
    return " ".join([f"{value} {unit}" for value, unit in pairs if value][:2]) or "0 s"


def addresses(console: Console, stack: Stack, home: str) -> None:
    """Print where the services answer, and with which key. Never cut, however narrow the terminal: keys are copied."""
    urls = {
        "serving": stack["serving"],
        "data": stack["data"],
        "trainer": stack["trainer"],
        "validator": stack["validator"],
    }
    for name, url in urls.items():
        console.print(f"[bold]{name:<10}[/] {url}  [dim]{url}/docs[/]", soft_wrap=True, highlight=False)
    key = f"[bold]{'admin key':<10}[/] {stack['admin_key']}  [dim]also in {escape(home)}/stack.json[/]"
    console.print(key, soft_wrap=True, highlight=False)


def is_up(seen: Snapshot | None) -> bool:
    """Whether all parts are ready."""
    return seen is not None and seen.whole is Whole.READY
