"""Rows of prediction requests, read by a decoder that is generated from a version's fields: about a microsecond a row.

What the decoder does not take at once is read carefully (`services.serving.instances`), which names every wrong field or, for the
few forms that the decoder does not know, gives the same rows. Tests hold the two to each other.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, repeat, starmap
from operator import attrgetter, itemgetter
from struct import Struct
from struct import error as StructError  # noqa: N812 - a class
from typing import Annotated, Any

import msgspec
import numpy as np
import orjson
from msgspec import Meta
from msgspec.structs import astuple

from services.serving.instances import MAX_VERSION, read_rows
from services.serving.models.model import Feeds, Signature
from shared.instances import (
    AVAILABLE_AT,
    FIRST,
    LAST,
    MAX_KEY_CHARS,
    MAX_VALUE_CHARS,
    Instance,
    InstanceReader,
    epoch_us,
    from_epoch_us,
    read_available_at,
    read_moment,
)
from shared.spec import CategoryFeature, Feature, NumberFeature, PipelineSpec, TimestampFeature, VectorFeature

Row = Any
"""One example, of a class generated for a version: `key` str, `time` and `available_at` epoch microseconds UTC, of which the latter
may be None, for when the request was received; the rest is `RowCodec`'s to read."""


def _of_array(array: np.ndarray) -> msgspec.Raw:
    return msgspec.Raw(orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY))


to_json = msgspec.json.Encoder(enc_hook=_of_array).encode
"""Rows, and what holds rows, as JSON. A vector may be an array: of float32 it writes the shortest decimals that mean the same."""

KEY, TIME, AVAILABLE = "key", "time", "available_at"
KEY_OF, TIME_OF, AVAILABLE_OF = attrgetter(KEY), attrgetter(TIME), attrgetter(AVAILABLE)
_INT, _NONE = {int}, {None}
_Text = Annotated[str, Meta(max_length=MAX_VALUE_CHARS)]
_Moment = Annotated[int, Meta(ge=epoch_us(FIRST), lt=epoch_us(LAST))] | Annotated[str, Meta(max_length=64)]
_Scalar = _Text | bool | Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | float | None


@dataclass(slots=True)
class Asked:
    """A request as the decoder read it."""

    rows: list[Row]
    model: str | None
    version: int | None
    as_sent: bool
    """Whether the body itself may be logged: it says no more and no less than the rows do."""


class RowCodec:
    """Reads, logs and feeds the rows of one version."""

    def __init__(
        self, reader: InstanceReader, spec: PipelineSpec, signature: Signature, *, decodes: bool = True
    ) -> None:
        """Generate the decoder.

        Args:
            reader: the careful reading of the same fields.
            spec: names the fields and their kinds, as `reader` was made of it.
            signature: the model's inputs; each is a field.
            decodes: false when the reader takes more than the spec says: then every request is read carefully.
        """
        self._reader = reader
        self.spec = spec
        self.signature = signature
        fields: dict[str, tuple[str, Any]] = {
            name: (f"f{index}", _decoded(feature))
            for index, (name, feature) in enumerate(spec.input_features.items())
            if name != spec.time
        }
        for extra in (spec.entity, *spec.columns):
            if extra and extra not in (spec.key, spec.time):
                fields.setdefault(extra, (f"c{len(fields)}", (_Scalar, None)))
        required = [
            (KEY, Annotated[str, Meta(min_length=1, max_length=MAX_KEY_CHARS)]),
            (TIME, _Moment),
            *((attribute, kind[0]) for attribute, kind in fields.values() if len(kind) == 1),
        ]
        optional = [
            (AVAILABLE, _Moment | None, None),
            *((attribute, *kind) for attribute, kind in fields.values() if len(kind) == 2),
        ]
        # What is packed into one tensor stands together, so that a row's values for it are one slice.
        together = {fields[name][0]: place for place, name in enumerate(signature.packed)}
        required.sort(key=lambda field: together.get(field[0], -1))
        optional.sort(key=lambda field: together.get(field[0], len(together)))
        names = {KEY: spec.key, TIME: spec.time, AVAILABLE: AVAILABLE_AT}
        names |= {attribute: name for name, (attribute, _) in fields.items()}
        self._row = msgspec.defstruct(
            "Row", [*required, *optional], rename=names, forbid_unknown_fields=True, omit_defaults=True, gc=False
        )
        self.fields: tuple[str, ...] = self._row.__struct_fields__
        """How a row's values stand in it."""
        self._attributes = {name: attribute for name, (attribute, _) in fields.items()}
        self._moments = [
            self._attributes[name]
            for name, feature in spec.input_features.items()
            if isinstance(feature, TimestampFeature) and name != spec.time
        ]
        self._categories = any(isinstance(feature, CategoryFeature) for feature in spec.features.values())
        self.not_logged = [spec.key, spec.time, AVAILABLE_AT]
        """Names in a logged row that are no part of its instance."""
        self.ignored = reader.known - {*self._attributes, *self.not_logged}
        """Names that a row may hold although nothing is done with them."""
        entity = self._attributes.get(spec.entity or "")
        self._entity = None if entity is None else attrgetter(entity)
        self._decodes = decodes
        self._decoders: dict[tuple[bool, int], msgspec.json.Decoder[Any]] = {}
        self._feed = _feeds(signature, spec.time, self._attributes, self._row.__struct_fields__)

    # Reading

    def decode(self, body: bytes, received_us: int, *, max_instances: int, names_model: bool) -> Asked | None:
        """Read a whole request, or None when it has to be read carefully: it is wrong, or in a form the decoder does not know.

        Args:
            body: the request's body.
            received_us: epoch microseconds; what `available_at` defaults to and may not pass.
            max_instances: most rows.
            names_model: whether the body may name the model.
        """
        # An escaped NUL is refused, an empty text may mean a missing one: both are the careful reading's to judge.
        if not self._decodes or (b"\\" in body and b"\\u0000" in body) or (self._categories and b'""' in body):
            return None
        try:
            document = self._decoder(names_model, max_instances).decode(body)
            rows: list[Row] = document.instances
            if set(map(type, map(TIME_OF, rows))) != _INT:
                for row in rows:
                    if type(row.time) is not int:
                        row.time = epoch_us(read_moment(row.time))
            if set(map(AVAILABLE_OF, rows)) != _NONE:
                for row in rows:
                    available = row.available_at
                    if available is not None and (type(available) is not int or available > received_us):
                        row.available_at = epoch_us(read_available_at(available, from_epoch_us(received_us)))
            for row in rows if self._moments else ():
                for attribute in self._moments:
                    if type(value := getattr(row, attribute)) is not int:
                        setattr(row, attribute, epoch_us(read_moment(value)))
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return None
        return Asked(rows, document.model if names_model else None, document.version, as_sent=not self._moments)

    def prepare(self, max_instances: int) -> None:
        """Generate the decoders now, so that the first request does not wait for it."""
        for names_model in (True, False):
            self._decoder(names_model, max_instances)

    @property
    def prepared(self) -> set[int]:
        """The limits of rows that decoders were generated for."""
        return {max_instances for _, max_instances in self._decoders}

    def _decoder(self, names_model: bool, max_instances: int) -> "msgspec.json.Decoder[Any]":
        found = self._decoders.get((names_model, max_instances))
        if found is None:
            rows = Annotated[list[self._row], Meta(min_length=1, max_length=max_instances)]  # type: ignore[name-defined]
            fields: list[Any] = [
                ("instances", rows),
                ("version", Annotated[int, Meta(ge=1, le=MAX_VERSION)] | None, None),
            ]
            if names_model:
                fields.append(("model", str | None, None))
            request = msgspec.defstruct("Request", fields, forbid_unknown_fields=True, gc=False)
            found = self._decoders[(names_model, max_instances)] = msgspec.json.Decoder(request)
        return found

    def read(self, instances: list[Any], received_at: datetime, *, name: str = "instances") -> list[Row]:
        """The rows of parsed instances, read carefully.

        Args:
            name: what the request calls them.

        Raises:
            Invalid: lists what is wrong with which row.
        """
        return [self._row_of(instance) for instance in read_rows(self._reader, instances, received_at, name=name)]

    def _row_of(self, instance: Instance) -> Row:
        given = {self._attributes[name]: value for name, value in instance.payload.items()}
        return self._row(
            key=instance.key, time=epoch_us(instance.time), available_at=epoch_us(instance.available_at), **given
        )

    def of_columns(
        self, keys: Sequence[str], times: Sequence[int], available: Sequence[int], columns: Mapping[str, Sequence[Any]]
    ) -> list[Row]:
        """Rows of checked columns, a value for each row.

        Args:
            times, available: epoch microseconds UTC.
            columns: by field: category str, number float, timestamp int, vector a list or numpy array, entity and columns any
                scalar; None where it is missing, and a field that is missing in every row left out.
        """
        given = {KEY: keys, TIME: times, AVAILABLE: available}
        given |= {self._attributes[name]: values for name, values in columns.items()}
        values = [given.get(attribute) or repeat(None) for attribute in self._row.__struct_fields__]
        return list(map(self._row, *values))

    # Using

    def whom(self, row: Row) -> str:
        """Whom a row is about: its entity where it has one, else its key."""
        entity = None if self._entity is None else self._entity(row)
        return str(row.key if entity is None or entity == "" else entity)

    def getter(self, name: str) -> Callable[[Row], Any] | None:
        """What takes a field's value out of a row: as `of_columns` puts it in, the key a text, the time epoch microseconds. None
        when rows of this version do not have the field.
        """
        attribute = {self.spec.key: KEY, self.spec.time: TIME}.get(name) or self._attributes.get(name)
        return None if attribute is None else attrgetter(attribute)

    def feeds(self, parts: Sequence[Sequence[Row]]) -> Feeds:
        """What the model's session takes for all rows of all parts, in order: category object [n] ('' where missing), number
        float32 [n] (NaN where missing), timestamp int64 [n] (epoch microseconds UTC), vector float32 [n, length]; numbers that
        the signature names as packed are one matrix [n, columns].
        """
        return self._feed(parts[0] if len(parts) == 1 else list(chain.from_iterable(parts)))


def _decoded(feature: Feature) -> tuple[Any, ...]:
    """The type of a feature's field; with a default unless it is required."""
    match feature:
        case NumberFeature(required=True):
            return (float,)
        case NumberFeature():
            return float | None, None
        case CategoryFeature(required=True):
            return (_Text,)
        case CategoryFeature():
            return _Text | None, None
        case TimestampFeature():
            return (_Moment,)
        case VectorFeature():
            return (Annotated[list[float], Meta(min_length=feature.length, max_length=feature.length)],)
        case _:
            raise TypeError(f"a {feature.type} feature has no input of its own")


def _feeds(
    signature: Signature, time_name: str, attributes: dict[str, str], order: Sequence[str]
) -> Callable[[Sequence[Row]], Feeds]:
    """How rows, whose values stand in `order`, become what a session takes."""
    packed = _packed([order.index(attributes[name]) for name in signature.packed]) if signature.packed else None
    columns = [
        (given.name, _column(given.kind, attrgetter(TIME if given.name == time_name else attributes[given.name])))
        for given in signature.inputs
        if given.name not in signature.packed
    ]

    def feed(rows: Sequence[Row]) -> Feeds:
        feeds = {name: column(rows) for name, column in columns}
        if packed is not None:
            feeds[signature.packed_as] = packed(rows)
        return feeds

    return feed


def _packed(places: Sequence[int]) -> Callable[[Sequence[Row]], np.ndarray]:
    """How the numbers at these places of a row's values become a matrix, a row of it for each."""
    width, first = len(places), places[0]
    together = list(places) == list(range(first, first + width))
    values = itemgetter(slice(first, first + width)) if together else itemgetter(*places)
    pack = Struct(f"{width}f").pack

    def tensor(rows: Sequence[Row]) -> np.ndarray:
        numbers = map(values, map(astuple, rows))
        try:
            flat = np.frombuffer(b"".join(starmap(pack, numbers)), np.float32)
        except (StructError, OverflowError):  # a missing value, or one that float32 does not hold
            flat = _floats(list(map(values, map(astuple, rows))))
        return flat.reshape(len(rows), width)

    return tensor


def _column(kind: str, value: Callable[[Row], Any]) -> Callable[[Sequence[Row]], np.ndarray]:
    def category(rows: Iterable[Row]) -> np.ndarray:
        return np.array([text or "" for text in map(value, rows)], dtype=object)

    def number(rows: Iterable[Row]) -> np.ndarray:
        return _floats(list(map(value, rows)))

    def timestamp(rows: Iterable[Row]) -> np.ndarray:
        return np.array(list(map(value, rows)), dtype=np.int64)

    return {"category": category, "number": number, "timestamp": timestamp, "vector": number}[kind]


def _floats(values: Sequence[Any]) -> np.ndarray:
    """As float32: None becomes NaN, and what float32 cannot hold infinite, which the graph clamps."""
    with np.errstate(over="ignore"):
        return np.array(values, dtype=np.float32)
