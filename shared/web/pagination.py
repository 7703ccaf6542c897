"""Lists in pages: `?limit=50&after=<next of the page before>` gives `{"items": [...], "next": cursor or null}`, newest first.

The cursor is the last item's id or number, so a page costs one index scan however far down it is, and rows that are added meanwhile
never shift it.
"""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Depends, Query
from pydantic import BaseModel
from sqlalchemy import Select
from sqlalchemy.orm import QueryableAttribute

Cursor = TypeVar("Cursor", uuid.UUID, int)
Item = TypeVar("Item")
Row = TypeVar("Row")
Selected = TypeVar("Selected", bound=Select[*tuple[Any, ...]])

Limit = Annotated[int, Query(ge=1, le=200, description="Most items on the page.")]


class Page(BaseModel, Generic[Item]):
    """One page of a list."""

    items: list[Item]
    next: str | None
    """Pass it as `after` to get the next page; null on the last one."""


@dataclass(frozen=True)
class PageRequest(Generic[Cursor]):
    """Which page is asked for: at most `limit` items older than the one named `after`."""

    limit: int
    after: Cursor | None


def _by_id(
    limit: Limit = 50, after: Annotated[uuid.UUID | None, Query(description="`next` of the page before.")] = None
) -> PageRequest[uuid.UUID]:
    return PageRequest(limit, after)


def _by_number(
    limit: Limit = 50,
    after: Annotated[int | None, Query(ge=1, le=2**31 - 1, description="`next` of the page before.")] = None,
) -> PageRequest[int]:
    return PageRequest(limit, after)


IdPage = Annotated[PageRequest[uuid.UUID], Depends(_by_id)]
"""For rows named by a time-ordered UUID."""
NumberPage = Annotated[PageRequest[int], Depends(_by_number)]
"""For rows numbered inside their pipeline."""


def newest_first(query: Selected, column: Any, page: PageRequest[Any]) -> Selected:
    """Order by the cursor column, begin after the cursor, and fetch one row more than asked: it tells whether more follow.

    Args:
        column: the mapped attribute (`ModelVersion.number`); unique within what the query selects.
    """
    assert isinstance(column, QueryableAttribute)
    if page.after is not None:
        query = query.where(column < page.after)
    return query.order_by(column.desc()).limit(page.limit + 1)


def page_of(
    rows: Sequence[Row], page: PageRequest[Any], *, cursor: Callable[[Row], object], show: Callable[[Row], Item]
) -> Page[Item]:
    """The page made of what a `newest_first` query returned."""
    shown = rows[: page.limit]
    more = len(rows) > page.limit
    return Page(items=[show(row) for row in shown], next=str(cursor(shown[-1])) if more else None)
