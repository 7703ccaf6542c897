"""A Celery worker for tests: appends each nudge it gets, with the request id it came with, to the file ECHO_FILE."""

import os
from pathlib import Path

import structlog

from shared.config import common_settings
from shared.contracts.tasks import TaskName
from shared.messaging import make_celery
from shared.observability.context import request_id

app = make_celery("echo", common_settings())
log = structlog.stdlib.get_logger(__name__)


@app.task(name=TaskName.ADVANCE_CYCLE.value)
def advance(row_id: str) -> None:
    with Path(os.environ["ECHO_FILE"]).open("a") as file:
        file.write(f"{row_id} {request_id.get()}\n")
    log.info("echoed")


@app.task(name=TaskName.MONITOR.value)
def fail(row_id: str) -> None:
    raise RuntimeError("no use of the password in redis://:hunter2@host")
