"""The four services as methods: one call each, named after what it does, returning the service's JSON as it came.

Posts that create work carry an idempotency key, those that move the version in production the generation they found: a call
repeated after a broken connection takes effect once.
"""

import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import orjson

from cli.addresses import Addresses
from cli.transport import Refused, Transport

Json = dict[str, Any]
PAGE = 100
"""Items fetched at a time when a list is read through."""


class Client:
    """Relevo over HTTP. Every method raises `cli.transport.CallFailed` when the call does not succeed."""

    def __init__(self, addresses: Addresses, *, timeout_s: float = 60) -> None:
        self.addresses = addresses
        self._transport = Transport(addresses, timeout_s=timeout_s)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._transport.close()

    # data

    def apply(self, document: Json, *, dry_run: bool = False) -> Json:
        """Create the pipeline, or add a spec version to it; a dry run only tells what would change."""
        return self._post("data", "/v1/pipelines", document, query={"dry_run": dry_run or None}, repeatable=True)

    def pipeline(self, name: str) -> Json:
        """The pipeline and its newest spec."""
        return self._get("data", _pipeline(name))

    def ingest(self, name: str, body: bytes, content_type: str) -> Json:
        """Send events; the answer counts what was accepted, known already, or put into quarantine (with reasons)."""
        path = f"{_pipeline(name)}/events"
        return self._json("data", "POST", path, content=body, content_type=content_type, repeatable=True)

    def label(self, name: str, rows: Sequence[Json]) -> Json:
        """Send ground truth by key or prediction id."""
        return self._post("data", f"{_pipeline(name)}/labels", list(rows), repeatable=True)

    def build_dataset(self, name: str, as_of: datetime | None = None) -> Json:
        """Ask for a new dataset version."""
        return self._create("data", f"{_pipeline(name)}/datasets", {"as_of": as_of})

    def datasets(self, name: str) -> Iterator[Json]:
        """Dataset versions, newest first."""
        return self._pages("data", f"{_pipeline(name)}/datasets")

    def dataset(self, name: str, number: int) -> Json:
        """One dataset version."""
        return self._get("data", f"{_pipeline(name)}/datasets/{number}")

    # trainer

    def start_cycle(self, name: str, as_of: datetime | None = None) -> Json:
        """Start one pass through the loop."""
        return self._create("trainer", f"{_pipeline(name)}/cycles", {"as_of": as_of})

    def cycles(self, name: str) -> Iterator[Json]:
        """Cycles, newest first."""
        return self._pages("trainer", f"{_pipeline(name)}/cycles")

    def cycle(self, name: str, cycle_id: str) -> Json:
        """One cycle."""
        return self._get("trainer", f"{_pipeline(name)}/cycles/{_part(cycle_id)}")

    def cancel_cycle(self, name: str, cycle_id: str) -> Json:
        """Stop a cycle that has not ended."""
        return self._post("trainer", f"{_pipeline(name)}/cycles/{_part(cycle_id)}/cancel", None, repeatable=True)

    def runs(self, name: str) -> Iterator[Json]:
        """Training runs, newest first."""
        return self._pages("trainer", f"{_pipeline(name)}/runs")

    def run(self, name: str, run_id: str) -> Json:
        """One training run."""
        return self._get("trainer", f"{_pipeline(name)}/runs/{_part(run_id)}")

    def versions(self, name: str) -> Iterator[Json]:
        """Model versions, newest first."""
        return self._pages("trainer", f"{_pipeline(name)}/versions")

    def schedule(self, name: str) -> Json:
        """When cycles start by themselves."""
        return self._get("trainer", f"{_pipeline(name)}/schedule")

    def set_schedule(self, name: str, *, cron: str | None, paused: bool) -> Json:
        """Change when cycles start by themselves; no cron means the pipeline file's."""
        return self._json("trainer", "PUT", f"{_pipeline(name)}/schedule", json={"cron": cron, "paused": paused})

    # validator

    def validation(self, name: str, validation_id: str) -> Json:
        """One verdict."""
        return self._get("validator", f"{_pipeline(name)}/validations/{_part(validation_id)}")

    def monitoring(self, name: str, start: datetime | None = None, end: datetime | None = None) -> Json:
        """How the model in production did, a row for each day of event time."""
        return self._get(
            "validator", f"{_pipeline(name)}/monitoring", query={"from": _moment(start), "to": _moment(end)}
        )

    def alerts(self, name: str) -> Iterator[Json]:
        """What needed attention, newest first."""
        return self._pages("validator", f"{_pipeline(name)}/alerts")

    def acknowledge(self, name: str, alert_id: str) -> Json:
        """Mark an alert as seen."""
        return self._post("validator", f"{_pipeline(name)}/alerts/{_part(alert_id)}/acknowledge", None, repeatable=True)

    # serving

    def predict(self, name: str, instances: Sequence[Json], version: int | None = None) -> Json:
        """Score instances with the model in production, or with a version by number."""
        body: Json = {"instances": list(instances)}
        if version is not None:
            body["version"] = version
        return self._post("serving", f"/v1/models/{_part(name)}/predict", body)

    def lookup(self, name: str, key: str) -> Json:
        """A key's prediction: made ahead, else scored now, else the pipeline's default."""
        return self._get("serving", f"/v1/models/{_part(name)}/predictions/{_part(key)}")

    def precompute(self, name: str, source: Json) -> Json:
        """Ask for a generation of offline predictions."""
        return self._create("serving", f"/v1/models/{_part(name)}/precompute", source)

    def precompute_file(self, name: str, body: bytes) -> Json:
        """Ask for one of the rows of a Parquet file."""
        path, kind = f"/v1/models/{_part(name)}/precompute", "application/vnd.apache.parquet"
        return self._json("serving", "POST", path, content=body, content_type=kind, idempotency_key=str(uuid4()))

    def generation(self, name: str, number: int) -> Json:
        """One generation and how far it is."""
        return self._get("serving", f"/v1/models/{_part(name)}/precompute/{number}")

    def generations(self, name: str) -> Iterator[Json]:
        """Generations of offline predictions, newest first."""
        return self._pages("serving", f"/v1/models/{_part(name)}/precompute")

    def feedback(self, items: Sequence[Json]) -> Json:
        """Send the truth about predictions; the answer has a verdict for each item."""
        return self._post("serving", "/feedback", list(items), repeatable=True)

    def deployment(self, name: str) -> Json:
        """Which version serves, since when, and what is loaded."""
        return self._get("serving", f"/admin/models/{_part(name)}")

    def deployment_or_none(self, name: str) -> Json | None:
        """The same; None when no version of the pipeline has been released."""
        try:
            return self.deployment(name)
        except Refused as error:
            if error.status == 404:
                return None
            raise

    def deployment_history(self, name: str) -> Iterator[Json]:
        """Every change of the version in production, newest first."""
        return self._pages("serving", f"/admin/models/{_part(name)}/history")

    def promote(self, name: str, version: int, *, reason: str = "", override: str | None = None) -> Json:
        """Put a version into production; without a passing verdict this needs an override."""
        body: Json = {"version": version, "reason": reason}
        if override is not None:
            body["override"] = override
        return self._move(name, "promote", body)

    def rollback(self, name: str, *, reason: str) -> Json:
        """Put the version that served before back into production."""
        return self._move(name, "rollback", {"reason": reason})

    # keys

    def create_key(self, body: Json) -> Json:
        """Make an API key; its text is in the answer, this once."""
        return self._post("data", "/v1/keys", body)

    def keys(self) -> Iterator[Json]:
        """API keys, newest first, without their secrets."""
        return self._pages("data", "/v1/keys")

    def revoke_key(self, key_id: str) -> Json:
        """End an API key for good."""
        return self._post("data", f"/v1/keys/{_part(key_id)}/revoke", None, repeatable=True)

    def log_waiting_bytes(self) -> int:
        """How much of the prediction log serving has not brought to the registry yet; datasets do not hold those rows."""
        text = self._transport.call("serving", "GET", "/metrics").text
        found = re.search(r"^relevo_serving_spool_bytes (\S+)$", text, re.MULTILINE)
        return int(float(found[1])) if found else 0

    def _json(self, service: str, method: str, path: str, **options: Any) -> Any:
        return orjson.loads(self._transport.call(service, method, path, **options).content)

    def _get(self, service: str, path: str, **options: Any) -> Json:
        return self._json(service, "GET", path, **options)

    def _post(self, service: str, path: str, body: Any, **options: Any) -> Json:
        return self._json(service, "POST", path, json=body, **options)

    def _create(self, service: str, path: str, body: Json) -> Json:
        given = {name: value for name, value in body.items() if value is not None}
        return self._post(service, path, given, idempotency_key=str(uuid4()))

    def _move(self, name: str, action: str, body: Json) -> Json:
        """Change what is in production, unless somebody else does so first."""
        model = f"/admin/models/{_part(name)}"
        # From the registry: a replica's own view may be a second old.
        newest = self._get("serving", f"{model}/history", query={"limit": 1})["items"]
        expected = {"expected_generation": newest[0]["generation"] if newest else 0}
        return self._post("serving", f"{model}/{action}", {**body, **expected}, repeatable=True)

    def _pages(self, service: str, path: str) -> Iterator[Json]:
        after: str | None = None
        while True:
            page = self._get(service, path, query={"limit": PAGE, "after": after})
            yield from page["items"]
            after = page["next"]
            if after is None:
                return


def _pipeline(name: str) -> str:
    return f"/v1/pipelines/{_part(name)}"


def _part(value: str) -> str:
    """A value as one part of a path."""
    return quote(str(value), safe="")


def _moment(value: datetime | None) -> str | None:
    return None if value is None else value.isoformat()
