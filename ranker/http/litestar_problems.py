"""Problem details in place of Litestar's own errors."""

from typing import Any, Final

from litestar import Request, Response
from litestar.exceptions import HTTPException

from ranker.http.problems import FAILED, INVALID, NOT_ALLOWED, NOT_FOUND, TOO_LARGE, HttpProblem

STATUSES: Final = {400: INVALID, 404: NOT_FOUND, 405: NOT_ALLOWED, 413: TOO_LARGE}


def problem_response(request: Request[Any, Any, Any], problem: HttpProblem) -> Response[bytes]:
    """The answer to a request that ends with this problem."""
    headers = {name.decode(): value.decode() for name, value in problem.headers}
    return Response(problem.body, status_code=problem.kind.status, headers=headers)


def framework_response(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """The answer to a request that Litestar itself refuses: a bad parameter, no such path."""
    kind = STATUSES.get(error.status_code, FAILED)
    headers = [(name.encode(), value.encode()) for name, value in (error.headers or {}).items()]
    wrong = [f"{one['key']}: {one['message']}" for one in error.extra or [] if isinstance(one, dict) and "key" in one]
    if error.status_code == 400 and not wrong:
        wrong = [error.detail[:300]]
    why = "; ".join([f"{request.scope['method']} {request.scope['path'][:100]}", *wrong])
    return problem_response(request, HttpProblem(kind, why, headers=headers))
