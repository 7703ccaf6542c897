"""From the parsed body of a prediction request to checked rows, or to one error that names every wrong field (up to a bound)."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from shared.errors import FieldError, Invalid
from shared.instances import Instance, InstanceReader, RowProblem

MAX_ERRORS = 50
"""At most so many wrong fields are listed in one answer."""
MAX_VERSION = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Envelope:
    """A prediction request before its rows are read."""

    instances: list[Any]
    model: str | None
    version: int | None


def read_envelope(document: object, *, max_instances: int, names_model: bool) -> Envelope:
    """Check what stands around the rows.

    Args:
        document: the parsed body.
        max_instances: most rows.
        names_model: whether the body may name the model (the path does otherwise).

    Raises:
        Invalid: lists what is wrong.
    """
    if type(document) is not dict:
        raise Invalid(
            'The body must be an object: {"instances": [{...}]}.', errors=[wrong_field([], "must be an object")]
        )
    errors: list[FieldError] = []
    instances = document.get("instances")
    if type(instances) is not list:
        errors.append(
            wrong_field(["instances"], "must be a list of objects" if "instances" in document else "is required")
        )
    elif not 1 <= len(instances) <= max_instances:
        errors.append(wrong_field(["instances"], f"must hold 1 to {max_instances} instances"))
    model = document.get("model")
    if "model" in document and not names_model:
        errors.append(wrong_field(["model"], "is named by the path; leave it out"))
    elif model is not None and type(model) is not str:
        errors.append(wrong_field(["model"], "must be the name of a pipeline"))
    version = document.get("version")
    if version is not None and not (type(version) is int and 1 <= version <= MAX_VERSION):
        errors.append(wrong_field(["version"], "must be the number of a version, from 1"))
    unknown = sorted(map(str, document.keys() - {"instances", "model", "version"}))
    errors += [wrong_field([name[:64]], "is no field of a prediction request") for name in unknown[:MAX_ERRORS]]
    if errors:
        raise refused("The request", errors)
    assert type(instances) is list
    return Envelope(instances, model, version)


def read_rows(
    reader: InstanceReader, instances: list[Any], received_at: datetime, *, name: str = "instances"
) -> list[Instance]:
    """All rows, or none.

    Args:
        name: what the request calls them.

    Raises:
        Invalid: lists what is wrong with which row, up to `MAX_ERRORS`.
    """
    rows: list[Instance] = []
    errors: list[FieldError] = []
    for index, instance in enumerate(instances):
        try:
            rows.append(reader.read(instance, received_at=received_at))
        except RowProblem as problem:
            errors += [wrong_field([name, index, *error["loc"]], error["msg"]) for error in problem.errors]
            if len(errors) >= MAX_ERRORS:
                break
    if errors:
        raise refused("Nothing was predicted", errors[:MAX_ERRORS])
    return rows


def wrong_field(loc: list[str | int], msg: str) -> FieldError:
    """One wrong field of a body."""
    return {"loc": ["body", *loc], "msg": msg}


def refused(what: str, errors: list[FieldError]) -> Invalid:
    """The error that lists wrong fields; there is at least one."""
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return Invalid(
        f"{what}: {'.'.join(map(str, errors[0]['loc'][1:])) or 'the body'} {errors[0]['msg']}{more}.", errors=errors
    )
