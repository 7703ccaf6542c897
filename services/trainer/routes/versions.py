"""Model versions: look at them. What serves, and what may, is serving's and the validator's to say."""

from services.trainer import listing_repository, repository
from services.trainer.routes.names import PipelineName
from services.trainer.schemas import VersionView
from shared.contracts.scopes import Scope
from shared.web.auth import GuardedRouter, requires
from shared.web.deps import RowNumber, SessionDep
from shared.web.pagination import NumberPage, Page, page_of

router = GuardedRouter(prefix="/v1/pipelines/{p}/versions", tags=["versions"])


@router.get("", dependencies=[requires(Scope.READ)])
def list_all(p: PipelineName, session: SessionDep, page: NumberPage) -> Page[VersionView]:
    """Versions, newest first."""
    rows = listing_repository.versions_page(session, repository.pipeline_named(session, p).id, page)
    return page_of(rows, page, cursor=lambda row: row[0].number, show=lambda row: VersionView.of(row[0], p, row[1]))


@router.get("/{n}", dependencies=[requires(Scope.READ)])
def one(p: PipelineName, n: RowNumber, session: SessionDep) -> VersionView:
    """One version."""
    row, dataset = listing_repository.version_numbered(session, repository.pipeline_named(session, p).id, n)
    return VersionView.of(row, p, dataset)
