"""Bad input to every endpoint is a clear 4xx problem: never a 5xx, nothing stored."""

import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import text

from tests.integration.data.conftest import Service
from tests.unit.data.samples import event

JSON = {"content-type": "application/json"}
YAML = {"content-type": "application/yaml"}
NDJSON = {"content-type": "application/x-ndjson"}
PARQUET = {"content-type": "application/vnd.apache.parquet"}
ARROW = {"content-type": "application/vnd.apache.arrow.stream"}
EVENTS, LABELS, DATASETS = (f"/v1/pipelines/trips/{name}" for name in ("events", "labels", "datasets"))
DEEP = b"[" * 100_000

NOT_JSON = (b"", b"{", b"\xff", b"NaN", b'{"a": Infinity}', b'"\\ud800"', b"[" * 100_000)
NOT_A_PIPELINE = (
    b"", b"\x00", b"a: [", b"- 1", b"a: !!int x", b"a: &x [*x]", b"!!python/name:os.system", b"[" * 5000, b"name: .nan",
)  # fmt: skip
NOT_A_REQUEST = (
    b'{"as_of": "soon"}', b'{"as_of": "2024-01-01T00:00:00"}', b'{"cycle": "x"}', b'{"x": 1}', b'{"as_of": "\\u0000"}',
    b'{"as_of": [1]}', b"[]", b"null", b"5",
)  # fmt: skip
BODIES: list[tuple[str, dict[str, str], bytes, tuple[int, ...]]] = [
    *[(path, JSON, body, (400, 422)) for path in ("/v1/pipelines", EVENTS, LABELS, DATASETS) for body in NOT_JSON],
    *[(path, JSON, body, (422,)) for path in ("/v1/pipelines", EVENTS, LABELS) for body in (b"{}", b"null", b"5")],
    *[("/v1/pipelines", YAML, body, (400, 422)) for body in NOT_A_PIPELINE],
    ("/v1/pipelines", JSON, b'{"name": "\\u0000"}', (422,)),
    ("/v1/pipelines", YAML, b"#" * 300_000, (413,)),
    ("/v1/pipelines", {"content-type": "text/plain"}, b"name: x", (415,)),
    ("/v1/pipelines", {}, b"name: x", (415,)),
    *[
        (EVENTS, kind, body, (400,))
        for kind in (PARQUET, ARROW)
        for body in (b"", b"PAR1PAR1", b"\x00" * 99, b"\xff" * 99)
    ],
    *[(path, {"content-type": "text/csv"}, b"a,b", (415,)) for path in (EVENTS, LABELS)],
    *[(path, {}, b"[]", (415,)) for path in (EVENTS, LABELS)],
    (LABELS, PARQUET, b"PAR1", (415,)),
    (DATASETS, {"content-type": "text/plain"}, b"{}", (415,)),
    *[(DATASETS, JSON, body, (422,)) for body in NOT_A_REQUEST],
    (DATASETS, JSON, b'{"as_of": 1e400}', (400, 422)),
]


def test_bad_bodies(trips: Service) -> None:
    for path, headers, body, statuses in BODIES:
        answer = trips.client.post(path, content=body, headers=headers)
        case = (path, headers, body[:40], answer.text)
        assert answer.status_code in statuses, case
        assert answer.headers["content-type"] == "application/problem+json", case
        problem = answer.json()
        assert problem["type"].startswith("urn:relevo:problem:"), case
        assert problem["detail"], case
    with trips.sessions.begin() as session:
        counts = session.execute(
            text("select (select count(*) from events), (select count(*) from labels), (select count(*) from datasets)")
        ).one()
    assert tuple(counts) == (0, 0, 0)


def test_names_and_numbers_of_what_does_not_exist(trips: Service) -> None:
    reads = ("", "/quarantine", "/datasets", "/datasets/1", "/datasets/1/card", "/datasets/1/splits/train")
    names = ("nothing", "%00", "a" * 300, "..%2f..", "Trips", "%F0%9F%98%80")
    numbers = ("0", "-1", "99", "x", "99999999999999999999", "1.5")
    paths = [f"/v1/pipelines/{name}{path}" for name in names for path in reads]
    paths += [
        f"{DATASETS}/{number}{path}" for number in numbers for path in ("", "/card", "/statistics", "/splits/train")
    ]
    for path in [*paths, f"{DATASETS}/1/splits/other"]:
        assert trips.client.get(path).status_code in (404, 422), path
    for number in numbers:
        assert trips.client.post(f"{DATASETS}/{number}/verify").status_code in (404, 422), number


def test_bad_queries(trips: Service) -> None:
    for query in (
        "limit=0",
        "limit=201",
        "limit=x",
        "after=x",
        f"after={10**20}",
        "after=-1",
        "kind=other",
        "limit=%00",
    ):
        assert trips.client.get(f"/v1/pipelines/trips/quarantine?{query}").status_code == 422, query


ROUTES = [
    ("POST", "/v1/pipelines", "read"),
    ("GET", "/v1/pipelines", "ingest"),
    ("GET", "/v1/schema/pipeline.json", "ingest"),
    ("POST", EVENTS, "read"),
    ("POST", LABELS, "read"),
    ("GET", "/v1/pipelines/trips/quarantine", "ingest"),
    ("POST", DATASETS, "read"),
    ("GET", DATASETS, "ingest"),
    ("GET", f"{DATASETS}/1/splits/train", "read"),
    ("POST", f"{DATASETS}/1/verify", "read"),
    ("GET", "/v1/keys", "read"),
]


def test_no_key_and_the_wrong_scope(trips: Service) -> None:
    keys = {scope: trips.post("/keys", {"name": scope, "scopes": [scope]}, 201)["key"] for scope in ("read", "ingest")}
    for method, path, scope in ROUTES:
        options: dict[str, Any] = {"content": b"["} if method == "POST" else {}
        anonymous = trips.client.request(method, path, headers={"Authorization": ""}, **options)
        assert anonymous.status_code == 401, (method, path)
        forbidden = trips.client.request(method, path, headers={"Authorization": f"Bearer {keys[scope]}"}, **options)
        assert forbidden.status_code == 403, (method, path)


def test_a_json_array_over_the_limit_is_told_what_to_send_instead(trips: Service) -> None:
    rows = b"[" + b"1," * (5 * 2**20) + b"1]"
    answer = trips.client.post(EVENTS, content=rows, headers=JSON)
    assert answer.status_code == 413
    assert "NDJSON" in answer.json()["detail"]


def test_a_file_with_columns_that_do_not_fit_is_one_problem(trips: Service) -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([{**event(number, 1), "colour": "red"} for number in range(1000)]), buffer)
    answer = trips.client.post(EVENTS, content=buffer.getvalue(), headers=PARQUET)
    assert answer.status_code == 422
    assert answer.json()["errors"] == [{"loc": ["colour"], "msg": "is no field of this pipeline"}]
    assert trips.get("/pipelines/trips/quarantine")["items"] == []
