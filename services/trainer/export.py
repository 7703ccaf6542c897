"""From a trained network to the one ONNX file, and the checks a file must pass before anyone may register it."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping

import numpy as np
import onnx
import torch
from spox import Var, build, inline

from services.trainer.networks import Scorer
from services.trainer.transform import Transform
from services.trainer.transform.build import IDS, NUMBERS, run_in_chunks, session
from services.trainer.transform.graph import arguments
from shared.errors import RelevoError
from shared.feeds import Feeds
from shared.onnx_check import IR_VERSION, OPSET, check_model
from shared.spec import PipelineSpec

OUTPUT = "score"
MAX_DIFFERENCE = 1e-5
"""Largest accepted difference between ONNX Runtime and torch: of probabilities, or of values in label deviations."""


class ExportFailed(RelevoError):
    """The exported graph does not give what the trained network gives; the model is not usable."""

    slug, title = "export-failed", "Export failed"


def export_model(scorer: Scorer, transform: Transform, spec: PipelineSpec, metadata: Mapping[str, str]) -> bytes:
    """One self-contained ONNX file: raw named inputs to `score` float32 [n], at the pinned opset and IR version.

    Args:
        scorer: the trained network; it is moved to the CPU and set to evaluation.
        transform: the graph that fed it.
        spec: the pipeline.
        metadata: written to the file's metadata_props, by sorted key.

    Raises:
        Invalid: the result breaks the rules of `shared.onnx_check`.
    """
    inputs: dict[str, Var] = arguments(spec)
    columns = inline(transform.model)(**inputs)
    score = inline(_export_core(scorer, transform))(numbers=columns[NUMBERS], ids=columns[IDS])[OUTPUT]
    model = build(inputs, {OUTPUT: score})
    _prune(model.graph)
    _tidy(model, spec, metadata)
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString(deterministic=True)
    check_model(data)
    return data


def check_export(model: bytes, feeds: Feeds, scorer: Scorer, transform: Transform) -> float:
    """Compare the file on ONNX Runtime with the transform and torch, on real rows.

    Args:
        model: the file's bytes.
        feeds: input tensors of at least one row.
        scorer: the trained network, on the CPU.
        transform: the graph that fed it.

    Returns:
        The largest difference of scores; for regression, in label deviations.

    Raises:
        ExportFailed: scores differ by more, are not finite, or depend on the batch size.
    """
    runner = session(model)
    (scores,) = run_in_chunks(runner, [OUTPUT], feeds)
    numbers, ids = transform(feeds)
    with torch.inference_mode():
        expected = scorer(torch.from_numpy(numbers), torch.from_numpy(ids)).numpy()
    if scores.dtype != np.float32 or scores.shape != expected.shape:
        raise ExportFailed(f"The exported graph gives {scores.dtype} {scores.shape}, not float32 {expected.shape}.")
    if not np.isfinite(scores).all():
        raise ExportFailed("The exported graph gives scores that are not finite.")
    difference = float(np.abs(scores.astype(np.float64) - expected).max())
    # A label mean far larger than the deviation leaves float32 no digits: a last place of the score is always allowed.
    tolerance = MAX_DIFFERENCE * scorer.label_std + 2 * float(np.spacing(np.abs(scores).max()))
    if difference > tolerance:
        raise ExportFailed(
            f"The exported graph differs from torch by {difference:.3g}; at most {tolerance:.3g} may be."
        )
    for row in np.unique(np.linspace(0, len(scores) - 1, 16).astype(int)):
        alone = runner.run([OUTPUT], {name: values[row : row + 1] for name, values in feeds.items()})[0]
        if abs(float(alone[0]) - float(scores[row])) > tolerance:
            raise ExportFailed("The exported graph scores a row differently alone than in a batch.")
    return difference / scorer.label_std


def _export_core(scorer: Scorer, transform: Transform) -> onnx.ModelProto:
    scorer.cpu().eval()
    rows = 2  # torch may take a dimension of 1 for a constant
    example = (
        torch.zeros(rows, len(transform.number_names), dtype=torch.float32),
        torch.zeros(rows, len(transform.id_names), dtype=torch.int64),
    )
    with _quiet():
        program = torch.onnx.export(
            scorer,
            example,
            dynamo=True,
            external_data=False,
            opset_version=OPSET,
            input_names=["numbers", "ids"],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch")}, {0: torch.export.Dim("batch")}),
            verbose=False,
        )
    assert program is not None
    return program.model_proto


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's prints, notes and deprecation warnings from the user; errors still raise."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore", category=DeprecationWarning)
            warnings.simplefilter("ignore", category=FutureWarning)
            warnings.simplefilter("ignore", category=UserWarning)
            yield
    finally:
        exporter.setLevel(level)


def _prune(graph: onnx.GraphProto) -> None:
    """Drop what the score does not depend on, such as the empty ids of a spec without categories: ONNX Runtime would run it."""
    needed = {output.name for output in graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):  # a node comes after those it needs
        if needed.isdisjoint(node.output):
            continue
        kept.append(node)
        needed.update(node.input)
        needed.update(
            name
            for attribute in node.attribute
            for inner in (attribute.g, *attribute.graphs)
            for inside in inner.node
            for name in inside.input
        )
    del graph.node[:]
    graph.node.extend(reversed(kept))


def _tidy(model: onnx.ModelProto, spec: PipelineSpec, metadata: Mapping[str, str]) -> None:
    """Pin the versions, declare the output's shape, and drop what the exporter notes about this machine."""
    model.ir_version = IR_VERSION
    model.producer_name, model.doc_string = "relevo", ""
    model.graph.name, model.graph.doc_string = spec.name, ""
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for value in [*model.graph.input, *model.graph.output, *model.graph.value_info, *model.graph.initializer]:
        value.doc_string = ""
        del value.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.graph.value_info[:]
    output = model.graph.output[0].type.tensor_type
    output.shape.Clear()
    output.shape.dim.add().dim_param = "batch"
    del model.metadata_props[:]
    for key, value in sorted(metadata.items()):
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
