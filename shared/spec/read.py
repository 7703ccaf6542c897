"""Reading a pipeline file, naming it by its content, and telling what a change changes."""

import hashlib
from collections.abc import Sequence
from typing import Any

import orjson
import yaml
from pydantic import ValidationError

from shared.errors import FieldError, Invalid, Malformed
from shared.spec.pipeline import PipelineSpec

NOT_BUILT = {
    "triggers": "retraining triggers other than the schedule",
    "retention": "retention rules",
    "privacy": "privacy rules",
}
"""Fields of the design that this release does not carry out: refused by name, so that nobody relies on them."""
FIXED = ("name", "task", "key", "time")
"""What a new spec version may not change; nor `label.name`."""


def load_yaml(text: str | bytes) -> dict[str, Any]:
    """Read a YAML mapping with the safe loader.

    Raises:
        Malformed: not YAML, or not a mapping.
    """
    try:
        document = yaml.safe_load(text)
    except RecursionError:
        raise Malformed("The pipeline file is nested too deeply.") from None
    except yaml.YAMLError as error:
        raise Malformed(f"The pipeline file is not valid YAML: {str(error).splitlines()[0]}.") from None
    except (ValueError, LookupError, AttributeError, TypeError, OverflowError) as error:
        # PyYAML lets these through for explicit tags with values that do not fit, such as `!!int x`.
        raise Malformed(
            f"The pipeline file holds a value that does not fit its YAML tag ({type(error).__name__})."
        ) from None
    if not isinstance(document, dict):
        raise Malformed("The pipeline file must be a mapping of fields, such as `name: flight-delay`.")
    return document


def parse(document: object) -> PipelineSpec:
    """Validate a pipeline document.

    Raises:
        Invalid: with one entry of `errors` for each wrong field.
    """
    if isinstance(document, dict):
        later: list[FieldError] = [
            {"loc": [field], "msg": f"{NOT_BUILT[field]} are not available in this release; remove the field"}
            for field in document
            if field in NOT_BUILT
        ]
        if later:
            raise Invalid(f"The pipeline uses {later[0]['loc'][0]}, which this release does not have.", errors=later)
    try:
        return PipelineSpec.model_validate(document)
    except ValidationError as error:
        errors = field_errors(error.errors(include_url=False, include_input=False, include_context=False))
        where = ".".join(map(str, errors[0]["loc"])) or "the file"
        raise Invalid(f"The pipeline is not valid: {where}: {errors[0]['msg']}.", errors=errors) from None


def field_errors(details: Sequence[Any]) -> list[FieldError]:
    """Pydantic's error list as `loc` and `msg`, without the rejected values."""
    return [{"loc": list(d["loc"]), "msg": str(d["msg"]).removeprefix("Value error, ")} for d in details]


def spec_digest(spec: PipelineSpec) -> str:
    """sha256 hex of the spec's canonical JSON."""
    return hashlib.sha256(orjson.dumps(spec.model_dump(mode="json"), option=orjson.OPT_SORT_KEYS)).hexdigest()


def changes(old: PipelineSpec, new: PipelineSpec) -> list[str]:
    """Each field that differs, as `path: old -> new`.

    Raises:
        Invalid: the change touches a field that must stay (`FIXED`, `label.name`).
    """
    before, after = old.model_dump(mode="json"), new.model_dump(mode="json")
    moved: list[FieldError] = [
        {"loc": [field], "msg": f"must stay {before[field]}; make a new pipeline instead"}
        for field in FIXED
        if before[field] != after[field]
    ]
    if before["label"]["name"] != after["label"]["name"]:
        moved.append(
            {"loc": ["label", "name"], "msg": f"must stay {before['label']['name']}; make a new pipeline instead"}
        )
    if moved:
        raise Invalid(f"{'.'.join(map(str, moved[0]['loc']))} {moved[0]['msg']}.", errors=moved)
    return list(_differences("", before, after))


def _differences(path: str, old: Any, new: Any) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        found: list[str] = []
        for name in dict.fromkeys([*old, *new]):
            found += _differences(f"{path}.{name}" if path else name, old.get(name), new.get(name))
        return found
    return [] if old == new else [f"{path}: {_short(old)} -> {_short(new)}"]


def _short(value: Any) -> str:
    return orjson.dumps(value).decode() if value is not None else "absent"
