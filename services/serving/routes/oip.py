"""/v2: the Open Inference Protocol, for clients that speak it already. Errors are `{"error": ...}`."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import msgspec
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ValidationError

from services.serving.models.catalogue import Pipeline
from services.serving.models.loader import Loaded
from services.serving.oip import models
from services.serving.oip.errors import refuse
from services.serving.oip.framing import HEADER_LENGTH, read_request, write_answer
from services.serving.oip.rows import read_tensors
from services.serving.oip.schemas import (
    IndexEntry,
    IndexRequest,
    InferAnswer,
    InferenceError,
    InferRequestBody,
    Live,
    LoadRequest,
    ModelMetadata,
    ModelReady,
    Nothing,
    Ready,
    ServerMetadata,
    UnloadRequest,
    VersionName,
)
from services.serving.routes.predict import PARAMETERS, json_body
from services.serving.routes.state import Serving
from shared.contracts.scopes import Scope
from shared.errors import Invalid, Unavailable, UnsupportedMedia
from shared.observability.metrics import relevo_version
from shared.spec.read import field_errors
from shared.web.auth import GuardedRouter
from shared.web.body import is_json, strict_json
from shared.web.errors import EVERY_ROUTE
from shared.web.health import ReadinessProbe
from shared.web.raw import Answer, Call, Handler, raw

M = TypeVar("M", bound=BaseModel)

router = GuardedRouter(prefix="/v2", tags=["open inference protocol"])
public = APIRouter(prefix="/v2", tags=["open inference protocol"])

_MODEL, _VERSION = "/models/{p}", "/models/{p}/versions/{n}"
_OCTETS = "application/octet-stream"
_REFUSALS: dict[int | str, dict[str, Any]] = {status: {"model": InferenceError} for status in EVERY_ROUTE}
_INFER: dict[str, Any] = json_body(InferRequestBody)
_INFER["requestBody"]["content"][_OCTETS] = {"schema": {"type": "string", "format": "binary"}}
_INFER["parameters"] = [
    *PARAMETERS,
    {
        "name": "Inference-Header-Content-Length",
        "in": "header",
        "required": False,
        "description": (
            "Bytes of the JSON that the body begins with, when binary data follows; "
            "0: the body is the binary data of the model's single input."
        ),
        "schema": {"type": "integer", "minimum": 0},
    },
]
_TOO_FAST: dict[int | str, dict[str, Any]] = {429: {"model": InferenceError}}
_OCTET_ANSWER: dict[str, Any] = {"content": {_OCTETS: {"schema": {"type": "string", "format": "binary"}}}}


def _route(path: str, scope: Scope, **options: Any) -> Callable[[Handler], Handler]:
    responses = _REFUSALS | options.pop("responses", {})
    return raw(
        router,
        path,
        scope=scope,
        json_only=False,
        refuse=refuse,
        path_types={"n": VersionName},
        responses=responses,
        **options,
    )


def _optional(body: type[BaseModel]) -> dict[str, Any]:
    described = json_body(body)
    described["requestBody"]["required"] = False
    return described


@public.get("/health/live")
async def live() -> Live:
    """The process answers."""
    return Live(live=True)


@public.get("/health/ready", response_model=Ready, responses={503: {"model": InferenceError}})
async def ready(request: Request) -> Ready | Response:
    """Every deployed model answers, and predictions can be logged; as /readyz, which names what is away."""
    probe: ReadinessProbe = request.app.state.readiness
    report = await probe.look()
    if report.status == "unavailable":
        away = ", ".join(f"{name}: {result.detail}" for name, result in report.checks.items() if not result.ok)
        return Response(msgspec.json.encode({"error": f"Not ready ({away})."}), 503, media_type="application/json")
    return Ready(ready=True)


@_route("", Scope.PREDICT, method="GET", response_model=ServerMetadata)
async def server_metadata(call: Call) -> Answer:
    """Name, version and extensions of the server."""
    return msgspec.json.encode({"name": "relevo", "version": relevo_version(), "extensions": models.EXTENSIONS})


@_route(_MODEL, Scope.PREDICT, method="GET", response_model=ModelMetadata)
async def model_metadata(call: Call) -> Answer:
    """Inputs and outputs of the live version."""
    serving, pipeline = _asked(call)
    return msgspec.json.encode(
        models.metadata(pipeline, models.live_of(pipeline, serving.slots.applied(pipeline.name)))
    )


@_route(_VERSION, Scope.PREDICT, method="GET", response_model=ModelMetadata)
async def version_metadata(call: Call) -> Answer:
    """Inputs and outputs of a version."""
    _, pipeline = _asked(call)
    return msgspec.json.encode(models.metadata(pipeline, models.version_of(call.path["n"])))


@_route(f"{_MODEL}/ready", Scope.PREDICT, method="GET", response_model=ModelReady)
async def model_ready(call: Call) -> Answer:
    """Whether the live version answers on this replica; 503 when not yet."""
    return _ready(call, None)


@_route(f"{_VERSION}/ready", Scope.PREDICT, method="GET", response_model=ModelReady)
async def version_ready(call: Call) -> Answer:
    """Whether a version is loaded on this replica; 503 when not. A request that names it loads it."""
    return _ready(call, models.version_of(call.path["n"]))


@_route(
    f"{_MODEL}/infer",
    Scope.PREDICT,
    response_model=InferAnswer,
    openapi_extra=_INFER,
    responses={200: _OCTET_ANSWER, **_TOO_FAST},
)
async def infer(call: Call) -> Answer:
    """Score rows with the live version; each answer is logged before it leaves."""
    return await _infer(call, None)


@_route(
    f"{_VERSION}/infer",
    Scope.PREDICT,
    response_model=InferAnswer,
    openapi_extra=_INFER,
    responses={200: _OCTET_ANSWER, **_TOO_FAST},
)
async def infer_version(call: Call) -> Answer:
    """Score rows with a version, logged as pinned. Needs the scope `predict:version`, too."""
    return await _infer(call, models.version_of(call.path["n"]))


@_route("/repository/index", Scope.READ, response_model=list[IndexEntry], openapi_extra=_optional(IndexRequest))
async def repository_index(call: Call) -> Answer:
    """Every version of every pipeline, and whether it answers on this replica."""
    order, serving = _order(call, IndexRequest), _serving(call)
    pipelines = {
        pipeline.name: (pipeline, serving.slots.report(pipeline.name))
        for pipeline in serving.follower.catalogue.visible(call.caller)
    }
    return msgspec.json.encode(models.index(pipelines, ready=bool(order.ready)))


@_route("/repository/models/{p}/load", Scope.DEPLOY, response_model=Nothing, openapi_extra=_optional(LoadRequest))
async def load(call: Call) -> Answer:
    """Succeeds when the live version answers on this replica. What is live is changed by promote and roll back alone."""
    _order(call, LoadRequest)
    serving, pipeline = _asked(call)
    models.require_loaded(pipeline, serving.slots.applied(pipeline.name))
    return b"{}"


@_route("/repository/models/{p}/unload", Scope.DEPLOY, response_model=Nothing, openapi_extra=_optional(UnloadRequest))
async def unload(call: Call) -> Answer:
    """Always refused: the registry decides what serves, by promote and roll back."""
    _order(call, UnloadRequest)
    _, pipeline = _asked(call)
    raise models.no_unload(pipeline)


def _serving(call: Call) -> Serving:
    serving: Serving = call.app.state.serving
    return serving


def _asked(call: Call) -> tuple[Serving, Pipeline]:
    serving = _serving(call)
    if not serving.follower.known:
        raise Unavailable("This replica has not read the registry yet; try again shortly.")
    return serving, serving.follower.pipeline(call.path["p"])


def _ready(call: Call, version: int | None) -> bytes:
    serving, pipeline = _asked(call)
    models.require_ready(pipeline, version, serving.slots.applied(pipeline.name), serving.slots.report(pipeline.name))
    return msgspec.json.encode({"name": pipeline.name, "ready": True})


async def _infer(call: Call, version: int | None) -> Answer:
    _check_media(call)
    serving, at_us = _serving(call), call.received_us

    def read(loaded: Loaded) -> Any:
        request = read_request(call.body, call.headers.get(HEADER_LENGTH), loaded.codec.signature)
        rows = read_tensors(
            loaded.codec,
            request.tensors,
            received_us=at_us,
            request=call.id.to_bytes(16).hex(),
            max_rows=serving.settings.max_instances,
        )
        return rows, partial(write_answer, loaded.pipeline_name, loaded.version.number, request)

    return await serving.predictor.infer(call, call.path["p"], version, read, body_bytes=len(call.body))


def _order(call: Call, model: type[M]) -> M:
    """The body of a request to the repository; it may be empty."""
    _check_media(call)
    try:
        return model.model_validate(strict_json(call.body) if call.body else {})
    except ValidationError as error:
        errors = field_errors(error.errors())
        where = ".".join(map(str, errors[0]["loc"])) or "The body"
        raise Invalid(f"{where}: {errors[0]['msg']}.", errors=errors) from None


def _check_media(call: Call) -> None:
    """Clients of the protocol declare JSON, octets or nothing; how the body is made up, the header of its JSON's length says."""
    kind = call.headers.get(b"content-type", b"").decode("latin-1")
    if kind and not is_json(kind) and kind.partition(";")[0].strip().lower() != _OCTETS:
        raise UnsupportedMedia(f"Send the body as application/json or {_OCTETS}.")
    if call.headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise UnsupportedMedia("Send the body as it is, without a Content-Encoding.")
