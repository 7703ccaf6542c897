"""What the protocol says of models: metadata, the repository index, whether one is ready. The registry decides all of it."""

from collections.abc import Iterable, Mapping
from typing import Any

from services.serving.errors import NotLoadable
from services.serving.models.catalogue import Pipeline
from services.serving.models.model import read_signature
from services.serving.models.policy import LOADED, Applied, SlotState
from services.serving.models.slot import SlotReport
from services.serving.oip.framing import DATATYPE_OF, OUTPUTS
from shared.errors import Conflict, Invalid, NotFound, Unavailable

PLATFORM = "onnx_onnxv1"
EXTENSIONS = ["binary_tensor_data", "model_repository"]
READY = "READY"
_STATES = {
    SlotState.LOADING: "LOADING",
    SlotState.READY: READY,
    SlotState.DRAINING: "UNLOADING",
    SlotState.FAILED: "UNAVAILABLE",
}
_NOT_LOADED = "is not loaded on this replica; a request that names the version loads it"


def version_of(text: str) -> int:
    """The number of a version as it stands in a path.

    Raises:
        NotFound: it is none.
    """
    if not (text.isascii() and text.isdigit() and len(text) < 10 and text[0] != "0"):
        raise NotFound("There is no version of that name; versions are numbers from 1.")
    return int(text)


def live_of(pipeline: Pipeline, applied: Applied | None) -> int:
    """The version that answers when none is named: as this replica has it, else as the registry does.

    Raises:
        NotFound: nothing is deployed.
    """
    if pipeline.pointer is None:
        raise NotFound(f"No version of {pipeline.name} is deployed yet; a cycle or a promotion deploys one.")
    return applied.live if applied else pipeline.pointer.live


def metadata(pipeline: Pipeline, number: int) -> dict[str, Any]:
    """`$metadata_model_response` of a version.

    Raises:
        NotFound: there is no such version.
        NotLoadable: its signature is none that serving knows.
    """
    version = pipeline.version(number)
    try:
        signature = read_signature(version.signature)
    except Invalid as error:
        raise NotLoadable(error.detail) from error
    inputs = [
        {
            "name": given.name,
            "datatype": DATATYPE_OF[given.kind],
            "shape": [-1, given.length] if given.kind == "vector" else [-1],
        }
        for given in signature.inputs
    ]
    outputs = [{"name": name, "datatype": datatype, "shape": [-1]} for name, datatype in OUTPUTS.items()]
    versions = [str(version) for version in sorted(pipeline.versions)]
    return {
        "name": pipeline.name,
        "versions": versions,
        "platform": PLATFORM,
        "inputs": inputs,
        "outputs": outputs,
    }


def require_ready(pipeline: Pipeline, number: int | None, applied: Applied | None, slots: Iterable[SlotReport]) -> None:
    """Raise unless the live version, or the one that is named, can answer at once.

    Raises:
        NotFound: there is no such version, or nothing is deployed.
        Unavailable: it is not loaded.
    """
    if number is None:
        number = live_of(pipeline, applied)
        if applied is None:
            raise Unavailable(
                f"The live version of {pipeline.name}, {number}, is still being loaded; try again shortly."
            )
        return
    pipeline.version(number)
    if not any(slot.version == number and slot.state in LOADED for slot in slots):
        raise Unavailable(f"Version {number} of {pipeline.name} {_NOT_LOADED}.")


def require_loaded(pipeline: Pipeline, applied: Applied | None) -> None:
    """Raise unless the pipeline's live version answers here: all that `load` can ask for.

    Raises:
        Conflict: with what to do.
    """
    if pipeline.pointer is None:
        raise Conflict(
            f"Nothing of {pipeline.name} is deployed, and the registry decides what serves: "
            f"POST /admin/models/{pipeline.name}/promote makes a version live."
        )
    if applied is None:
        raise Conflict(
            f"The live version of {pipeline.name} is not loaded here yet; that goes by itself. "
            f"GET /admin/models/{pipeline.name} says what holds it up."
        )


def no_unload(pipeline: Pipeline) -> Conflict:
    """Why nothing is unloaded on demand."""
    return Conflict(
        f"The registry decides what serves, so {pipeline.name} is not unloaded here: "
        f"POST /admin/models/{pipeline.name}/promote makes another version live, .../rollback the one before."
    )


def index(pipelines: Mapping[str, tuple[Pipeline, list[SlotReport]]], *, ready: bool) -> list[dict[str, str]]:
    """`$repository_index_response`: every version of every pipeline.

    Args:
        ready: only those that answer at once.
    """
    entries: list[dict[str, str]] = []
    for name, (pipeline, slots) in pipelines.items():
        at_hand = {slot.version: slot for slot in slots}
        if not pipeline.versions:
            entries.append({"name": name, "state": "UNAVAILABLE", "reason": "no version was trained yet"})
        for number in sorted(pipeline.versions):
            slot = at_hand.get(number)
            state, reason = ("UNAVAILABLE", _NOT_LOADED) if slot is None else (_STATES[slot.state], slot.error or "")
            entries.append({"name": name, "version": str(number), "state": state, "reason": reason})
    return [entry for entry in entries if entry["state"] == READY or not ready]
