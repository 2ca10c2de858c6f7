"""The OpenAPI document and its page. Everything that the page loads comes from this server."""

from importlib.resources import files
from typing import Any, Final

import msgspec
from litestar import Litestar, Request, Response, Router, get
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import OpenAPIRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme

from ranker.http.bodies import FORMS
from ranker.http.problems import MEDIA_TYPE, Problem
from ranker.http.routes import DOCS

SCRIPT: Final = "/rapidoc.js"
REF: Final = "#/components/schemas/{name}"
BEARER: Final[list[dict[str, list[str]]]] = [{"bearer": []}, {}]  # without tokens: none
CONTENT_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; img-src 'self' data:; connect-src 'self'"
)
PAGE: Final = f"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>Thalweg: ranking over HTTP</title><script src="{DOCS}{SCRIPT}"></script></head>
<body>
<rapi-doc spec-url="{DOCS}/openapi.json" load-fonts="false" render-style="view" show-header="false"></rapi-doc>
</body>
</html>
"""


class RapidocPage(OpenAPIRenderPlugin):
    """RapiDoc, without anything from elsewhere."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """The page."""
        return PAGE.encode()


@get(SCRIPT, media_type="text/javascript", sync_to_thread=False)
def rapidoc_script() -> Response[bytes]:
    """RapiDoc's script, compressed as it is shipped."""
    script = files("ranker.http").joinpath("assets/rapidoc-min.js.gz").read_bytes()
    return Response(script, headers={"content-encoding": "gzip", "cache-control": "max-age=86400"})


def openapi_config(version: str) -> OpenAPIConfig:
    """Litestar's configuration: the document at /docs/openapi.json, the page at /docs."""
    return OpenAPIConfig(
        title="Thalweg",
        version=version,
        description="Ranked lists from a model that learns within a second.",
        components=Components(security_schemes={"bearer": SecurityScheme(type="http", scheme="bearer")}),
        render_plugins=[RapidocPage(path="/")],
        openapi_router=Router(
            DOCS,
            route_handlers=[rapidoc_script],
            include_in_schema=False,
            response_headers={"content-security-policy": CONTENT_POLICY, "x-content-type-options": "nosniff"},
        ),
    )


def post_operation(
    summary: str, body: Any, answers: dict[int, tuple[str, Any]], headers: dict[str, tuple[str, str]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """An operation that Litestar doesn't route, and its schemas.

    `answers` by status; `headers` by name, what each is and its pattern. Types are those that msgspec decodes and
    encodes.
    """
    (taken, *given), schemas = msgspec.json.schema_components(
        [body, *(answer for _, answer in answers.values())], ref_template=REF
    )
    operation = {
        "summary": summary,
        "security": BEARER,
        "parameters": [
            {"name": name, "in": "header", "description": text, "schema": {"type": "string", "pattern": pattern}}
            for name, (text, pattern) in headers.items()
        ],
        "requestBody": {"required": True, "content": _in_both_forms(taken)},
        "responses": {
            str(status): {"description": text, "content": _in_both_forms(schema)}
            for (status, (text, _)), schema in zip(answers.items(), given, strict=True)
        },
    }
    return operation, schemas


def complete_document(app: Litestar, posts: dict[str, tuple[dict[str, Any], dict[str, Any]]]) -> None:
    """Add the operations that Litestar doesn't route, and the problem that each operation may answer with."""
    document: Any = app.openapi_schema
    for path, (operation, schemas) in posts.items():
        document.paths[path] = {"post": operation}
        document.components.schemas.update(schemas)
    (problem,), schemas = msgspec.json.schema_components([Problem], ref_template=REF)
    document.components.schemas.update(schemas)
    answer = {"description": "a problem (RFC 9457)", "content": {MEDIA_TYPE.decode(): {"schema": problem}}}
    for item in document.paths.values():
        if isinstance(item, dict):
            item["post"]["responses"]["default"] = answer
        else:
            operation = item.get or item.delete
            ours = {status: one for status, one in operation.responses.items() if status.startswith("2")}
            operation.responses = ours | {"default": answer}


def _in_both_forms(schema: dict[str, Any]) -> dict[str, Any]:
    return {form.decode(): {"schema": schema} for form in FORMS}
