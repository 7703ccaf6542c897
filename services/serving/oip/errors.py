"""Errors as the protocol has them: `{"error": "..."}` and a fitting status. What is wrong with a request is 400."""

from http import HTTPStatus

import orjson
from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from shared.web.errors import last_resort

PREFIX = "/v2"
_KEPT = ("allow", "connection", "retry-after", "www-authenticate")


async def refuse(request: Request, error: Exception) -> Response:
    """The answer that an exception is: the problem it would be elsewhere, in one sentence."""
    found = await last_resort(request, error)
    problem = orjson.loads(found.body)
    sentence: str = problem["detail"]
    for wrong in problem.get("errors", [])[:1]:
        *_, name = map(str, wrong["loc"] or ("body",))
        if name != "body" and name not in sentence:
            sentence += f" {name} {wrong['msg']}."
    status = HTTPStatus.BAD_REQUEST if found.status_code == HTTPStatus.UNPROCESSABLE_ENTITY else found.status_code
    headers = {name: value for name, value in found.headers.items() if name in _KEPT}
    return Response(orjson.dumps({"error": sentence}), status, headers, media_type="application/json")


def install(app: FastAPI) -> None:
    """Have paths below /v2 that are no route, and methods that one does not take, answered in this form too."""

    async def http_exception(request: Request, error: Exception) -> Response:
        path = request.url.path
        ours = path == PREFIX or path.startswith(f"{PREFIX}/")
        return await (refuse if ours else last_resort)(request, error)

    app.add_exception_handler(HTTPException, http_exception)
