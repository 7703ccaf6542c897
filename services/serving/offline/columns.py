"""The columns of a generation: from whatever a source calls them to a version's raw features; checked where nobody has."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from services.serving.offline.generation import KEY, SCORE, TIME
from shared.copy_rows import arrow_type, feature_columns
from shared.errors import FieldError, Invalid
from shared.feeds import Feeds, feeds_of
from shared.instances import FIRST, LAST, MAX_KEY_CHARS, MAX_VALUE_CHARS, epoch_us, read_moment
from shared.spec import CategoryFeature, NumberFeature, PipelineSpec, TimestampFeature, VectorFeature

TARGET_BYTES = 4 << 20
LEAST_ROWS, MOST_ROWS = 256, 16_384
_ABOUT_BYTES = 16
"""Of a text or a number, on average."""


def columns_of(spec: PipelineSpec) -> pa.Schema:
    """Key, time and features, as they are stored; times are epoch microseconds UTC."""
    features = {name: arrow_type(feature) for name, feature in feature_columns(spec).items()}
    return pa.schema([(KEY, pa.string()), (TIME, pa.int64()), *features.items()])


def stored_columns(spec: PipelineSpec) -> pa.Schema:
    """The same with the score."""
    return columns_of(spec).append(pa.field(SCORE, pa.float32()))


def batch_rows(spec: PipelineSpec) -> int:
    """Rows of a batch: a power of two that keeps it at some megabytes, however wide the rows are."""
    vectors = sum(8 * feature.length for feature in spec.features.values() if isinstance(feature, VectorFeature))
    wanted = TARGET_BYTES // (vectors + _ABOUT_BYTES * (2 + len(spec.features)))
    return max(LEAST_ROWS, min(MOST_ROWS, 1 << max(0, wanted.bit_length() - 1)))


def conform(batch: pa.RecordBatch, spec: PipelineSpec, names: Mapping[str, str], version: int) -> pa.RecordBatch:
    """A source's batch as `columns_of` says.

    Args:
        names: what the source calls the columns that it calls otherwise.

    Raises:
        Invalid: a column that the version needs is missing or has another type; the message names it.
    """
    schema = columns_of(spec)
    columns = []
    for field in schema:
        name = names.get(field.name, field.name)
        if name in batch.schema.names:
            columns.append(_cast(name, batch.column(name), field.type))
        elif is_optional(spec, field.name):
            columns.append(pa.nulls(len(batch), field.type))
        else:
            raise Invalid(
                f"The rows have no column {name}, which version {version} of {spec.name} needs.",
                errors=[{"loc": [name], "msg": "is required"}],
            )
    return pa.record_batch(columns, schema=schema)


def feeds(batch: pa.RecordBatch, spec: PipelineSpec, inputs: list[Mapping[str, Any]]) -> Feeds:
    """The tensors of a model's inputs; `inputs` as in its registered signature."""
    table = pa.Table.from_batches([batch])
    if spec.time in spec.input_features and spec.time != TIME:
        table = table.append_column(spec.time, table.column(TIME))
    return feeds_of(table, inputs)


def rebatched(batches: Iterator[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of exactly so many, but for the last."""
    waiting: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        waiting.append(batch)
        count += len(batch)
        while count >= rows:
            whole = pa.concat_batches(waiting) if len(waiting) > 1 else waiting[0]
            yield whole.slice(0, rows)
            count -= rows
            waiting = [whole.slice(rows)] if count else []
    if count:
        yield pa.concat_batches(waiting)


def check_values(batch: pa.RecordBatch, spec: PipelineSpec, first_row: int) -> None:
    """Hold rows that nobody has checked to what an instance may hold (`shared.instances`).

    Args:
        batch: as from `conform`.
        first_row: number of its first row, for messages.

    Raises:
        Invalid: names the column, the first row that is wrong, and what is wrong.
    """
    for name, rules in _rules(spec).items():
        column = batch.column(name)
        for wrong, message in rules:
            bad = pc.fill_null(wrong(column), False).to_numpy(zero_copy_only=False)
            if bad.any():
                shown = {KEY: spec.key, TIME: spec.time}.get(name, name)
                row = first_row + int(np.argmax(bad))
                error: FieldError = {"loc": [row, shown], "msg": message}
                raise Invalid(f"The column {shown} {message} (row {row}).", errors=[error])


_Rule = tuple[Callable[[Any], Any], str]


def _rules(spec: PipelineSpec) -> dict[str, list[_Rule]]:
    moment: list[_Rule] = [
        (pc.is_null, "is required"),
        (
            lambda c: pc.or_(pc.less(c, epoch_us(FIRST)), pc.greater_equal(c, epoch_us(LAST))),
            "must lie between the years 1900 and 2099",
        ),
    ]
    rules: dict[str, list[_Rule]] = {
        KEY: [
            (lambda c: pc.equal(pc.fill_null(c, ""), ""), "must have 1 to 256 characters"),
            (lambda c: pc.greater(pc.utf8_length(c), MAX_KEY_CHARS), "must have 1 to 256 characters"),
            (_has_nul, "must not contain the NUL character"),
        ],
        TIME: moment,
    }
    for name, feature in feature_columns(spec).items():
        needed: list[_Rule] = [] if is_optional(spec, name) else [(pc.is_null, "is required")]
        match feature:
            case CategoryFeature():
                long: _Rule = (
                    lambda c: pc.greater(pc.utf8_length(c), MAX_VALUE_CHARS),
                    f"must have at most {MAX_VALUE_CHARS} characters",
                )
                blank: list[_Rule] = [(lambda c: pc.equal(c, ""), "is required")] if needed else []
                rules[name] = [*needed, *blank, long, (_has_nul, "must not contain the NUL character")]
            case NumberFeature():
                finite: _Rule = (
                    lambda c: pc.invert(pc.is_finite(c)),
                    "must be a finite number, or null where it is missing",
                )
                rules[name] = [*needed, finite]
            case TimestampFeature():
                rules[name] = moment
            case VectorFeature(length=length):
                rules[name] = [
                    *needed,
                    (partial(_is_of_other_length, length), f"must be a list of {length} numbers"),
                    (_has_gaps, f"must be a list of {length} finite numbers, none missing"),
                ]
    return rules


def _has_nul(column: pa.Array) -> pa.Array:
    return pc.match_substring(column, "\x00")


def _is_of_other_length(length: int, column: pa.ListArray) -> pa.Array:
    return pc.not_equal(pc.list_value_length(column), length)


def _has_gaps(column: pa.ListArray) -> pa.Array:
    values = column.flatten()
    bad = pc.invert(pc.fill_null(pc.is_finite(values), False)).to_numpy(zero_copy_only=False)
    lists = pc.list_parent_indices(column).to_numpy()
    rows = np.zeros(len(column), bool)
    rows[lists[bad]] = True
    return pa.array(rows)


def is_optional(spec: PipelineSpec, name: str) -> bool:
    """Whether a column may be missing, in a row or altogether."""
    feature = spec.input_features.get(name)
    return isinstance(feature, NumberFeature | CategoryFeature) and not feature.required and name not in (KEY, TIME)


def _cast(name: str, column: pa.Array, wanted: pa.DataType) -> pa.Array:
    if column.type == wanted:
        return column
    try:
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.timestamp("us", tz=column.type.tz))
        elif pa.types.is_string(column.type) and wanted == pa.int64():
            return pa.array(
                [None if text is None else epoch_us(read_moment(text)) for text in column.to_pylist()], wanted
            )
        return column.cast(wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise Invalid(
            f"The column {name} is {column.type}, not {wanted}: {reason}.", errors=[{"loc": [name], "msg": reason}]
        ) from None
