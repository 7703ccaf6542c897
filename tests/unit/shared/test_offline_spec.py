"""The pipeline file's `offline`: what it may say, and that it changes no digest where it is absent."""

from typing import Any

import pytest

from shared.errors import Invalid
from shared.spec import parse, spec_digest
from tests.unit.serving.tiny_model import SPEC


def test_what_is_left_out_means_keys_seen_after_each_release() -> None:
    offline = parse({**SPEC, "offline": {}}).offline
    assert offline is not None
    assert offline.source.model_dump(mode="json", exclude_none=True) == {"keys_seen": {}}
    assert (offline.after_promotion, offline.schedule, offline.max_staleness, offline.default) == (
        True,
        None,
        None,
        None,
    )


def test_a_spec_without_it_is_written_without_it() -> None:
    assert "offline" not in parse(SPEC).model_dump(mode="json")
    assert spec_digest(parse(SPEC)) != spec_digest(parse({**SPEC, "offline": {}}))


def test_everything_said_is_kept() -> None:
    said = {
        "source": {"dataset": "latest", "split": "test"},
        "schedule": "30 4 * * *",
        "after_promotion": False,
        "max_staleness": "2d",
        "default": 0.25,
    }
    written = parse({**SPEC, "offline": said}).model_dump(mode="json", exclude_none=True)["offline"]
    assert written == said


@pytest.mark.parametrize(
    ("offline", "message"),
    [
        ({"schedule": "daily"}, "offline.schedule: must be a cron expression"),
        ({"max_staleness": "0s"}, "offline: max_staleness: must be longer than zero"),
        ({"default": 1.5}, "offline.default: a binary task's score is a probability"),
        ({"source": {}}, "offline.source: name exactly one source"),
        ({"source": {"dataset": 3, "keys_seen": {}}}, "offline.source: name exactly one source"),
        ({"source": {"keys_seen": {}, "split": "train"}}, "offline.source: split: belongs to a dataset"),
        ({"source": {"file": "a" * 64}}, "offline.source.file"),
        ({"sometimes": True}, "offline.sometimes"),
    ],
)
def test_what_makes_no_sense_is_named(offline: dict[str, Any], message: str) -> None:
    with pytest.raises(Invalid, match=message):
        parse({**SPEC, "offline": offline})
