"""From the body of a request for a list to what it asks, and its candidates in the order of their keys."""

from dataclasses import dataclass
from typing import Any

from services.serving.instances import MAX_ERRORS, MAX_VERSION, refused, wrong_field
from services.serving.postprocessing.answers import Ranking
from services.serving.postprocessing.schemas import MAX_K
from services.serving.rows import Row
from shared.errors import FieldError, Invalid
from shared.web.body import strict_json

FIELDS = {"candidates", "k", "trace", "version"}


@dataclass(frozen=True, slots=True)
class AskedList:
    """A request for a list before its candidates are read."""

    candidates: list[Any]
    k: int | None
    trace: bool
    version: int | None


def read_list_request(body: bytes, most: int) -> AskedList:
    """Check what stands around the candidates.

    Args:
        most: candidates in a request.

    Raises:
        Malformed: no JSON.
        Invalid: lists what is wrong.
    """
    document = strict_json(body)
    if type(document) is not dict:
        raise Invalid(
            'The body must be an object: {"candidates": [{...}]}.', errors=[wrong_field([], "must be an object")]
        )
    errors: list[FieldError] = []
    candidates = document.get("candidates")
    if type(candidates) is not list:
        told = "must be a list of objects" if "candidates" in document else "is required"
        errors.append(wrong_field(["candidates"], told))
    elif not 1 <= len(candidates) <= most:
        errors.append(wrong_field(["candidates"], f"must hold 1 to {most} candidates"))
    k, trace, version = document.get("k"), document.get("trace", False), document.get("version")
    if k is not None and not (type(k) is int and 1 <= k <= MAX_K):
        errors.append(wrong_field(["k"], "must be the most items wanted, from 1"))
    if type(trace) is not bool:
        errors.append(wrong_field(["trace"], "must be true or false"))
    if version is not None and not (type(version) is int and 1 <= version <= MAX_VERSION):
        errors.append(wrong_field(["version"], "must be the number of a version, from 1"))
    unknown = sorted(map(str, document.keys() - FIELDS))
    errors += [wrong_field([name[:64]], "is no field of a request for a list") for name in unknown[:MAX_ERRORS]]
    if errors:
        raise refused("The request", errors)
    assert type(candidates) is list
    return AskedList(candidates, k, bool(trace), version)


def by_key(rows: list[Row], asked: AskedList) -> tuple[list[Row], Ranking]:
    """The candidates in the order of their keys, so that neither the model nor the log sees another.

    Raises:
        Invalid: two have one key.
    """
    places = sorted(range(len(rows)), key=lambda place: rows[place].key)
    ordered = [rows[place] for place in places]
    errors = [
        wrong_field(["candidates", max(one, other)], f"has the key of candidate {min(one, other)}; send each item once")
        for one, other, row, after in zip(places, places[1:], ordered, ordered[1:], strict=False)
        if row.key == after.key
    ]
    if errors:
        raise refused("Nothing was ranked", errors[:MAX_ERRORS])
    return ordered, Ranking(asked.k, asked.trace, places)
