"""No skew: a model that the trainer made scores instances from JSON exactly as it scores the stored rows."""

from datetime import UTC, datetime

import numpy as np
import orjson
import pytest

from services.serving.models.loader import codec_for
from services.serving.models.model import open_model, read_signature
from services.serving.models.rehearsal import check_golden
from services.trainer.fit_model import fit_model
from shared.errors import Invalid
from shared.feeds import feeds_of
from shared.golden import encode
from shared.instances import epoch_us
from shared.scoring import open_model as open_session
from shared.scoring import score
from tests.unit.trainer.samples import sample_spec, sample_table

AT = datetime(2030, 1, 1, tzinfo=UTC)


def test_json_and_stored_rows_score_alike() -> None:
    spec, table = sample_spec(), sample_table(600)
    fitted = fit_model(table, spec, metadata={}, on_epoch=lambda _: None, should_stop=lambda: False)
    signature = read_signature(fitted.signature)
    model = open_model(fitted.onnx_bytes, signature, threads=1)
    codec = codec_for(spec, spec, model.signature)
    fields = ["city", "kind", "size", "price", "at", "embedding"]
    documents = [{"id": row["key"], **{name: row[name] for name in fields}} for row in table.to_pylist()]
    body = orjson.dumps({"instances": documents})
    carefully = codec.read(orjson.loads(body)["instances"], AT)
    decoded = codec.decode(body, epoch_us(AT), max_instances=1000, names_model=True)
    rows = carefully if decoded is None else decoded.rows

    assert model.signature.packed == ("size", "price"), "two of the columns are numbers"
    served = model.score(codec.feeds([rows]))

    stored = score(open_session(fitted.onnx_bytes, threads=1), feeds_of(table, fitted.signature["inputs"]))
    np.testing.assert_array_equal(served, stored)
    np.testing.assert_array_equal(model.score(codec.feeds([carefully])), stored)
    alone = [model.score(codec.feeds([[row]]))[0] for row in rows[:20]]
    np.testing.assert_allclose(alone, served[:20], atol=1e-6)

    check_golden(model, codec, encode(fitted.golden))
    other = fit_model(
        sample_table(600, seed=1), spec, metadata={}, on_epoch=lambda _: None, should_stop=lambda: False
    ).golden
    with pytest.raises(Invalid, match=r"row \d+ of its golden vectors scores"):
        check_golden(model, codec, encode(other))
