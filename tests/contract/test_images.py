"""The images of deploy/Dockerfile: each holds the code that its command names, and every package which that code imports."""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cli.stack import processes
from shared.contracts.tasks import Queue
from tests.contract.deployment import PROCESSES, ROOT, Stage, compose, option, stages


@pytest.fixture(scope="module")
def images() -> dict[str, Stage]:
    """The stages of deploy/Dockerfile."""
    return stages()


@pytest.mark.parametrize("name", PROCESSES)
def test_the_code_a_command_names_is_in_its_image(name: str, images: dict[str, Stage]) -> None:
    command = images[name].command
    assert command[:2] == ["python", "-m"]
    module, attribute = command[2], None
    if module == "uvicorn":
        module, attribute = command[3].split(":")
        assert "--factory" in command
    elif module == "celery":
        module, attribute = option(command, "-A"), "app"
    path = Path(*module.split("."))
    path = path / "__main__.py" if (ROOT / path).is_dir() else path.with_suffix(".py")
    tree = ast.parse((ROOT / path).read_text())
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    defined |= {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    assert attribute is None or attribute in defined
    copied = [Path(source) for source, _ in images[name].copies]
    assert any(path.is_relative_to(source) for source in copied), f"{path} is not copied into the image"


def test_every_queue_has_one_worker(images: dict[str, Stage]) -> None:
    assert sorted(option(images[name].command, "-Q") for name in processes.WORKERS) == sorted(map(str, Queue))


def test_torch_is_in_the_training_image_alone(images: dict[str, Stage]) -> None:
    def mentions(stage: Stage) -> bool:
        return any("torch" in run or "[trainer]" in run or "[all]" in run for run in stage.runs)

    assert [name for name in PROCESSES if mentions(images[name])] == ["trainer-worker"]
    pinned = re.search(r"^torch==.*$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    assert any(pinned[0] in run for run in images["trainer-worker"].runs)


def packages_of(stage: Stage) -> set[str]:
    """The distributions that the `pip install`s of an image bring: those named, the extras', and all they depend on."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    waiting = list(project["dependencies"])
    for run in stage.runs:
        for part in run.split("&&"):
            words = shlex.split(part, comments=False)
            if words[:2] == ["pip", "install"]:
                waiting += [word for word in words[words.index("constraints.txt") + 1 :] if not word.startswith(".")]
                for extra in re.findall(r"\.\[([a-z,]+)\]", part):
                    waiting += [need for name in extra.split(",") for need in project["optional-dependencies"][name]]
    found: set[tuple[str, str]] = set()
    while waiting:
        need = Requirement(waiting.pop())
        name = canonicalize_name(need.name)
        for extra in ("", *need.extras):
            if (name, extra) in found:
                continue
            found.add((name, extra))
            try:
                needs = [Requirement(text) for text in metadata.requires(name) or []]
            except metadata.PackageNotFoundError:  # for another platform
                continue
            waiting += [str(need) for need in needs if need.marker is None or need.marker.evaluate({"extra": extra})]
    return {name for name, _ in found}


IMPORT_ALL = """
import importlib, json, sys
hidden, modules = json.load(sys.stdin)

class Missing:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {name!r} in this image", name=name)

sys.meta_path.insert(0, Missing)
for name in modules:
    importlib.import_module(name)
"""


@pytest.mark.parametrize(
    "name", ["migrate", "serving-worker", "data-worker", "validator-worker", "trainer", "trainer-worker"]
)
def test_an_image_has_the_packages_that_its_code_imports(name: str, images: dict[str, Stage]) -> None:
    """Import all of the image's code with every package hidden that it does not install."""
    stage = images[name]
    installed = packages_of(stage)
    hidden = [
        module
        for module, owners in metadata.packages_distributions().items()
        if not {canonicalize_name(owner) for owner in owners} & installed | {"relevo"} & set(owners)
    ]
    assert ("torch" in hidden) == (name != "trainer-worker")
    code = [path for source, _ in stage.copies for path in sorted((ROOT / source).rglob("*.py")) if source != "shared"]
    if name == "trainer":  # what trains is imported by the training process alone
        code = [ROOT / "services" / "trainer" / f"{module}.py" for module in ("app", "worker", "background")]
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in code]
    modules += ["shared.registry.migrate", "shared.registry.tables"]
    environment = {**os.environ, **compose()["services"][name]["environment"]}
    result = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL],
        input=json.dumps([hidden, modules]),
        cwd=ROOT,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
