"""What the documentation names exists: settings, links, files, make targets, commands with their options, routes."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from fastapi import FastAPI

from cli.main import app as command_line
from services.data.app import create_app as data_app
from services.serving.app import create_app as serving_app
from services.trainer.app import create_app as trainer_app
from services.trainer.config import TrainerSettings
from services.validator.app import create_app as validator_app
from shared.config import CommonSettings
from tests.contract.settings_doc import HEAD, SETTINGS, table

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
CONFIGURATION = ROOT / "docs" / "configuration.md"
FOLDERS = ("services", "shared", "cli", "docs", "deploy", "tests", "examples", "pipelines", "benchmarks")
SERVICES = ("serving", "data", "trainer", "validator")
"""In the order of their ports."""
FROM_OTHERS = {"XDG_CACHE_HOME"}
"""Variables of the system, named in passing."""

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def code(page: Path) -> str:
    """Code blocks and code spans, one a line; lines that go on are joined."""
    text = page.read_text()
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    rest = re.sub(r"^```\w*\n.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    blocks += re.findall(r"^ {4}\S.*$", rest, re.MULTILINE)
    spans = [re.sub(r"\s+", " ", span) for span in re.findall(r"`([^`]+)`", rest)]
    return "\n".join([*blocks, *spans]).replace("\\\n", " ")


def words_after(line: str) -> list[str]:
    """The words of a command up to a comment or a pipe."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError:  # a quote that a span cuts
        words = line.split()
    ends = [place for place, word in enumerate(words) if word in ("|", ">", ";", "&&", "||")]
    return words[: ends[0]] if ends else words


@pytest.mark.parametrize("heading", SETTINGS)
def test_the_page_shows_each_setting_as_the_code_has_it(heading: str) -> None:
    section = CONFIGURATION.read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    shown = HEAD + section.split(HEAD)[1]
    assert shown.strip() == table(SETTINGS[heading]), "python -m tests.contract.settings_doc prints the tables"


def test_every_variable_read_elsewhere_is_on_the_page() -> None:
    read = {
        variable
        for folder in ("shared", "services")
        for path in (ROOT / folder).rglob("*.py")
        for variable in _variables_read(ast.parse(path.read_text()))
    }
    assert {"RELEVO_ADMIN_KEY", "RELEVO_CACHE_DIR", "AWS_REGION"} <= read
    page = CONFIGURATION.read_text()
    assert {variable for variable in read - FROM_OTHERS if f"`{variable}`" not in page} == set()


def _variables_read(tree: ast.AST) -> Iterator[str]:
    """Names in `os.environ.get("NAME")` and `os.environ["NAME"]`."""
    for node in ast.walk(tree):
        name: ast.AST | None = None
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("os.environ.get", "os.getenv"):
            name = node.args[0]
        elif isinstance(node, ast.Subscript) and ast.unparse(node.value) == "os.environ":
            name = node.slice
        if isinstance(name, ast.Constant):
            yield str(name.value)


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    targets = [target.split("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text())]
    relative = [target for target in targets if target and "://" not in target]
    assert [target for target in relative if not (page.parent / target).exists()] == []


@each_page
def test_files_that_are_named_exist(page: Path) -> None:
    named = set(re.findall(rf"(?:^|(?<=[\s`\"'@(]))(?:{'|'.join(FOLDERS)})/[\w./*-]*[\w/*]", code(page), re.MULTILINE))
    assert [path for path in sorted(named) if not any(ROOT.glob(path.rstrip("/")))] == []


@each_page
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    calls = [words_after(call) for line in code(page).splitlines() for call in line.split("&&")]
    makes = [words[words.index("make") + 1 :] for words in calls if "make" in words[:2]]
    named = [word for words in makes for word in words if "=" not in word and not word.startswith("<")]
    assert [word for word in named if word not in {*targets, "..."}] == []


@each_page
def test_commands_and_their_options_exist(page: Path) -> None:
    root: Any = typer.main.get_command(command_line)
    for line in re.findall(r"^\s*(?:\S*/)?(relevo [a-z].*)$", code(page), re.MULTILINE):
        words = words_after(line)[1:]
        command = root.commands.get(words[0].split("|")[0].rstrip(".,;:)"))
        assert command is not None, f"{page.name}: {line}"
        if hasattr(command, "commands") and len(words) > 1:
            command = command.commands[words[1].rstrip(".,;:)")]
        options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        given = {word.split("=")[0] for word in words[1:] if re.match(r"-[a-z]$|--[a-z]", word)}
        assert given <= options, f"{page.name}: {line}"


@pytest.fixture
def apps(relevo_env: dict[str, str]) -> dict[str, FastAPI]:
    """The four apps, not started."""
    common = CommonSettings()
    made = (serving_app(common), data_app(common), trainer_app(TrainerSettings()), validator_app())
    return dict(zip(SERVICES, made, strict=True))


def test_routes_that_are_named_exist(apps: dict[str, FastAPI]) -> None:
    documents = {service: app.openapi()["paths"] for service, app in apps.items()}
    called = 0
    for page in PAGES:
        for line in re.findall(r"curl .*?(?=\n\S|\Z)", code(page), re.DOTALL):
            for service, path in re.findall(r"(?:\$([A-Z]+)|localhost:800[0-3])(/[^\s\"?]*)", line):
                place = re.search(r"localhost:800(\d)", line)
                owner = service.lower() if service else SERVICES[int(place[1])] if place else ""
                asked = re.search(r"-X (\w+)", line)
                method = asked[1] if asked else "POST" if re.search(r"\s(-d|--data-binary)\s", line) else "GET"
                found = [route for template, route in documents[owner].items() if _fits(template, path)]
                assert any(method.lower() in route for route in found), f"{page.name}: {method} {owner} {path}"
                called += 1
    assert called > 30, "the pages were read"


def _fits(template: str, path: str) -> bool:
    return re.fullmatch(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(template)), path) is not None
