"""Pipelines: apply a spec, look at it, and the JSON Schema that editors check it with."""

from typing import Annotated, Any

from fastapi import Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from services.data import repository
from services.data.apply import apply_spec
from services.data.schemas import PipelineApplied, PipelineDetail, PipelineView, SpecVersionView
from shared.contracts.scopes import Scope
from shared.errors import TooLarge, UnsupportedMedia
from shared.keys import Principal
from shared.registry.session import Sessions
from shared.registry.tables import SpecVersion
from shared.spec import PipelineSpec, changes, load_yaml, parse
from shared.web.auth import GuardedRouter, requires
from shared.web.body import is_json, strict_json
from shared.web.deps import PrincipalDep, SessionDep
from shared.web.pagination import IdPage, Page, page_of

YAML = ("application/yaml", "application/x-yaml", "text/yaml")
MAX_SPEC_BYTES = 256 * 1024

router = GuardedRouter(prefix="/v1", tags=["pipelines"])

_SPEC_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "description": "A pipeline file as `GET /v1/schema/pipeline.json` describes it.",
                    "required": ["name", "task", "key", "time", "features", "label"],
                }
            },
            "application/yaml": {"schema": {"type": "string"}},
        },
    }
}


@router.post("/pipelines", openapi_extra=_SPEC_BODY, responses={201: {"model": PipelineApplied}})
async def apply(
    request: Request,
    response: Response,
    caller: Annotated[Principal, requires(Scope.PIPELINES)],
    dry_run: Annotated[bool, Query(description="Tell what would change and store nothing.")] = False,
) -> PipelineApplied:
    """Apply a pipeline file, JSON or YAML. A changed one becomes a new immutable spec version; the same one changes nothing."""
    body = await request.body()
    content_type = request.headers.get("content-type", "")
    applied = await run_in_threadpool(_apply, request.app.state.sessions, body, content_type, caller, dry_run)
    if applied.action == "create" and not dry_run:
        response.status_code = 201
    return applied


def _apply(sessions: Sessions, body: bytes, content_type: str, caller: Principal, dry_run: bool) -> PipelineApplied:
    spec = parse(_document(body, content_type))
    caller.require_pipeline(spec.name)
    with sessions.begin() as session:
        applied = apply_spec(session, spec, by=caller.name, dry_run=dry_run)
    return PipelineApplied(
        name=spec.name,
        action=applied.action,
        spec_version=applied.spec_version,
        digest=applied.digest,
        changes=applied.changes,
        dry_run=dry_run,
    )


def _document(body: bytes, content_type: str) -> object:
    if len(body) > MAX_SPEC_BYTES:
        raise TooLarge(f"A pipeline file has at most {MAX_SPEC_BYTES} bytes.")
    if is_json(content_type):
        return strict_json(body)
    if content_type.partition(";")[0].strip().lower() in YAML:
        return load_yaml(body)
    raise UnsupportedMedia("Send the pipeline file as application/yaml or application/json (header Content-Type).")


@router.get("/pipelines", dependencies=[requires(Scope.READ)])
def list_all(session: SessionDep, caller: PrincipalDep, page: IdPage) -> Page[PipelineView]:
    """List pipelines, newest first."""
    rows = repository.list_pipelines(session, page, caller.pipelines)
    return page_of(rows, page, cursor=lambda row: row[0].id, show=lambda row: PipelineView.of(*row))


@router.get("/pipelines/{p}", dependencies=[requires(Scope.READ)])
def get(p: str, session: SessionDep) -> PipelineDetail:
    """One pipeline: its current spec and every version before it."""
    pipeline = repository.get_pipeline(session, p)
    versions = repository.list_specs(session, pipeline.id)
    current = next(version for version in versions if version.number == pipeline.spec_version)
    history = [_version(version, before) for version, before in zip(versions, [*versions[1:], None], strict=True)]
    return PipelineDetail(**PipelineView.of(pipeline, current).model_dump(), versions=history)


def _version(version: SpecVersion, before: SpecVersion | None) -> SpecVersionView:
    return SpecVersionView(
        number=version.number,
        digest=version.digest,
        created_by=version.created_by,
        created_at=version.created_at,
        changes=changes(parse(before.spec), parse(version.spec)) if before else [],
    )


@router.get("/schema/pipeline.json", dependencies=[requires(Scope.READ)])
def schema() -> dict[str, Any]:
    """The JSON Schema of a pipeline file, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **PipelineSpec.model_json_schema()}
