"""Pages made of rows, and the query that fetches them."""

import uuid
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.dialects import postgresql
from sqlmodel import SQLModel

from shared.contracts.scopes import Scope
from shared.ids import new_id
from shared.registry.tables import Dataset
from shared.web.auth import GuardedRouter, requires
from shared.web.pagination import IdPage, NumberPage, Page, PageRequest, newest_first, page_of
from tests.unit.shared.web.conftest import Keys, bearer, build, running


class Shown(SQLModel):
    """One item of a list."""

    number: int


def _page(rows: list[int], limit: int) -> Page[Shown]:
    return page_of(rows, PageRequest[int](limit, None), cursor=lambda row: row, show=lambda row: Shown(number=row))


def test_a_full_page_names_its_last_item() -> None:
    page = _page([9, 8, 7], 2)
    assert [item.number for item in page.items] == [9, 8]
    assert page.next == "8"


@pytest.mark.parametrize("rows", [[], [9], [9, 8]])
def test_the_last_page_has_no_next(rows: list[int]) -> None:
    page = _page(rows, 2)
    assert len(page.items) == len(rows)
    assert page.next is None


def test_the_query_seeks_and_fetches_one_more() -> None:
    query = newest_first(select(Dataset), Dataset.number, PageRequest[int](20, 41))
    text = str(query.compile(dialect=postgresql.dialect(), compile_kwargs={"literal_binds": True}))
    assert "datasets.number < 41" in text
    assert "ORDER BY datasets.number DESC" in text
    assert "LIMIT 21" in text


async def test_cursors_are_checked(keys: Keys, admin: str, quiet_logging: list[Any]) -> None:
    lists = GuardedRouter(prefix="/v1", dependencies=[requires(Scope.READ)])

    @lists.get("/by-id")
    def by_id(page: IdPage) -> dict[str, str]:
        return {"after": f"{type(page.after).__name__} {page.limit}"}

    @lists.get("/by-number")
    def by_number(page: NumberPage) -> dict[str, str]:
        return {"after": f"{page.after} {page.limit}"}

    async with running(build(keys, routers=[lists])) as client:
        client.headers.update(bearer(admin))
        assert (await client.get("/v1/by-id")).json() == {"after": "NoneType 50"}
        assert (await client.get(f"/v1/by-id?after={new_id()}&limit=200")).json() == {"after": "UUID 200"}
        assert (await client.get("/v1/by-number?after=7&limit=1")).json() == {"after": "7 1"}
        for bad in (
            "after=x",
            "after=",
            "after=-1",
            "limit=0",
            "limit=201",
            "limit=1e3",
            "after=%00",
            f"after={2**70}",
        ):
            for path in ("/v1/by-id", "/v1/by-number"):
                assert (await client.get(f"{path}?{bad}")).status_code == 422, (path, bad)
        assert (await client.get(f"/v1/by-number?after={uuid.UUID(int=0)}")).status_code == 422
