"""What the Open Inference Protocol's routes take and give, as documented in OpenAPI."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from services.serving.oip.framing import MAX_ID_CHARS
from shared.spec.types import Name

VersionName = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,8}$")]
Parameters = Annotated[
    dict[str, str | int | float | bool], Field(description="Of the protocol and its extensions; hints are ignored.")
]
Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES",
]  # fmt: skip
Size = Annotated[int, Field(ge=1, strict=True)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class InferenceError(BaseModel):
    """What went wrong, and what to do."""

    error: str = Field(min_length=1)


class RequestInput(_Request):
    """One tensor: a feature, or the key, the event time, the entity, a column or `available_at`, by name."""

    name: str = Field(min_length=1)
    shape: list[Size] = Field(min_length=1, max_length=2, description="The rows; of a vector also its length.")
    datatype: Datatype
    parameters: Parameters | None = None
    data: list[Any] | None = Field(
        default=None, description="Values, flat or nested as the shape. None with `binary_data_size`."
    )


class RequestOutput(_Request):
    """An output asked for."""

    name: Literal["score", "prediction_id"]
    parameters: Parameters | None = Field(default=None, description="`binary_data`: whether it is sent as binary data.")


class InferRequestBody(_Request):
    """Rows to score, a tensor for each field."""

    id: str | None = Field(default=None, max_length=MAX_ID_CHARS, description="Comes back with the answer.")
    parameters: Parameters | None = Field(
        default=None, description="`binary_data_output`: whether outputs are sent as binary data unless they say so."
    )
    inputs: list[RequestInput] = Field(min_length=1)
    outputs: list[RequestOutput] | None = Field(default=None, description="All, unless given.")


class ResponseOutput(BaseModel):
    """One output: `score` (FP32) or `prediction_id` (BYTES), one value a row."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, int] | None = Field(default=None, description="`binary_data_size`, in place of `data`.")
    data: list[float] | list[str] | None = None


class InferAnswer(BaseModel):
    """The answer; with binary data it is the part before that."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[ResponseOutput]


class ServerMetadata(BaseModel):
    """What this server is."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(BaseModel):
    """An input or output of a model; -1 stands for the rows."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """What a version takes and gives."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ModelReady(BaseModel):
    """The model answers."""

    name: str
    ready: bool


class Live(BaseModel):
    """The process answers."""

    live: bool


class Ready(BaseModel):
    """Every deployed model answers."""

    ready: bool


class IndexRequest(_Request):
    """Which versions to list."""

    ready: bool | None = Field(default=None, strict=True, description="Only those that answer at once.")


class IndexEntry(BaseModel):
    """One version of a pipeline."""

    name: Name
    version: str | None = None
    state: Literal["READY", "LOADING", "UNLOADING", "UNAVAILABLE"]
    reason: str


class LoadRequest(_Request):
    """An order to load a model."""

    parameters: dict[str, Any] | None = Field(
        default=None, max_length=0, description="None: versions come by training."
    )


class UnloadRequest(_Request):
    """An order to unload a model."""

    parameters: Parameters | None = None


class Nothing(BaseModel):
    """It is so."""
