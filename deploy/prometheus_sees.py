"""Asks a running Prometheus whether it reaches every process and understands every query of the dashboard and the alerts.

python deploy/prometheus_sees.py http://127.0.0.1:9090
"""

import json
import time
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

DASHBOARD = Path(__file__).parent / "grafana" / "dashboards" / "relevo.json"
MUST_SHOW = (
    "relevo_serving_live_version",
    "relevo_serving_predictions_total",
    "relevo_cycles_total",
    "http_requests_total",
)
"""Series that exist once a cycle has ended in a release and a prediction was made."""
POLL_S = 2.0


def main(
    address: Annotated[str, typer.Argument(help="Prometheus's address.")],
    deadline_s: Annotated[float, typer.Option(help="How long to wait for the first scrapes.")] = 120,
) -> None:
    """Exit with 1 and a sentence for each thing that is missing."""
    with httpx.Client(base_url=address, timeout=10, trust_env=False) as client:
        end = time.monotonic() + deadline_s
        while troubles := [*unreached(client), *unseen(client)]:
            if time.monotonic() > end:
                break
            time.sleep(POLL_S)
        queries = dashboard_queries()
        answers = {query: ask(client, query) for query in queries}
        troubles += [f"Not understood: {query}" for query, answer in answers.items() if answer is None]
        troubles += [
            f"Alert rule {rule['name']}: {rule['lastError']}" for rule in alert_rules(client) if rule["lastError"]
        ]
        typer.echo(
            f"prometheus: {len(targets(client))} targets, {len(alert_rules(client))} alert rules, "
            f"{sum(bool(answer) for answer in answers.values())} of {len(queries)} dashboard queries show data"
        )
    for trouble in troubles:
        typer.echo(trouble, err=True)
    if troubles:
        raise typer.Exit(1)


def unreached(client: httpx.Client) -> list[str]:
    """A sentence for each target that does not answer."""
    found = targets(client)
    down = [f"{one['labels']['job']} does not answer: {one['lastError']}" for one in found if one["health"] != "up"]
    return down if found else ["Prometheus has no targets."]


def unseen(client: httpx.Client) -> list[str]:
    """A sentence for each series that should be there."""
    return [f"No process shows {series}." for series in MUST_SHOW if not ask(client, series)]


def targets(client: httpx.Client) -> list[dict[str, Any]]:
    """What Prometheus scrapes."""
    found: list[dict[str, Any]] = _get(client, "/api/v1/targets")["data"]["activeTargets"]
    return found


def alert_rules(client: httpx.Client) -> list[dict[str, Any]]:
    """The rules it has loaded."""
    groups = _get(client, "/api/v1/rules")["data"]["groups"]
    return [{"lastError": "", **rule} for group in groups for rule in group["rules"]]


def ask(client: httpx.Client, query: str) -> list[Any] | None:
    """The query's series now; None when Prometheus does not understand it."""
    answer = client.get("/api/v1/query", params={"query": query})
    result: list[Any] | None = answer.json()["data"]["result"] if answer.is_success else None
    return result


def dashboard_queries() -> list[str]:
    """Every query of the dashboard, Grafana's variables filled in."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [
        target["expr"].replace("$pipeline", ".*").replace("$__rate_interval", "1m")
        for panel in panels
        for target in panel.get("targets", [])
    ]


def _get(client: httpx.Client, path: str) -> Any:
    return client.get(path).raise_for_status().json()


if __name__ == "__main__":
    typer.run(main)
