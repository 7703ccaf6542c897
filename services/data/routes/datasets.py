"""Dataset versions: ask for one, follow its build, read its card, statistics and files, and check that it rebuilds."""

from collections.abc import Iterator
from pathlib import Path as FilePath
from typing import Annotated, Any

from fastapi import Path, Request, Response
from fastapi.responses import StreamingResponse

from services.data import repository
from services.data.card import card
from services.data.datasets import request_dataset, split_file
from services.data.manifest import Split
from services.data.rebuild import rebuild
from services.data.schemas import DatasetCreate, DatasetView, Verification
from shared.contracts.scopes import Scope
from shared.spec import parse
from shared.web.auth import GuardedRouter, requires
from shared.web.deps import RowNumber, SessionDep
from shared.web.idempotency import IdempotencyKey, once
from shared.web.pagination import NumberPage, Page, page_of

router = GuardedRouter(prefix="/v1/pipelines/{p}/datasets", tags=["datasets"])

PARQUET = "application/vnd.apache.parquet"
_CHUNK_BYTES = 1 << 20


@router.post("", status_code=202, dependencies=[requires(Scope.DATASETS)], response_model=DatasetView)
def create(p: str, body: DatasetCreate, request: Request, session: SessionDep, key: IdempotencyKey = None) -> Response:
    """Ask for a dataset of what was known at `as_of` (default: now). It is built in the background: follow `state`."""

    def effect() -> tuple[int, DatasetView]:
        return 202, DatasetView.of(request_dataset(session, p, body.as_of, body.cycle))

    return once(session, request, key, effect)


@router.get("", dependencies=[requires(Scope.READ)])
def list_all(p: str, session: SessionDep, page: NumberPage) -> Page[DatasetView]:
    """List datasets, newest first."""
    pipeline = repository.get_pipeline(session, p)
    rows = repository.list_datasets(session, pipeline.id, page)
    return page_of(rows, page, cursor=lambda row: row.number, show=DatasetView.of)


@router.get("/{n}", dependencies=[requires(Scope.READ)])
def get(p: str, n: RowNumber, session: SessionDep) -> DatasetView:
    """One dataset."""
    return DatasetView.of(repository.get_dataset(session, repository.get_pipeline(session, p).id, n))


@router.get("/{n}/statistics", dependencies=[requires(Scope.READ)])
def statistics(p: str, n: RowNumber, session: SessionDep) -> dict[str, Any]:
    """Per split and column: count, missing, mean, standard deviation, quantiles or top values. Empty until the build is done."""
    return repository.get_dataset(session, repository.get_pipeline(session, p).id, n).statistics


@router.get(
    "/{n}/card",
    dependencies=[requires(Scope.READ)],
    response_class=Response,
    responses={200: {"content": {"text/markdown": {"schema": {"type": "string"}}}}},
)
def read_card(p: str, n: RowNumber, session: SessionDep) -> Response:
    """The dataset's card: what it is, where it comes from and what is in it, in Markdown."""
    pipeline = repository.get_pipeline(session, p)
    dataset = repository.get_dataset(session, pipeline.id, n)
    spec = parse(repository.get_spec(session, pipeline.id, dataset.spec_version).spec)
    return Response(card(dataset, spec), media_type="text/markdown; charset=utf-8")


@router.get(
    "/{n}/splits/{split}",
    dependencies=[requires(Scope.DATASETS)],
    response_class=Response,
    responses={200: {"content": {PARQUET: {"schema": {"type": "string", "format": "binary"}}}}},
)
def download(p: str, n: RowNumber, split: Annotated[Split, Path()], request: Request, session: SessionDep) -> Response:
    """One split as Parquet: key, time, every input feature, label; sorted by time, then key."""
    dataset = repository.get_dataset(session, repository.get_pipeline(session, p).id, n)
    file, path = split_file(request.app.state.store, dataset, split)
    headers = {
        "etag": f'"{file.sha256}"',
        "content-length": str(file.size_bytes),
        "content-disposition": f'attachment; filename="{p}-{n}-{split}.parquet"',
    }
    return StreamingResponse(_chunks(path), media_type=PARQUET, headers=headers)


@router.post("/{n}/verify", dependencies=[requires(Scope.DATASETS)])
def verify(p: str, n: RowNumber, request: Request) -> Verification:
    """Build the dataset again from its pinned watermarks and compare the digests. Answers when it is done; one at a time."""
    state = request.app.state
    return Verification.model_validate(
        rebuild(state.sessions, state.store, state.data_settings, p, n), from_attributes=True
    )


def _chunks(path: FilePath) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk
