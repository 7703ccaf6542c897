"""The card of a dataset: what a person wants to know before trusting a model trained on it, as Markdown. Pure."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import yaml

from shared.registry.states import DatasetState
from shared.registry.tables import Dataset
from shared.spec import PipelineSpec
from shared.spec.types import format_duration

_TOP_SHOWN = 5


def card(dataset: Dataset, spec: PipelineSpec) -> str:
    """The card. One that is not ready says so and shows what is known."""
    parts = [f"# {spec.name}, dataset {dataset.number}", spec.description, _what(dataset, spec)]
    if dataset.state == DatasetState.READY:
        parts += [_windows(dataset), _statistics(dataset.statistics, spec)]
    parts += [_labels(spec), _origin(dataset), "## Pipeline\n\n```yaml\n" + _yaml(spec) + "```"]
    return "\n\n".join(part for part in parts if part) + "\n"


def _what(dataset: Dataset, spec: PipelineSpec) -> str:
    rows = [
        ("State", f"{dataset.state}" + (f": {dataset.reason}" if dataset.reason else "")),
        ("Task", f"{spec.task}, predicts `{spec.label.name}`"),
        ("Owner", spec.owner or "not named"),
        ("Known as of", _time(dataset.as_of)),
        ("Pipeline version", str(dataset.spec_version)),
        ("Digest", f"`{dataset.digest}`" if dataset.digest else "none yet"),
    ]
    return _table(("", ""), rows)


def _windows(dataset: Dataset) -> str:
    statistics = dataset.statistics
    rows = [
        (
            split,
            _time(start),
            _time(end),
            f"{count:,}",
            _number(statistics.get(split, {}).get("columns", {}).get("label", {}).get("mean")),
        )
        for split, start, end, count in (
            ("train", dataset.train_start, dataset.train_end, dataset.train_rows or 0),
            ("test", dataset.test_start, dataset.test_end, dataset.test_rows or 0),
        )
    ]
    note = "Split by event time, the newest part for testing; each window holds its start and not its end."
    return f"## Windows\n\n{note}\n\n" + _table(("split", "from", "to", "rows", "label mean"), rows)


def _labels(spec: PipelineSpec) -> str:
    missing = "left out" if spec.label.if_missing == "drop" else "a 0"
    return (
        f"## Labels\n\nOnly examples at least {format_duration(spec.label.mature_after)} old count. "
        f"One without a label is {missing}. Of several labels of an example, explicit ones beat those that came with "
        "events, and those beat implicit ones; then the one that became known last counts. Features are those the live "
        "model was asked with, where it was asked; else those of the event."
    )


def _origin(dataset: Dataset) -> str:
    rows = [
        (name, "not read yet" if mark is None else f"{mark:,}")
        for name, mark in (
            ("events", dataset.event_watermark),
            ("labels", dataset.label_watermark),
            ("predictions", dataset.prediction_watermark),
        )
    ]
    note = "Read up to these ingest sequences, so that the dataset can be built again to the same digest."
    return f"## Origin\n\n{note}\n\n" + _table(("source", "sequence"), rows)


def _statistics(statistics: dict[str, Any], spec: PipelineSpec) -> str:
    parts = ["## Columns"]
    names = dict.fromkeys(["time", *spec.input_features, "label"])
    for split in ("train", "test"):
        columns = statistics.get(split, {}).get("columns", {})
        found = {name: columns[name] for name in names if name in columns}
        rows = [(f"`{name}`", entry["type"], _share(entry), *_shape(entry)) for name, entry in found.items()]
        header = ("column", "type", "missing", "mean", "std", "min", "median", "max", "distinct, most frequent")
        parts.append(f"### {split}\n\n" + _table(header, rows))
    return "\n\n".join(parts)


def _shape(entry: dict[str, Any]) -> tuple[str, ...]:
    if entry["type"] == "category":
        top = ", ".join(f"{_cell(value)} ({count:,})" for value, count in entry["top"][:_TOP_SHOWN])
        return ("", "", "", "", "", f"{entry['distinct']:,}: {top}")
    if entry["type"] == "timestamp":
        return ("", "", entry["min"] or "", "", entry["max"] or "", "")
    median = entry.get("quantiles", {}).get("0.5")
    return (
        *(_number(value) for value in (entry["mean"], entry["std"], entry.get("min"), median, entry.get("max"))),
        "",
    )


def _share(entry: dict[str, Any]) -> str:
    total = entry["count"] + entry["missing"]
    return f"{entry['missing']:,} ({entry['missing'] / total:.1%})" if total else "0"


def _yaml(spec: PipelineSpec) -> str:
    document: str = yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)
    return document


def _time(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment:%Y-%m-%d %H:%M} UTC"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(text: str) -> str:
    """A value that people sent, made harmless in a table of a page that may be shown as HTML."""
    shown = "".join(character if character.isprintable() else "?" for character in text[:40])
    return "".join(_ESCAPES.get(character, character) for character in shown)


_ESCAPES = {"<": "&lt;", ">": "&gt;", "&": "&amp;", **{character: f"\\{character}" for character in "\\`|[]*_"}}
