"""What every service shows from the outside, and who may do what."""

import pytest

from tests.e2e.stack import SERVICES, Stack, until


@pytest.mark.parametrize("service", SERVICES)
def test_each_service_shows_its_pages(stack: Stack, service: str) -> None:
    for page in ("/docs", "/openapi.json", "/healthz", "/readyz", "/metrics"):
        answer = stack.call("GET", service, page)
        assert answer.status_code == 200, page
    ready = stack.get(service, "/readyz")
    assert (ready["status"], ready["degraded"]) == ("ready", [])
    assert all(check["ok"] for check in ready["checks"].values())
    assert "relevo_build_info" in stack.call("GET", service, "/metrics").text


def test_status_shows_every_part_ready(stack: Stack) -> None:
    shown = stack.relevo("status")
    assert shown.returncode == 0, shown.stderr
    for name in stack.description["pids"]:
        assert name in shown.stdout or name == "supervisor"


def test_a_key_can_do_what_its_scopes_say_until_it_is_revoked(stack: Stack) -> None:
    made = stack.post("data", "/v1/keys", {"name": "viewer", "scopes": ["read"]})
    look, promote = ("GET", "serving", "/admin/models"), ("POST", "serving", "/admin/models/any/promote")
    assert stack.call(*look, key=made["key"]).status_code == 200
    refused = stack.call(*promote, key=made["key"], json={"version": 1})
    assert (refused.status_code, refused.headers["content-type"]) == (403, "application/problem+json")
    assert stack.call(*look, key="rlv_0123456789ab_" + "x" * 43).status_code == 401

    assert stack.post("data", f"/v1/keys/{made['id']}/revoke")["revoked_at"] is not None
    for service, path in (
        ("serving", "/admin/models"),
        ("data", "/v1/pipelines"),
        ("trainer", "/v1/pipelines/any/runs"),
    ):
        until(
            lambda service=service, path=path: stack.call("GET", service, path, key=made["key"]).status_code == 401,
            f"the end of the key on {service}",
        )
