"""Pipelines over HTTP: applied once, changed in versions, fixed in what identifies them."""

from typing import Any

import pytest
import yaml

from tests.integration.data.conftest import ADMIN_KEY, Service
from tests.unit.data.samples import SPEC


def apply(service: Service, document: object, **query: Any) -> tuple[int, Any]:
    answer = service.client.post("/v1/pipelines", json=document, params=query)
    return answer.status_code, answer.json()


def test_the_same_spec_again_changes_nothing_and_another_is_a_new_version(service: Service) -> None:
    status, first = apply(service, SPEC)
    assert (status, first["action"], first["spec_version"]) == (201, "create", 1)
    status, again = apply(service, SPEC)
    assert (status, again["action"], again["spec_version"], again["digest"]) == (200, "unchanged", 1, first["digest"])
    status, changed = apply(service, {**SPEC, "owner": "operations"})
    assert (status, changed["action"], changed["spec_version"]) == (200, "update", 2)
    assert changed["changes"] == ['owner: "" -> "operations"']

    found = service.get("/pipelines/trips")
    assert found["spec"]["owner"] == "operations"
    assert list(found["spec"]["features"]) == list(SPEC["features"])
    assert [(version["number"], version["created_by"]) for version in found["versions"]] == [(2, "admin"), (1, "admin")]
    assert found["versions"][0]["changes"] == ['owner: "" -> "operations"']


def test_a_dry_run_stores_nothing(service: Service) -> None:
    status, answer = apply(service, SPEC, dry_run=True)
    assert (status, answer["action"], answer["dry_run"]) == (200, "create", True)
    assert service.get("/pipelines") == {"items": [], "next": None}
    apply(service, SPEC)
    _, answer = apply(service, {**SPEC, "owner": "ops"}, dry_run=True)
    assert answer["changes"] == ['owner: "" -> "ops"']
    assert service.get("/pipelines/trips")["spec_version"] == 1


def test_yaml_is_read_too(service: Service) -> None:
    body = yaml.safe_dump(SPEC, sort_keys=False)
    for media_type in ("application/yaml", "text/yaml; charset=utf-8"):
        answer = service.client.post("/v1/pipelines", content=body, headers={"content-type": media_type})
        assert answer.status_code in (200, 201), answer.text
    assert len(service.get("/pipelines")["items"]) == 1


@pytest.mark.parametrize(
    ("change", "loc"),
    [
        ({"key": "other"}, ["key"]),
        ({"time": "booked", "features": {"distance": {"type": "number"}}}, ["time"]),
        ({"task": "regression"}, ["task"]),
        ({"label": {"name": "later"}}, ["label", "name"]),
        ({"schedule": "every day"}, ["schedule"]),
        ({"schedule": "0 0 31 2 *"}, ["schedule"]),
        ({"triggers": {"max_age": "7d"}}, ["triggers"]),
        ({"colour": "red"}, ["colour"]),
        ({"features": {}}, ["features"]),
        ({"features": {"label": {"type": "number"}}}, []),
        ({"training": {"epochs": 10**30}}, ["training", "epochs"]),
    ],
)
def test_what_may_not_change_or_is_wrong_is_refused_by_name(
    trips: Service, change: dict[str, Any], loc: list[str]
) -> None:
    status, problem = apply(trips, {**SPEC, **change})
    assert status == 422
    assert problem["errors"][0]["loc"] == loc
    assert trips.get("/pipelines/trips")["spec_version"] == 1


def test_the_schema_describes_the_file(service: Service) -> None:
    schema = service.get("/schema/pipeline.json")
    assert {"name", "task", "key", "time", "features", "label"} == set(schema["required"])
    assert "cycle" not in schema["properties"]


def test_keys_limited_to_pipelines_see_only_those(trips: Service) -> None:
    other = {**SPEC, "name": "other"}
    assert apply(trips, other)[0] == 201
    made = trips.post("/keys", {"name": "one", "scopes": ["read", "pipelines", "ingest"], "pipelines": ["other"]}, 201)
    headers = {"Authorization": f"Bearer {made['key']}"}

    def status(method: str, path: str, **options: Any) -> int:
        return trips.client.request(method, f"/v1{path}", headers=headers, **options).status_code

    listed = trips.client.get("/v1/pipelines", headers=headers).json()["items"]
    assert [item["name"] for item in listed] == ["other"]
    assert status("GET", "/pipelines/other") == 200
    assert status("GET", "/pipelines/trips") == 404
    assert status("POST", "/pipelines", json=SPEC) == 404
    assert status("POST", "/pipelines/trips/events", json=[]) == 404
    assert status("POST", "/pipelines/other/datasets", json={}) == 403
    assert ADMIN_KEY not in trips.client.get("/v1/keys").text
