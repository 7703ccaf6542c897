"""The tables of docs/configuration.md as the settings classes have them: `python -m tests.contract.settings_doc` prints them."""

import ast
import inspect
import itertools
import re
import sys
import textwrap
from typing import Any

from pydantic import AliasChoices
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from services.data.config import DataSettings
from services.serving.config import ServingSettings
from services.trainer.config import TrainerSettings
from services.validator.config import ValidatorSettings
from shared.config import CommonSettings

SETTINGS: dict[str, type[BaseSettings]] = {
    "Every process": CommonSettings,
    "Serving": ServingSettings,
    "Data service and its worker": DataSettings,
    "Trainer, its workers and the background process": TrainerSettings,
    "Validator and its worker": ValidatorSettings,
}
"""Heading in the page, and the class it shows."""
COMPUTED = {
    "SERVING_SCORE_THREADS": "cores by workers, at most 4",
    "SERVING_PRECOMPUTE_THREADS": "half the cores, at most 8",
}
"""Defaults that depend on the machine, in words."""
HEAD = "| Variable | Default | Meaning |\n|---|---|---|"


def table(settings: type[BaseSettings]) -> str:
    """One row for each field that the class itself adds: variable, default, and the docstring under the field."""
    return "\n".join([HEAD, *(_row(settings, name) for name in settings.__annotations__ if name != "model_config")])


def _row(settings: type[BaseSettings], name: str) -> str:
    field = settings.model_fields[name]
    variable = variable_of(settings, name, field)
    meaning = _docstrings(settings)[name].replace("|", r"\|")
    for other, its in settings.model_fields.items():  # a reader of the page knows variables, not attributes
        meaning = meaning.replace(f"`{other}`", f"`{variable_of(settings, other, its)}`")
    return f"| `{variable}` | {COMPUTED.get(variable) or _default(field)} | {meaning} |"


def variable_of(settings: type[BaseSettings], name: str, field: FieldInfo) -> str:
    """The environment variable that a field is read from."""
    alias = field.validation_alias
    if isinstance(alias, AliasChoices):
        return str(alias.choices[0])
    return alias if isinstance(alias, str) else f"{settings.model_config['env_prefix']}{name.upper()}"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default: Any = field.default
    if default is None:
        return "none"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _docstrings(settings: type[BaseSettings]) -> dict[str, str]:
    """The text under each annotated field, as one line."""
    (body,) = (
        node.body
        for node in ast.parse(textwrap.dedent(inspect.getsource(settings))).body
        if isinstance(node, ast.ClassDef)
    )
    return {
        field.target.id: re.sub(r"\s+", " ", text.value.value).strip()
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
    }


if __name__ == "__main__":
    for heading, settings in SETTINGS.items():
        sys.stdout.write(f"## {heading}\n\n{table(settings)}\n\n")
