"""What a lookup asks: the query, and the body with instances. Says what is wrong and where."""

from collections.abc import Mapping, Sequence
from typing import Any

from services.serving.instances import MAX_ERRORS
from services.serving.schemas import LONGEST_S
from shared.errors import FieldError, Invalid
from shared.instances import read_key
from shared.web.body import strict_json

MAX_STALENESS = "max_staleness_s"


def read_seconds(query: Mapping[str, str]) -> float | None:
    """The query's limit on staleness, seconds; None: it has none.

    Raises:
        Invalid: it is no such number.
    """
    if not query or (given := query.get(MAX_STALENESS)) is None:
        return None
    try:
        value = float(given)
    except ValueError:
        value = -1.0
    if not 0 <= value <= LONGEST_S:
        message = f"must be a number of seconds, from 0 to {LONGEST_S:.0f}"
        raise Invalid(f"{MAX_STALENESS} {message}.", errors=[{"loc": ["query", MAX_STALENESS], "msg": message}])
    return value


def read_many(body: bytes, most: int) -> tuple[list[Any], float | None]:
    """Instances and limit on staleness of a body.

    Raises:
        Malformed, Invalid: it is not of that form.
    """
    document = strict_json(body)
    if type(document) is not dict:
        raise Invalid('The body must be an object: {"instances": [{...}]}.', errors=[_error([], "must be an object")])
    errors: list[FieldError] = []
    instances, limit_s = document.get("instances"), document.get(MAX_STALENESS)
    if type(instances) is not list or not 1 <= len(instances) <= most:
        errors.append(_error(["instances"], f"must be a list of 1 to {most} objects"))
    if limit_s is not None and not (type(limit_s) in (int, float) and 0 <= limit_s <= LONGEST_S):
        errors.append(_error([MAX_STALENESS], f"must be a number of seconds, from 0 to {LONGEST_S:.0f}"))
    unknown = sorted(map(str, document.keys() - {"instances", MAX_STALENESS}))
    errors += [_error([field[:64]], "is no field of a lookup") for field in unknown[:MAX_ERRORS]]
    if errors:
        raise _invalid(errors)
    assert type(instances) is list
    return instances, limit_s


def read_keys(instances: Sequence[Any], name: str) -> list[str]:
    """The key of each instance.

    Args:
        name: the key's field.

    Raises:
        Invalid: lists what is wrong.
    """
    keys: list[str] = []
    errors: list[FieldError] = []
    for index, instance in enumerate(instances):
        if type(instance) is not dict:
            errors.append(_error(["instances", index], "must be an object of fields by name"))
        elif instance.get(name) is None:
            errors.append(_error(["instances", index, name], "is required"))
        else:
            try:
                keys.append(read_key(instance[name]))
            except ValueError as error:
                errors.append(_error(["instances", index, name], str(error)))
        if len(errors) >= MAX_ERRORS:
            break
    if errors:
        raise _invalid(errors)
    return keys


def renumbered(error: Invalid, places: Sequence[int]) -> Invalid:
    """An error about some of the instances, by their places in the request."""
    errors: list[FieldError] = []
    for one in error.errors or ():
        loc = list(one["loc"])
        if loc[:2] == ["body", "instances"] and len(loc) > 2 and isinstance(loc[2], int):
            loc[2] = places[loc[2]]
        errors.append({"loc": loc, "msg": one["msg"]})
    return _invalid(errors) if errors else error


def _error(loc: list[str | int], msg: str) -> FieldError:
    return {"loc": ["body", *loc], "msg": msg}


def _invalid(errors: list[FieldError]) -> Invalid:
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    where = ".".join(map(str, errors[0]["loc"][1:])) or "the body"
    return Invalid(f"Nothing was answered: {where} {errors[0]['msg']}{more}.", errors=errors)
