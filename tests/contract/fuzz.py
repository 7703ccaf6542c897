"""Schemathesis over every operation of an app's OpenAPI document, in this process: `fuzz(app, key)`.

Its pytest decorators need the schema at import time, or subtests in a form that pytest no longer has; a plain loop needs neither.
"""

import contextlib
from collections.abc import Collection

import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from hypothesis.strategies import SearchStrategy
from schemathesis.generation import GenerationMode
from schemathesis.python.asgi import shutdown_lifespans
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

JUDGED_ELSEWHERE = [positive_data_acceptance, negative_data_rejection]
"""Rules that a schema cannot say (an expiry in the past) refuse what it allows; a lenient parser takes "1" for 1."""


def fuzz(app: FastAPI, key: str, *, examples: int = 25, skip: Collection[str] = ()) -> list[str]:
    """Send generated requests, good and bad, to each operation; every answer must be one that the document describes, and no 5xx.

    Args:
        key: an API key text with every scope the operations need.
        examples: requests for each operation, good and bad alike.
        skip: paths to leave out.

    Returns:
        The operations tried, as "GET /v1/keys".
    """
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    operations = [result.ok() for result in schema.get_all_operations()]
    tried = [operation for operation in operations if operation.path not in skip]
    try:
        for operation in tried:
            for mode in GenerationMode:
                with contextlib.suppress(Unsatisfiable):  # no input, so none can be wrong
                    _try(operation.as_strategy(generation_mode=mode), key, examples)
    finally:
        shutdown_lifespans()
    return [operation.label for operation in tried]


def _try(cases: SearchStrategy[schemathesis.Case], key: str, examples: int) -> None:
    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases)
    def every_answer_is_documented(case: schemathesis.Case) -> None:
        case.call_and_validate(headers={"Authorization": f"Bearer {key}"}, excluded_checks=JUDGED_ELSEWHERE)

    every_answer_is_documented()
