"""The dashboard and the alert rules ask only for metrics, and labels of them, that the product really exports."""

import ast
import importlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import yaml
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase
from prometheus_fastapi_instrumentator import Instrumentator

from tests.contract.deployment import DEPLOY, ROOT, compose

METRIC_MODULES = (
    "shared.observability.metrics",
    "services.data.metrics",
    "services.serving.metrics",
    "services.serving.workers.metrics",
    "services.trainer.metrics",
    "services.validator.metrics",
)
GRAFANA = DEPLOY / "grafana"
TARGET_LABELS = {"job", "instance"}
"""Prometheus gives them to every series."""
OF_PROMETHEUS = {"up": TARGET_LABELS, "ALERTS": {"alertname", "alertstate"} | TARGET_LABELS}
OF_PROCESSES = dict.fromkeys(("process_cpu_seconds_total", "process_resident_memory_bytes"), TARGET_LABELS)
"""From prometheus_client's own collector, in every process."""
SUFFIXES = {
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket", "_sum", "_count"),
    "summary": ("_sum", "_count"),
}


def series_of(metric: MetricWrapperBase) -> Iterator[tuple[str, set[str]]]:
    """Names of the series that a metric exports, each with its labels."""
    (family,) = metric.describe()
    for suffix in SUFFIXES[family.type]:
        extra = {"le"} if suffix == "_bucket" else set()
        yield family.name + suffix, set(metric._labelnames) | TARGET_LABELS | extra


@pytest.fixture(scope="module")
def exported() -> dict[str, set[str]]:
    """Every series that some process exports, with its labels."""
    found = OF_PROMETHEUS | OF_PROCESSES
    for module in METRIC_MODULES:
        for value in vars(importlib.import_module(module)).values():
            if isinstance(value, MetricWrapperBase):
                found |= dict(series_of(value))
    # What `shared.web.app` installs in every service.
    registry = CollectorRegistry()
    app = FastAPI()
    Instrumentator(registry=registry).instrument(app)
    app.build_middleware_stack()
    for collector in set(registry._collector_to_names):
        assert isinstance(collector, MetricWrapperBase)
        found |= dict(series_of(collector))
    return found


def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((GRAFANA / "dashboards" / "relevo.json").read_text())
    return loaded


def panels() -> list[dict[str, Any]]:
    """Panels that show something, not the headings."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def dashboard_queries() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel["targets"]]


def alert_queries() -> list[str]:
    groups = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
    return [rule["expr"] for group in groups for rule in group["rules"]]


@dataclass(frozen=True)
class Selector:
    """One series named in a query, and the labels it is matched by."""

    name: str
    labels: frozenset[str]


_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_SELECTOR = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(\{[^}]*\})?(?!\s*\(|[a-zA-Z0-9_:])")
_WORDS = {"and", "or", "unless", "bool", "offset", "inf", "nan"}


def selectors(query: str) -> list[Selector]:
    """The series that a PromQL query reads: identifiers that are no functions, keywords, labels or durations."""
    bare = _GROUPING.sub(" ", re.sub(r'"[^"]*"', '""', query))
    bare = re.sub(r"\[[^]]*\]|\b\d[\w.]*", " ", bare)
    return [
        Selector(match[1], frozenset(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", match[2] or "")))
        for match in _SELECTOR.finditer(bare)
        if match[1] not in _WORDS
    ]


def grouping_labels(query: str) -> set[str]:
    """The labels that a query groups or joins by."""
    return {name.strip() for match in _GROUPING.finditer(query) for name in match[1].split(",") if name.strip()}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("up == 0", [Selector("up", frozenset())]),
        (
            'sum by (job) (rate(http_requests_total{status=~"5..", job!="x"}[5m])) > 0.01',
            [Selector("http_requests_total", frozenset({"status", "job"}))],
        ),
        ("time() - max by (p) (a_seconds) > 14 * 86400", [Selector("a_seconds", frozenset())]),
        (
            "a > 0 and on (instance) rate(b_total[10m] offset 1h) == 0 or vector(0)",
            [Selector("a", frozenset()), Selector("b_total", frozenset())],
        ),
        (
            "histogram_quantile(0.99, sum by (le, m) (rate(c_bucket[$__rate_interval])))",
            [Selector("c_bucket", frozenset())],
        ),
        ("d > 0.75 * 2^30", [Selector("d", frozenset())]),
    ],
)
def test_the_reader_of_queries_finds_the_series(query: str, expected: list[Selector]) -> None:
    assert selectors(query) == expected


def test_the_list_of_metric_modules_is_complete() -> None:
    """Metrics made anywhere else would be missing from `METRIC_MODULES`."""
    makers = {"Counter", "Gauge", "Histogram", "Summary"}
    found = set()
    for path in [*ROOT.glob("services/**/*.py"), *ROOT.glob("shared/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom) or node.module != "prometheus_client":
                continue
            if makers & {alias.name for alias in node.names}:
                found.add(".".join(path.relative_to(ROOT).with_suffix("").parts))
    assert found == set(METRIC_MODULES)


@pytest.mark.parametrize("query", [*dashboard_queries(), *alert_queries()])
def test_every_series_and_label_is_exported(query: str, exported: dict[str, set[str]]) -> None:
    read = selectors(query)
    assert read
    for selector in read:
        assert selector.name in exported, f"no process exports {selector.name}"
        assert selector.labels <= exported[selector.name], f"{selector.name} has no such label"
    known = set().union(*(exported[selector.name] for selector in read))
    assert grouping_labels(query) <= known


@pytest.mark.parametrize(
    "series",
    [
        "relevo_serving_predictions_total",
        "relevo_serving_request_seconds_bucket",
        "http_requests_total",
        "relevo_validator_prediction_bias",
        "relevo_serving_live_version",
        "relevo_validator_live_as_of_timestamp_seconds",
        "relevo_jobs_total",
        "relevo_cycles_total",
    ],
)
def test_the_dashboard_shows(series: str) -> None:
    assert any(selector.name == series for query in dashboard_queries() for selector in selectors(query))


def test_the_legends_name_labels_that_the_queries_keep() -> None:
    for panel in panels():
        for target in panel["targets"]:
            wanted = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            grouped = grouping_labels(target["expr"])
            assert not grouped or wanted <= grouped, panel["title"]


def test_grafana_can_provision_the_dashboard() -> None:
    board = dashboard()
    assert board["uid"] == "relevo"
    assert "id" not in board, "a number of one Grafana's database"
    assert "__inputs" not in board, "an export for sharing asks for its data source, which provisioning cannot answer"
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    reference = {"type": source["type"], "uid": source["uid"]}
    for panel in panels():
        assert panel["datasource"] == reference
        assert all(target["datasource"] == reference for target in panel["targets"])
        assert panel["description"]
    (variable,) = board["templating"]["list"]
    assert variable["datasource"] == reference
    used = set(re.findall(r"\$(\w+)", " ".join(dashboard_queries())))
    assert used <= {variable["name"], "__rate_interval"}

    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    taken = [(p["x"], p["y"], p["w"], p["h"]) for p in (panel["gridPos"] for panel in board["panels"])]
    for number, (x, y, w, h) in enumerate(taken):
        assert x + w <= 24
        for other_x, other_y, other_w, other_h in taken[:number]:
            apart = x >= other_x + other_w or other_x >= x + w or y >= other_y + other_h or other_y >= y + h
            assert apart, f"panel {ids[number]} lies over another"


def test_the_pipeline_variable_reads_a_series_that_exists(exported: dict[str, set[str]]) -> None:
    (variable,) = dashboard()["templating"]["list"]
    match = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
    assert match is not None
    assert match[2] in exported[match[1]]


def test_provisioning_files_name_what_compose_mounts() -> None:
    services = compose()["services"]
    grafana = services["grafana"]
    assert grafana["profiles"] == ["grafana"]
    mounts = dict(reversed(mount.split(":")[:2]) for mount in grafana["volumes"])
    assert (ROOT / mounts["/etc/grafana/provisioning"]).samefile(GRAFANA / "provisioning")
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/relevo.yml").read_text())["providers"]
    folder = provider["options"]["path"]
    assert (ROOT / mounts[folder]).samefile(GRAFANA / "dashboards")
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{folder}/relevo.json"
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert services["prometheus"]["ports"] == ["127.0.0.1:9090:9090"]
