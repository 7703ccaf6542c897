"""What a version must do right before it may answer: score its golden vectors as training did, and requests that were answered
lately. Both go the way of a request's rows, so that the first request finds everything warm.
"""

import time
from collections.abc import Callable, Iterable

import numpy as np

from services.serving.instances import read_envelope
from services.serving.models.model import Model
from services.serving.rows import Row, RowCodec
from shared import golden
from shared.errors import Invalid, Malformed
from shared.instances import from_epoch_us
from shared.web.body import strict_json

GOLDEN_TIME_US = 1_577_836_800_000_000
"""The event time of golden rows, where no input says it."""
REPLAY_S = 2.0
"""Replaying ends after this time: a slow model must not be kept from answering by many rows."""


def check_golden(model: Model, codec: RowCodec, data: bytes) -> None:
    """Score the golden vectors.

    Args:
        data: the artifact that the version's signature names.

    Raises:
        Invalid: they cannot be read, or a score is off by more than `shared.golden.TOLERANCE`; says which row and how far.
    """
    vectors = golden.decode(data)
    spec = codec.spec
    instances = [
        {spec.time: GOLDEN_TIME_US, **row, spec.key: f"golden-{index}"} for index, row in enumerate(vectors.rows)
    ]
    try:
        rows = codec.read(instances, from_epoch_us(GOLDEN_TIME_US))
    except Invalid as error:
        raise Invalid(f"Its golden vectors do not fit its spec ({error.detail}); train the version again.") from error
    found = golden.worst(vectors, _score(model, codec, rows))
    if not found.accepted:
        raise Invalid(f"{found}. The file, or how this replica runs it, is not what was trained.")


def replay(
    model: Model,
    codec: RowCodec,
    requests: Iterable[bytes],
    *,
    now_us: int,
    max_instances: int,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Score recorded requests; those that this version cannot read are passed over, since it may be of another spec.

    Args:
        requests: bodies as sent to `/predict`.
        now_us: epoch microseconds; when the requests count as received.

    Returns:
        How many were scored.

    Raises:
        Invalid: the model fails on one, or gives a score that is not finite: others have answered it.
    """
    until_s = clock() + REPLAY_S
    scored = 0
    for body in requests:
        if clock() >= until_s:
            break
        rows = _rows(codec, body, now_us, max_instances)
        if not rows:
            continue
        try:
            scores = _score(model, codec, rows)
        except Exception as error:
            raise Invalid(f"The model fails on a request that was answered lately ({type(error).__name__}).") from error
        if not np.isfinite(scores).all():
            raise Invalid("The model gives scores that are not finite for a request that was answered lately.")
        scored += 1
    return scored


def _rows(codec: RowCodec, body: bytes, now_us: int, max_instances: int) -> list[Row]:
    # A body that was sent to a path that names the model only lacks the name.
    asked = codec.decode(body, now_us, max_instances=max_instances, names_model=True)
    if asked is not None:
        return asked.rows
    try:
        envelope = read_envelope(strict_json(body), max_instances=max_instances, names_model=True)
        return codec.read(envelope.instances, from_epoch_us(now_us))
    except (Invalid, Malformed):
        return []


def _score(model: Model, codec: RowCodec, rows: list[Row]) -> np.ndarray:
    return model.score(codec.feeds([rows]))
