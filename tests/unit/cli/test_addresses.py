"""Which services a command talks to: the home named, else the environment, else the default home."""

import json
from pathlib import Path

import pytest

from cli.addresses import SERVICES, NoAddresses, find

ENVIRONMENT = {f"RELEVO_{service.upper()}_URL": f"http://env/{service}/" for service in SERVICES} | {
    "RELEVO_API_KEY": "from-env"
}


def _stack(home: Path) -> None:
    stack = {service: f"http://home/{service}" for service in SERVICES} | {"admin_key": "from-home", "pids": {}}
    (home / "stack.json").write_text(json.dumps(stack))


def test_a_home_named_beats_the_environment(tmp_path: Path) -> None:
    _stack(tmp_path)
    assert find(tmp_path, ENVIRONMENT).key == "from-home"


def test_the_environment_is_used_without_a_home() -> None:
    found = find(None, ENVIRONMENT)
    assert (found.key, found.of("data")) == ("from-env", "http://env/data")


def test_the_default_home_is_used_without_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".relevo").mkdir()
    _stack(tmp_path / ".relevo")
    assert find(None, {}).of("serving") == "http://home/serving"


def test_half_an_environment_says_what_is_missing() -> None:
    with pytest.raises(NoAddresses, match="set RELEVO_TRAINER_URL, RELEVO_VALIDATOR_URL, RELEVO_API_KEY"):
        find(None, {"RELEVO_DATA_URL": "http://a", "RELEVO_SERVING_URL": "http://b"})


def test_no_stack_names_the_cure(tmp_path: Path) -> None:
    with pytest.raises(NoAddresses, match="relevo up --detach"):
        find(tmp_path, ENVIRONMENT)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"serving": 1}'])
def test_a_damaged_file_names_the_cure(tmp_path: Path, content: str) -> None:
    (tmp_path / "stack.json").write_text(content)
    with pytest.raises(NoAddresses, match="Restart the stack"):
        find(tmp_path, {})
