"""The deployment files as data for tests: docker-compose.yml with its variables filled in, and the stages of the Dockerfile."""

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cli.stack import processes

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
SERVICES = {"serving": 8000, "data": 8001, "trainer": 8002, "validator": 8003}
"""The architecture's default ports."""
WATCHED = (*processes.WORKERS, processes.BACKGROUND)
PROCESSES = ("migrate", *SERVICES, *WATCHED)
MADE = {
    "POSTGRES_PASSWORD": "p-made",
    "VALKEY_PASSWORD": "v-made",
    "GRAFANA_PASSWORD": "g-made",
    "RELEVO_ADMIN_KEY": "rlv_0123456789ab_" + "a" * 43,
    "RELEVO_SERVICE_KEY": "rlv_0123456789ac_" + "s" * 43,
    "RELEVO_PREDICTION_SECRET": "0123456789abcdef" * 3,
}
"""A .env as deploy/make-env writes it."""

_VARIABLE = re.compile(r"(?<!\$)\$\{(?P<name>[A-Z_]+)(?::(?P<kind>[-?])(?P<text>[^}]*))?\}")


@dataclass
class Variable:
    """One `${NAME}` of a compose file."""

    name: str
    default: str | None
    required: bool


def variables(text: str) -> list[Variable]:
    """Every variable that a compose file reads."""
    return [
        Variable(match["name"], match["text"] if match["kind"] == "-" else None, required=match["kind"] == "?")
        for match in _VARIABLE.finditer(text)
    ]


def compose(environment: Mapping[str, str] = MADE, name: str = "docker-compose.yml") -> dict[str, Any]:
    """The compose file as an engine sees it with this environment."""

    def fill(match: re.Match[str]) -> str:
        given = environment.get(match["name"])
        if not given and match["kind"] == "?":
            raise KeyError(f"{match['name']}: {match['text']}")
        return given or match["text"] or ""

    def fill_in(node: Any) -> Any:
        """Values are filled in after YAML was read, as compose does: they stay strings."""
        if isinstance(node, dict):
            return {key: fill_in(value) for key, value in node.items()}
        if isinstance(node, list):
            return [fill_in(item) for item in node]
        return _VARIABLE.sub(fill, node) if isinstance(node, str) else node

    filled: dict[str, Any] = fill_in(yaml.safe_load((ROOT / name).read_text()))
    return filled


@dataclass
class Stage:
    """One stage of the Dockerfile, with what it inherits."""

    name: str
    base: str
    environment: dict[str, str] = field(default_factory=dict)
    ports: set[int] = field(default_factory=set)
    command: list[str] = field(default_factory=list)
    user: str = "root"
    health: str | None = None
    copies: list[tuple[str, str]] = field(default_factory=list)
    """(source in the build context, target)."""
    copied_from: list[str] = field(default_factory=list)
    """Stages that files come from."""
    runs: list[str] = field(default_factory=list)
    """Shell commands of this stage and of those it is built on or copied from."""


def stages() -> dict[str, Stage]:
    """Every stage of deploy/Dockerfile by name."""
    found: dict[str, Stage] = {}
    stage: Stage | None = None
    for word, rest in _instructions((DEPLOY / "Dockerfile").read_text()):
        if word == "FROM":
            base, _, name = rest.split()
            stage = Stage(name, base)
            if (parent := found.get(base)) is not None:
                stage.environment |= parent.environment
                stage.ports |= parent.ports
                stage.command, stage.user, stage.health = list(parent.command), parent.user, parent.health
                stage.copies += parent.copies
                stage.copied_from += parent.copied_from
                stage.runs += parent.runs
            found[name] = stage
            continue
        assert stage is not None, f"{word} before the first FROM"
        _add(stage, word, rest, found)
    return found


def option(command: list[str], name: str) -> str:
    """The word after an option."""
    return command[command.index(name) + 1]


def _add(stage: Stage, word: str, rest: str, found: Mapping[str, Stage]) -> None:
    if word == "ENV":
        stage.environment |= dict(part.split("=", 1) for part in shlex.split(rest))
    elif word == "EXPOSE":
        stage.ports.add(int(rest))
    elif word == "CMD":
        stage.command = json.loads(rest)
    elif word == "USER":
        stage.user = rest
    elif word == "HEALTHCHECK":
        stage.health = None if rest == "NONE" else rest
    elif word == "RUN":
        stage.runs.append(rest)
    elif word == "COPY":
        parts = rest.split()
        if parts[0].startswith("--from="):
            source = parts[0].removeprefix("--from=")
            stage.copied_from.append(source)
            stage.runs += found[source].runs
        else:
            stage.copies += [(source, parts[-1]) for source in parts[:-1]]


def _instructions(text: str) -> list[tuple[str, str]]:
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", " ", lines)
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]
