"""Log lines: one JSON object each, whoever logs, with the request id and without secrets."""

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from shared.observability.context import accept_request_id, log_context, request_id
from shared.observability.logging import configure_logging

KEY = "rlv_0123456789ab_" + "S" * 43


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]):
    configure_logging("INFO", "json", "serving")
    return lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_line_says_when_who_and_what(lines) -> None:
    structlog.stdlib.get_logger("shared.somewhere").info("dataset built", rows=7)
    [line] = lines()
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "dataset built", "rows": 7, "level": "info", "logger": "shared.somewhere", "service": "serving",
    }  # fmt: skip


def test_the_standard_library_logs_the_same_way(lines) -> None:
    logging.getLogger("some.library").warning("took %d s", 3)
    [line] = lines()
    assert (line["event"], line["level"], line["logger"], line["service"]) == (
        "took 3 s", "warning", "some.library", "serving",
    )  # fmt: skip


@pytest.mark.parametrize("name", ["uvicorn.error", "celery.worker", "sqlalchemy.engine", "alembic.runtime.migration"])
def test_libraries_with_handlers_of_their_own_are_taken_over(capsys: pytest.CaptureFixture[str], name: str) -> None:
    top = logging.getLogger(name.partition(".")[0])
    top.addHandler(logging.StreamHandler())
    top.propagate = False
    configure_logging("INFO", "json", "serving")
    logging.getLogger(name).error("hello")
    [line] = capsys.readouterr().err.splitlines()
    assert json.loads(line)["event"] == "hello"


def test_a_silenced_access_log_stays_silent(lines) -> None:
    access = logging.getLogger("uvicorn.access")
    access.handlers.clear()
    access.propagate = False  # what uvicorn --no-access-log does, before the application configures logging
    try:
        configure_logging("INFO", "json", "serving")
        assert not access.hasHandlers()
    finally:
        access.propagate = True


def test_the_request_id_and_bound_values_are_on_each_line(lines) -> None:
    log = structlog.stdlib.get_logger("x")
    with log_context(request="req-1", pipeline="flight-delay"):
        with log_context(run=3):
            log.info("inside")
        logging.getLogger("library").info("library inside")
    log.info("outside")
    inside, library, outside = lines()
    assert (inside["request_id"], inside["pipeline"], inside["run"]) == ("req-1", "flight-delay", 3)
    assert (library["request_id"], library["pipeline"]) == ("req-1", "flight-delay")
    assert "run" not in library
    assert "request_id" not in outside
    assert request_id.get() == ""


@pytest.mark.parametrize(
    "secret",
    [
        f"key {KEY} was used",
        f"Authorization: Bearer {KEY}",
        "Authorization: Basic dXNlcjpodW50ZXIy",
        "cannot connect to redis://:hunter2@localhost:6379/0",
        "cannot connect to postgresql+psycopg://relevo:hunter2@localhost/relevo",
        "host=localhost password=hunter2 dbname=relevo",
        "AWS secret_access_key: hunter2",
    ],
)
def test_secrets_in_text_do_not_get_out(lines, capsys: pytest.CaptureFixture[str], secret: str) -> None:
    log = structlog.stdlib.get_logger("x")
    log.info(secret, nested={"list": [secret]}, error=ValueError(secret))
    logging.getLogger("library").warning("%s", secret)
    try:
        raise RuntimeError(secret)
    except RuntimeError:
        log.exception("failed")
    text = capsys.readouterr().err
    assert len(text.splitlines()) == 3
    assert "Traceback" in text
    for word in ("hunter2", "S" * 43, "dXNlcjpodW50ZXIy"):
        assert word not in text
    assert text.count("[redacted]") >= 5


def test_secrets_by_name_do_not_get_out(lines) -> None:
    structlog.stdlib.get_logger("x").info(
        "e",
        password="a",
        api_key="b",
        headers={"authorization": "c", "x-token": "d"},
        SECRET="e",
        key="flight-1",
        tokens=3,
    )
    [line] = lines()
    assert line["password"] == line["api_key"] == line["SECRET"] == "[redacted]"
    assert line["headers"] == {"authorization": "[redacted]", "x-token": "[redacted]"}
    assert line["key"] == "flight-1", "an example's key is no secret"


def test_an_address_without_a_password_stays_readable(lines) -> None:
    structlog.stdlib.get_logger("x").info("see http://127.0.0.1:8000/docs?at=2013-01-01T10:00@x and file:///a/b:c@d")
    assert lines()[0]["event"] == "see http://127.0.0.1:8000/docs?at=2013-01-01T10:00@x and file:///a/b:c@d"


def test_nothing_logged_breaks_the_line(lines) -> None:
    log = structlog.stdlib.get_logger("x")
    log.info("line\nbreak", big=2**80, surrogate="\ud800", nan=float("nan"), thing=object(), keys={1: 2, (1, 2): 3})
    log.info("next")
    first, second = lines()
    assert first["event"] == "line\nbreak"
    assert first["nan"] is None
    assert second["event"] == "next"


def test_the_level_counts_and_the_last_call_wins(lines) -> None:
    configure_logging("WARNING", "json", "data")
    structlog.stdlib.get_logger("x").info("quiet")
    structlog.stdlib.get_logger("x").warning("loud")
    [line] = lines()
    assert (line["event"], line["service"]) == ("loud", "data")


def test_the_console_format_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", "console", "serving")
    try:
        raise RuntimeError("redis://:hunter2@host")
    except RuntimeError:
        structlog.stdlib.get_logger("x").exception("broke", rows=7)
    text = capsys.readouterr().err
    assert "broke" in text
    assert "rows=7" in text
    assert "hunter2" not in text
    assert not text.startswith("{")


def test_a_request_id_is_taken_over_only_when_harmless() -> None:
    assert accept_request_id("abc-123") == "abc-123"
    for given in (None, "", "a" * 129, "a\nb", "a b", "é", '"', "x\x00"):
        assert len(accept_request_id(given)) == 32
