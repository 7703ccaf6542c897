"""What the trainer reads from a training table beyond `shared.feeds`: the signature's inputs, labels fit to learn from, keys."""

from typing import Any, Literal

import numpy as np
import pyarrow as pa

from shared import feeds
from shared.errors import Invalid
from shared.feeds import Feeds, labels_of
from shared.spec import CategoryFeature, Feature, NumberFeature, PipelineSpec, TimestampFeature, VectorFeature

MAX_LABEL = 1e30
"""Larger labels, and their scores, would come near the end of float32."""
InputKind = Literal["category", "number", "timestamp", "vector"]


def input_kind(feature: Feature) -> InputKind:
    """The kind of input tensor a feature has.

    Raises:
        TypeError: a cross, which has no input of its own.
    """
    match feature:
        case CategoryFeature():
            return "category"
        case NumberFeature():
            return "number"
        case TimestampFeature():
            return "timestamp"
        case VectorFeature():
            return "vector"
        case _:
            raise TypeError(f"a {feature.type} feature has no input of its own")


def inputs_of(spec: PipelineSpec) -> list[dict[str, Any]]:
    """The `inputs` of the signature: `{"name", "kind", "required", "length"?}` each, in the spec's order."""
    inputs: list[dict[str, Any]] = []
    for name, feature in spec.input_features.items():
        entry = {"name": name, "kind": input_kind(feature), "required": getattr(feature, "required", True)}
        if isinstance(feature, VectorFeature):
            entry["length"] = feature.length
        inputs.append(entry)
    return inputs


def feeds_of(table: pa.Table, spec: PipelineSpec) -> Feeds:
    """The input tensors of every input feature: `shared.feeds.feeds_of` for this pipeline.

    Raises:
        Invalid: a column is missing, has a type that does not fit, or holds nulls where every value must be given.
    """
    return feeds.feeds_of(table, inputs_of(spec))


def read_labels(table: pa.Table, spec: PipelineSpec) -> np.ndarray:
    """The column `label` as float64 [n].

    Raises:
        Invalid: a label is null, NaN, infinite or beyond float32, in which scores are; or, for a binary task, neither
            0 nor 1.
    """
    labels = labels_of(table)
    bad = int(np.count_nonzero(np.abs(labels) > MAX_LABEL))
    if bad:
        raise Invalid(f"{bad} of {len(labels)} training labels are beyond ±{MAX_LABEL:g}; use a larger unit.")
    if spec.task == "binary":
        bad = int(np.count_nonzero((labels != 0) & (labels != 1)))
        if bad:
            raise Invalid(f"{bad} of {len(labels)} training labels are neither 0 nor 1, which task binary needs.")
    return labels


def read_keys(table: pa.Table) -> np.ndarray:
    """The column `key` as object [n] of str.

    Raises:
        Invalid: the column is missing or is not text.
    """
    if "key" not in table.column_names:
        raise Invalid(f"The rows have no column key; they have {', '.join(table.column_names)}.")
    try:
        return table.column("key").cast(pa.string()).to_numpy(zero_copy_only=False).astype(object)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise Invalid(f"The column key is {table.column('key').type}, not string.") from None
