"""Schemathesis over every operation of an app's OpenAPI document, in this process: `fuzz(app, key)`.

Its pytest decorators need the schema at import time, or subtests in a form that pytest no longer has; a plain loop needs neither.
"""

import contextlib
import os
import re
from collections.abc import Callable, Collection, Mapping

import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis.core.parameters import ParameterLocation
from schemathesis.generation import GenerationMode
from schemathesis.python.asgi import shutdown_lifespans
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from tests.support.waiting import until

JUDGED_ELSEWHERE = [positive_data_acceptance]
"""Rules that a schema cannot say (an expiry in the past, a version that is none) refuse what it allows."""
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
"""Requests for each operation and mode, instead of a test's own modest number."""


def fuzz(
    app: FastAPI,
    key: str,
    *,
    examples: int = 15,
    skip: Collection[str] = (),
    only: Collection[str] = (),
    known: Mapping[str, str] | None = None,
    lenient: Collection[str] = (),
) -> list[str]:
    """Send generated requests, good and bad, to each operation; every answer must be one that the document describes, and no 5xx.

    What is bad must be refused, and what succeeds must fail without a key.

    Args:
        key: an API key text with every scope the operations need.
        examples: requests for each operation and mode (good, bad); the variable FUZZ_EXAMPLES overrides it.
        skip: paths to leave out.
        only: paths to try; all unless given.
        known: path parameters that lead to a row, put into three of four requests: by name, or by the part of the path before
            and the name (`runs/id`).
        lenient: paths that answer 200 to a body with wrong items, because each item gets a verdict of its own.

    Returns:
        The operations tried, as "GET /v1/keys".
    """
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    operations = [result.ok() for result in schema.get_all_operations()]
    tried = [
        operation for operation in operations if operation.path not in skip and (not only or operation.path in only)
    ]
    try:
        until(lambda: schema["/readyz"]["GET"].Case().call().status_code == 200, "the app to be ready")
        for operation in tried:
            for mode in GenerationMode:
                unchecked = [*JUDGED_ELSEWHERE, *([negative_data_rejection] if operation.path in lenient else [])]
                with contextlib.suppress(Unsatisfiable):  # no input, so none can be wrong
                    _try(operation, mode, key, EXAMPLES or examples, known or {}, unchecked)
    finally:
        shutdown_lifespans()
    return [operation.label for operation in tried]


def _try(
    operation: APIOperation,
    mode: GenerationMode,
    key: str,
    examples: int,
    known: Mapping[str, str],
    unchecked: list[Callable[..., bool | None]],
) -> None:
    there = {
        name: known.get(f"{before}/{name}", known.get(name))
        for before, name in re.findall(r"([^/]*)/\{(\w+)\}", operation.path)
    }
    there = {name: value for name, value in there.items() if value is not None}

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode), of_four=st.integers(1, 4))
    def every_answer_is_documented(case: schemathesis.Case, of_four: int) -> None:
        if there and of_four > 1 and not case.meta.is_negative_at(ParameterLocation.PATH):
            case.path_parameters = {**case.path_parameters, **there}
        sent = {"Authorization": f"Bearer {key}"}
        # In the case too: one made wrong by leaving the header out is right again.
        case.headers = {**case.headers, **sent}
        case.call_and_validate(headers=sent, excluded_checks=unchecked)

    every_answer_is_documented()
