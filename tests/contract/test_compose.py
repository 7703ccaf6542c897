"""docker-compose.yml, the Dockerfile and Prometheus's files name only what exists, agree with each other and with `relevo up`."""

import itertools
import os
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from pydantic import AliasChoices
from pydantic_settings import BaseSettings

from cli.stack import processes
from services.data.config import DataSettings
from services.serving.config import ServingSettings
from services.trainer.config import TrainerSettings
from services.validator.config import ValidatorSettings
from shared import keys
from shared.config import CommonSettings
from tests.contract.deployment import (
    DEPLOY,
    MADE,
    PROCESSES,
    ROOT,
    SERVICES,
    WATCHED,
    Stage,
    compose,
    option,
    stages,
    variables,
)

SETTINGS: tuple[type[BaseSettings], ...] = (
    CommonSettings,
    DataSettings,
    ServingSettings,
    TrainerSettings,
    ValidatorSettings,
)
ENGINES = ("postgres", "valkey", "prometheus", "grafana")
NOT_OURS = {
    # Python and numeric libraries, the images' own health check, switches of other people's telemetry.
    *("PATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "LANG", "HOME", "TMPDIR", "DO_NOT_TRACK", "READY_URL"),
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY"),
    # Read outside of the settings classes: `shared.config.local_cache_dir`, `shared.registry.migrate`.
    *("RELEVO_CACHE_DIR", "RELEVO_ADMIN_KEY"),
}
KNOWN_OF_IMAGES = {
    "postgres": {"POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB"},
    "valkey": {"VALKEYCLI_AUTH", "REDISCLI_AUTH"},
    "prometheus": set(),
    "grafana": {
        "GF_SECURITY_ADMIN_PASSWORD",
        "GF_USERS_ALLOW_SIGN_UP",
        "GF_ANALYTICS_REPORTING_ENABLED",
        "GF_ANALYTICS_CHECK_FOR_UPDATES",
        "GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES",
        "GF_NEWS_NEWS_FEED_ENABLED",
        "GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH",
    },
}


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    """The services of docker-compose.yml."""
    found: dict[str, dict[str, Any]] = compose()["services"]
    return found


@pytest.fixture(scope="module")
def images() -> dict[str, Stage]:
    """The stages of deploy/Dockerfile."""
    return stages()


def settings_variables(*classes: type[BaseSettings]) -> set[str]:
    """The environment variables that settings classes read."""
    names = set()
    for settings in classes:
        for name, field in settings.model_fields.items():
            alias = field.validation_alias
            if isinstance(alias, AliasChoices):
                names |= {str(choice) for choice in alias.choices}
            else:
                names.add(alias if isinstance(alias, str) else f"{settings.model_config['env_prefix']}{name.upper()}")
    return names


def environment_in(name: str, services: dict[str, dict[str, Any]], images: dict[str, Stage]) -> dict[str, str]:
    """What a process finds in its environment: the image's, then compose's."""
    return images[name].environment | services[name].get("environment", {})


def test_compose_runs_what_the_stack_runs(services: dict[str, Any], images: dict[str, Stage]) -> None:
    assert set(services) == {*PROCESSES, *ENGINES}
    parts = processes.product_parts({}, SERVICES, engines=(), free=itertools.count(9000), cpus=1, inherited={})
    assert [part.wanted.name for part in parts] == list(PROCESSES)
    for part in parts:
        wanted = ["python" if word == sys.executable else word for word in part.command]
        if part.wanted.name in SERVICES:
            wanted[wanted.index("--host") + 1] = "0.0.0.0"
        assert images[part.wanted.name].command == wanted


@pytest.mark.parametrize("name", PROCESSES)
def test_each_process_has_an_image_of_its_own(name: str, services: dict[str, Any], images: dict[str, Stage]) -> None:
    service = services[name]
    assert service["build"]["target"] == name
    assert (ROOT / service["build"]["context"] / service["build"]["dockerfile"]).samefile(DEPLOY / "Dockerfile")
    assert service["image"] == f"relevo/{name}"
    assert "command" not in service
    assert "entrypoint" not in service
    assert images[name].user == "10001:10001"


@pytest.mark.parametrize(("name", "port"), SERVICES.items())
def test_a_service_has_one_port_wherever_it_is_named(
    name: str, port: int, services: dict[str, Any], images: dict[str, Stage]
) -> None:
    assert option(images[name].command, "--port") == str(port)
    assert images[name].ports == {port}
    assert images[name].environment["READY_URL"] == f"http://127.0.0.1:{port}/readyz"
    assert services[name]["ports"] == [f"127.0.0.1:{port}:{port}"]
    for other in PROCESSES:
        assert services[other]["environment"][f"RELEVO_{name.upper()}_URL"] == f"http://{name}:{port}"


@pytest.mark.parametrize("name", WATCHED)
def test_workers_answer_on_their_metrics_port(name: str, services: dict[str, Any], images: dict[str, Stage]) -> None:
    environment = environment_in(name, services, images)
    port = int(environment["RELEVO_METRICS_PORT"])
    assert images[name].ports == {port}
    assert environment["READY_URL"] == f"http://127.0.0.1:{port}/readyz"
    assert environment["RELEVO_METRICS_HOST"] == "0.0.0.0", "Prometheus asks from outside of the container"
    assert "ports" not in services[name]


def test_prometheus_scrapes_every_process(services: dict[str, Any], images: dict[str, Stage]) -> None:
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    targets = {
        job["job_name"]: [target for entry in job["static_configs"] for target in entry["targets"]]
        for job in config["scrape_configs"]
    }
    wanted = {name: [f"{name}:{port}"] for name, port in SERVICES.items()}
    for name in WATCHED:
        wanted[name] = [f"{name}:{environment_in(name, services, images)['RELEVO_METRICS_PORT']}"]
    assert targets == {**wanted, "prometheus": ["localhost:9090"]}
    assert all("metrics_path" not in job for job in config["scrape_configs"])
    for file in config["rule_files"]:
        assert (DEPLOY / "prometheus" / file).is_file()


@pytest.mark.parametrize("name", PROCESSES)
def test_every_variable_means_something_to_the_process(
    name: str, services: dict[str, Any], images: dict[str, Stage]
) -> None:
    known = settings_variables(*SETTINGS)
    environment = environment_in(name, services, images)
    assert set(environment) <= known | NOT_OURS
    # And the process starts with them: settings that are there and pass.
    with pytest.MonkeyPatch.context() as patch:
        for variable in known:
            patch.delenv(variable, raising=False)
        for variable, value in environment.items():
            patch.setenv(variable, value)
        for settings in SETTINGS:
            settings()


def test_the_images_of_others_get_variables_they_know(services: dict[str, Any]) -> None:
    for name in ENGINES:
        assert set(services[name].get("environment", {})) == KNOWN_OF_IMAGES[name]


def test_addresses_and_passwords_lead_to_the_engines(services: dict[str, Any]) -> None:
    environment = services["serving"]["environment"]
    database, queue = urlsplit(environment["DATABASE_URL"]), urlsplit(environment["REDIS_URL"])
    postgres = services["postgres"]["environment"]
    assert (database.hostname, database.port) == ("postgres", 5432)
    assert (database.username, database.password, database.path) == (
        postgres["POSTGRES_USER"],
        postgres["POSTGRES_PASSWORD"],
        f"/{postgres['POSTGRES_DB']}",
    )
    assert (queue.hostname, queue.port) == ("valkey", 6379)
    assert queue.password == option(services["valkey"]["command"], "--requirepass")
    assert option(services["valkey"]["command"], "--maxmemory-policy") == "noeviction"


def test_no_secret_has_a_default() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    for variable in variables(text):
        secret = re.search(r"PASSWORD|SECRET|KEY", variable.name) is not None
        assert variable.required == secret, variable.name
    for missing in MADE:
        with pytest.raises(KeyError, match=missing):
            compose({name: value for name, value in MADE.items() if name != missing})


def test_the_example_settings_list_every_variable_with_its_default() -> None:
    found = {variable.name: variable.default or "" for variable in variables((ROOT / "docker-compose.yml").read_text())}
    example = (ROOT / ".env.example").read_text()
    assert dict(re.findall(r"^#?([A-Z_]+)=(.*)$", example, re.MULTILINE)) == found


def test_make_env_writes_secrets_that_the_product_accepts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "settings"
    make = [str(DEPLOY / "make-env"), str(file)]
    subprocess.run(make, check=True, capture_output=True)
    made = dict(re.findall(r"^([A-Z_]+)=(.*)$", file.read_text(), re.MULTILINE))
    assert set(made) == set(MADE)
    assert len(set(made.values())) == len(made)
    assert file.stat().st_mode & 0o777 == 0o600
    assert keys.parse(made["RELEVO_ADMIN_KEY"]) is not None
    assert keys.parse(made["RELEVO_SERVICE_KEY"]) is not None
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{32,}", value) for value in made.values()), "safe inside addresses"
    environment = compose(made)["services"]["serving"]["environment"]
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    CommonSettings()

    before = file.read_bytes()
    again = subprocess.run(make, check=False, capture_output=True, text=True)
    assert again.returncode == 1
    assert "already there" in again.stderr
    assert file.read_bytes() == before


def test_the_trial_run_says_when_there_is_no_engine(tmp_path: Path) -> None:
    (tmp_path / "dirname").symlink_to(shutil.which("dirname") or "/usr/bin/dirname")
    bash = shutil.which("bash") or "/bin/bash"
    words = [bash, str(DEPLOY / "compose-test")]
    result = subprocess.run(words, env={"PATH": str(tmp_path)}, check=False, capture_output=True, text=True)
    assert result.returncode == 1
    assert "no docker command on the PATH" in result.stderr


def test_only_loopback_is_published(services: dict[str, Any]) -> None:
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert len(published) == len(SERVICES) + 2
    assert all(str(port).startswith("127.0.0.1:") for port in published)


@pytest.mark.parametrize("name", PROCESSES)
def test_processes_run_with_as_little_as_they_need(name: str, services: dict[str, Any]) -> None:
    service = services[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] == ("no" if name == "migrate" else "unless-stopped")
    assert service["stop_grace_period"]


def test_start_up_waits_for_health(services: dict[str, Any], images: dict[str, Stage]) -> None:
    assert services["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    for name in PROCESSES[1:]:
        needs = services[name]["depends_on"]
        assert needs["migrate"] == {"condition": "service_completed_successfully"}
        for other, need in needs.items():
            assert other in services
            assert need["condition"] == ("service_completed_successfully" if other == "migrate" else "service_healthy")
            assert other == "migrate" or "healthcheck" in services[other] or images[other].health
        assert images[name].health is not None
        assert name in SERVICES or "valkey" in needs
    for name in ENGINES:
        assert services[name]["healthcheck"]["test"]


def test_data_lies_in_volumes(services: dict[str, Any], images: dict[str, Stage]) -> None:
    volumes = compose()["volumes"]
    mounts = {
        name: dict(str(mount).split(":")[1::-1] for mount in service.get("volumes", []) if ":" in mount)
        for name, service in services.items()
    }
    used = {source for by_target in mounts.values() for source in by_target.values() if not source.startswith(".")}
    assert used == set(volumes)
    for name in PROCESSES:
        environment = environment_in(name, services, images)
        assert mounts[name][urlsplit(environment["RELEVO_ARTIFACTS_URL"]).path] == "artifacts"
        for scratch in ("HOME", "TMPDIR"):
            assert environment[scratch] in services[name]["volumes"], "the root file system is read-only"
        spool = mounts[name].get(environment["SERVING_SPOOL_DIR"])
        assert spool == ("serving-spool" if name == "serving" else None)


def test_files_that_are_named_exist(services: dict[str, Any], images: dict[str, Stage]) -> None:
    ignore = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    sent = [line[1:] for line in ignore if line.startswith("!")]
    for stage in images.values():
        for source, _ in stage.copies:
            assert (ROOT / source).exists()
            assert any(fnmatch(source, pattern) or source.startswith(f"{pattern}/") for pattern in sent), source
    for service in services.values():
        for mount in service.get("volumes", []):
            source = str(mount).split(":", maxsplit=1)[0]
            assert not source.startswith(".") or (ROOT / source).is_dir()
    assert os.access(DEPLOY / "make-env", os.X_OK)


def test_the_gpu_goes_to_the_training_worker() -> None:
    override = compose(name="docker-compose.gpu.yml")["services"]
    assert list(override) == ["trainer-worker"]
    (device,) = override["trainer-worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}


def test_alert_rules_have_what_people_need() -> None:
    groups = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert rule["expr"].strip()
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert set(rule["annotations"]) == {"summary", "description"}
    explained = set(re.findall(r"Relevo[A-Z]\w+", (ROOT / "docs" / "deploy.md").read_text()))
    assert explained == {rule["alert"] for rule in rules}
    tried = yaml.safe_load((DEPLOY / "prometheus" / "alerts.test.yml").read_text())
    assert tried["rule_files"] == ["alerts.yml"]


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed; make compose-test runs it in its image"
)
@pytest.mark.parametrize("words", [("check", "config", "prometheus.yml"), ("test", "rules", "alerts.test.yml")])
def test_promtool_accepts_configuration_and_rules(words: tuple[str, ...]) -> None:
    result = subprocess.run(
        ["promtool", *words], cwd=DEPLOY / "prometheus", check=False, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
