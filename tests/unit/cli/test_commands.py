"""The commands: what they ask of the services, what they print, and how they exit."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cli.addresses import SERVICES
from cli.main import app
from tests.unit.cli.scripted import Answer, Scripted


class Relevo:
    """Runs the command against the scripted server."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def __call__(self, *words: str, stdin: str | None = None) -> Result:
        return CliRunner().invoke(app, [*words, "--home", str(self.home)], input=stdin)


@pytest.fixture
def relevo(server: Scripted, tmp_path: Path) -> Relevo:
    stack = dict.fromkeys(SERVICES, server.address) | {"admin_key": "rlv_key", "pids": {}}
    (tmp_path / "stack.json").write_text(json.dumps(stack))
    return Relevo(tmp_path)


def test_every_command_of_the_design_is_there() -> None:
    names = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    assert names >= {
        *("up", "down", "status", "logs", "demo", "apply", "ingest", "label", "dataset", "cycle", "runs", "models"),
        *("promote", "rollback", "predict", "precompute", "monitor", "alerts"),
    }
    assert [group.name for group in app.registered_groups] == ["keys"]


def test_apply_sends_the_pipeline_as_json(relevo: Relevo, server: Scripted, tmp_path: Path) -> None:
    file = tmp_path / "pipeline.yaml"
    file.write_text("name: flights\ntask: binary\n")
    server.script = [Answer(201, {"name": "flights", "spec_version": 1})]
    result = relevo("apply", str(file), "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (0, {"name": "flights", "spec_version": 1})
    assert server.asked[0].json == {"name": "flights", "task": "binary"}
    relevo("apply", str(file), "--dry-run")
    assert server.asked[1].query == "dry_run=true"


def test_a_file_that_is_no_yaml_is_said(relevo: Relevo, tmp_path: Path) -> None:
    file = tmp_path / "pipeline.yaml"
    file.write_text("a: [1")
    result = relevo("apply", str(file))
    assert result.exit_code == 1
    assert "not valid YAML" in result.stderr


@pytest.mark.parametrize(
    ("name", "content_type"), [("e.json", "application/json"), ("e.JSONL", "application/x-ndjson")]
)
def test_ingest_sends_the_file_as_it_is(
    relevo: Relevo, server: Scripted, tmp_path: Path, name: str, content_type: str
) -> None:
    file = tmp_path / name
    file.write_bytes(b'[{"a": 1}]')
    server.script = [Answer(body={"accepted": 1, "duplicates": 0, "quarantined": []})]
    result = relevo("ingest", "flights", str(file))
    assert result.exit_code == 0
    assert "accepted" in result.stdout
    assert (server.asked[0].headers["content-type"], server.asked[0].body) == (content_type, b'[{"a": 1}]')


def test_rows_in_quarantine_fail_the_command_and_are_shown(relevo: Relevo, server: Scripted, tmp_path: Path) -> None:
    file = tmp_path / "e.json"
    file.write_text("[{}]")
    server.script = [Answer(body={"accepted": 0, "quarantined": [{"index": 0, "reason": "key is missing"}]})]
    result = relevo("ingest", "flights", str(file))
    assert result.exit_code == 1
    assert "key is missing" in result.stdout


def test_an_unknown_ending_is_refused(relevo: Relevo, tmp_path: Path) -> None:
    file = tmp_path / "events.csv"
    file.write_text("a,b")
    result = relevo("ingest", "flights", str(file))
    assert result.exit_code == 1
    assert "must be one of .json" in result.stderr


def test_labels_come_from_options_files_and_standard_input(relevo: Relevo, server: Scripted) -> None:
    assert relevo("label", "flights", "--key", "a", "--value", "1", "--time", "2013-03-01T10:00:00Z").exit_code == 0
    assert relevo("label", "flights", "-", stdin='{"key": "a", "label": 1}\n{"key": "b", "label": 0}\n').exit_code == 0
    assert server.asked[0].json == [{"key": "a", "label": 1.0, "time": "2013-03-01T10:00:00+00:00"}]
    assert [row["key"] for row in server.asked[1].json] == ["a", "b"]
    assert relevo("label", "flights", "--key", "a").exit_code == 1


def test_a_time_without_offset_is_refused(relevo: Relevo, server: Scripted) -> None:
    result = relevo("cycle", "flights", "--as-of", "2013-03-01T10:00:00")
    assert result.exit_code == 2
    assert server.asked == []


def test_cycle_waits_for_the_end_and_says_how_it_ended(relevo: Relevo, server: Scripted) -> None:
    states = ("queued", "training", "released")
    server.script = [Answer(202, {"id": "c1", "state": state, "reason": None}) for state in states]
    result = relevo("cycle", "flights", "--json")
    assert (result.exit_code, json.loads(result.stdout)["state"]) == (0, "released")
    assert [asked.method for asked in server.asked] == ["POST", "GET", "GET"]


@pytest.mark.parametrize(("state", "status"), [("held", 0), ("rejected", 1), ("failed", 1)])
def test_the_exit_status_of_a_cycle(relevo: Relevo, server: Scripted, state: str, status: int) -> None:
    server.script = [Answer(202, {"id": "c1", "state": state, "reason": "significantly worse"})]
    result = relevo("cycle", "flights")
    assert result.exit_code == status
    assert "significantly worse" in result.stdout


def test_no_wait_returns_at_once(relevo: Relevo, server: Scripted) -> None:
    server.script = [Answer(202, {"number": 4, "state": "queued"})]
    assert relevo("dataset", "flights", "--no-wait").exit_code == 0
    assert len(server.asked) == 1


def test_lists_are_tables_or_json(relevo: Relevo, server: Scripted) -> None:
    rows = [{"id": "r2", "state": "running"}, {"id": "r1", "state": "succeeded"}]
    server.script = [Answer(body={"items": rows, "next": None})]
    table = relevo("runs", "flights")
    assert all(word in table.stdout for word in ("r2", "succeeded"))
    assert json.loads(relevo("runs", "flights", "--json", "-n", "1").stdout) == rows[:1]
    server.script = [Answer(body={"items": [], "next": None})]
    assert "None yet." in relevo("alerts", "flights").stdout


def test_models_without_a_deployment_still_lists_versions(relevo: Relevo, server: Scripted) -> None:
    server.script = [
        Answer(404, {"detail": "Nothing is deployed."}),
        Answer(body={"items": [{"number": 1, "state": "candidate"}], "next": None}),
    ]
    result = relevo("models", "flights")
    assert result.exit_code == 0
    assert "No version is in production" in result.stdout
    assert "candidate" in result.stdout


def test_predict_takes_an_instance_a_list_or_a_whole_request(relevo: Relevo, server: Scripted, tmp_path: Path) -> None:
    server.script = [Answer(body={"model_version": 2, "predictions": [{"prediction_id": "p", "score": 0.25}]})]
    file = tmp_path / "request.json"
    file.write_text('{"instances": [{"flight_id": "a"}]}')
    for words in (["--instance", '{"flight_id": "a"}'], ["-"], [str(file)]):
        result = relevo("predict", "flights", *words, stdin='{"flight_id": "a"}\n')
        assert result.exit_code == 0
        assert "0.25" in result.stdout
        assert server.asked[-1].json == {"instances": [{"flight_id": "a"}]}
    assert relevo("predict", "flights", "--instance", "[1]").exit_code == 1
    assert relevo("predict", "flights").exit_code == 1


def test_keys_are_created_with_their_scopes(relevo: Relevo, server: Scripted) -> None:
    server.script = [Answer(201, {"id": "0123456789ab", "key": "rlv_0123456789ab_secret"})]
    result = relevo("keys", "create", "app", "--scope", "predict", "--scope", "feedback", "--pipeline", "flights")
    assert "rlv_0123456789ab_secret" in result.stdout
    assert server.asked[0].json == {"name": "app", "scopes": ["predict", "feedback"], "pipelines": ["flights"]}
    relevo("keys", "revoke", "0123456789ab")
    assert server.asked[1].path == "/v1/keys/0123456789ab/revoke"


def test_a_refusal_is_one_sentence_on_standard_error(relevo: Relevo, server: Scripted) -> None:
    refusal = Answer(409, {"detail": "Version 3 has no passing verdict; name an override."})
    server.script = [Answer(body={"items": [], "next": None}), refusal]
    result = relevo("promote", "flights", "3")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.strip() == (
        "Version 3 has no passing verdict; name an override. [serving: POST /admin/models/flights/promote, 409]"
    )


def test_without_a_stack_the_cure_is_named(tmp_path: Path) -> None:
    result = Relevo(tmp_path)("runs", "flights")
    assert result.exit_code == 1
    assert "relevo up --detach" in result.stderr


@pytest.mark.parametrize("up_to_date", [True, False])
def test_monitoring_says_when_newer_rows_are_not_counted_yet(
    relevo: Relevo, server: Scripted, up_to_date: bool
) -> None:
    server.script = [Answer(body={"days": [{"day": "2013-03-01", "predictions": 7}], "up_to_date": up_to_date})]
    result = relevo("monitor", "flights")
    assert result.exit_code == 0
    assert ("not counted yet" in result.stdout) is not up_to_date


@pytest.mark.parametrize(
    ("words", "body"),
    [
        ((), {}),
        (("--dataset", "latest", "--split", "test"), {"dataset": "latest", "split": "test"}),
        (("--dataset", "7"), {"dataset": 7}),
        (("--keys-seen",), {"keys_seen": {}}),
        (("--since", "30d"), {"keys_seen": {"since": "30d"}}),
    ],
)
def test_precompute_names_the_rows_and_waits(
    relevo: Relevo, server: Scripted, words: tuple[str, ...], body: dict[str, object]
) -> None:
    server.script = [
        Answer(202, {"number": 4, "state": "queued"}),
        Answer(body={"number": 4, "state": "ready", "rows": 9}),
    ]
    result = relevo("precompute", "flights", *words, "--json")
    assert (result.exit_code, json.loads(result.stdout)["rows"]) == (0, 9)
    assert (server.asked[0].method, server.asked[0].path) == ("POST", "/v1/models/flights/precompute")
    assert server.asked[0].json == body
    assert server.asked[1].path == "/v1/models/flights/precompute/4"


def test_a_file_is_sent_as_it_is_and_a_failure_tells(relevo: Relevo, server: Scripted, tmp_path: Path) -> None:
    file = tmp_path / "rows.parquet"
    file.write_bytes(b"PAR1 and more")
    server.script = [
        Answer(202, {"number": 4, "state": "queued"}),
        Answer(body={"number": 4, "state": "failed", "reason": "no"}),
    ]
    result = relevo("precompute", "flights", "--file", str(file))
    assert result.exit_code == 1
    assert server.asked[0].headers["content-type"] == "application/vnd.apache.parquet"
    assert server.asked[0].body == b"PAR1 and more"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--split", "test"), "--split belongs to --dataset"),
        (("--dataset", "1", "--keys-seen"), "either --dataset or --keys-seen"),
        (("--dataset", "new"), "must be a number, or latest"),
    ],
)
def test_rows_that_contradict_each_other_are_refused(
    relevo: Relevo, server: Scripted, words: tuple[str, ...], message: str
) -> None:
    result = relevo("precompute", "flights", *words)
    assert result.exit_code == 1
    assert message in result.stderr
    assert server.asked == []


def test_a_prediction_made_ahead_is_looked_up_by_key(relevo: Relevo, server: Scripted) -> None:
    server.script = [Answer(body={"key": "a/b", "source": "offline", "score": 0.5})]
    result = relevo("predict", "flights", "--key", "a/b")
    assert result.exit_code == 0
    assert "offline" in result.stdout
    assert server.asked[0].path in ("/v1/models/flights/predictions/a/b", "/v1/models/flights/predictions/a%2Fb")
