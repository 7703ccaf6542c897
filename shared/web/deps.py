"""What endpoints ask for: a session that is one transaction, the caller, numbers that fit a column."""

from collections.abc import Iterator
from typing import Annotated

from fastapi import Depends, Path, Request
from sqlmodel import Session

from shared.keys import Principal
from shared.registry.session import Sessions
from shared.web.auth import principal


def session(request: Request) -> Iterator[Session]:
    """One transaction for the request: committed when the endpoint returns, rolled back when it raises."""
    sessions: Sessions = request.app.state.sessions
    with sessions.begin() as opened:
        yield opened


# scope="function" commits before the reply is sent: with a plain dependency a failing commit would still answer 200.
SessionDep = Annotated[Session, Depends(session, scope="function")]
PrincipalDep = Annotated[Principal, Depends(principal)]
RowNumber = Annotated[int, Path(ge=1, le=2**31 - 1)]
"""A version, dataset or other number in the path; larger ones would be refused by the column."""
