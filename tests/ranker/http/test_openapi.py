"""The OpenAPI document is what the server does."""

import re
from collections.abc import Iterator
from importlib.resources import files
from itertools import count
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection

from ranker.http.idempotency import HEADER
from tests.support.http_ranker import HttpRanker, http_ranker

EXAMPLES = 25
CHECKED = (("/v1/rank", "POST"), ("/v1/events", "POST"), ("/v1/explain", "GET"))
GETS = ("/v1/models", "/v1/items/{item}", "/livez", "/readyz")
CASES = [
    *((*call, mode) for call in CHECKED for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)),
    *((path, "GET", GenerationMode.POSITIVE) for path in GETS),  # nothing of them can be invalid
]


@pytest.fixture(scope="module")
def ranker() -> Iterator[HttpRanker]:
    """One for all examples."""
    with http_ranker() as made:
        yield made


@pytest.fixture(scope="module")
def document(ranker: HttpRanker) -> Any:
    """The document as served."""
    return schemathesis.openapi.from_url(f"http://127.0.0.1:{ranker.server.port}/docs/openapi.json")


def integral(value: Any) -> Any:
    """The same JSON value with 3 instead of 3.0, which only JSON Schema takes for an integer."""
    if isinstance(value, dict):
        return {name: integral(part) for name, part in value.items()}
    if isinstance(value, list):
        return [integral(part) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


@pytest.mark.parametrize(("path", "method", "mode"), CASES)
def test_every_generated_request_gets_a_documented_answer(
    document: Any, path: str, method: str, mode: GenerationMode
) -> None:
    """Valid and invalid ones: no crash, and statuses, media types, headers and bodies as documented."""

    keys = count()

    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
    @given(document[path][method].as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        if mode is GenerationMode.POSITIVE:
            case.body = integral(case.body)
            if HEADER in case.headers:  # a key of its own, as valid as before
                case.headers[HEADER] = f"{next(keys)}-{case.headers[HEADER]}"[:128]
        if path == "/v1/events":  # invalid events are answered one by one, in a 207
            case.call_and_validate(excluded_checks=[negative_data_rejection])
        else:
            case.call_and_validate()

    check()


def test_every_operation_is_checked(document: Any) -> None:
    """But what needs a token."""
    found = {(path, method.upper()) for path in document for method in document[path]}
    for_admins = {("/metrics", "GET"), ("/v1/users/{user}", "DELETE")}
    assert found == {(path, method) for path, method, _ in CASES} | for_admins


def test_the_page_loads_nothing_from_elsewhere(ranker: HttpRanker) -> None:
    """Script and document come from this server, and the page's policy allows nothing else."""
    page = ranker.client.get("/docs")
    sources = re.findall(r'(?:src|href|spec-url)="([^"]*)"', page.text)
    assert sources
    for source in sources:
        assert source.startswith("/")
        assert ranker.client.get(source).status_code == 200
    assert page.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
    assert "RapiDoc 9.3.8" in ranker.client.get("/docs/rapidoc.js").text


def test_the_script_is_shipped_with_the_package() -> None:
    """And under its name in the repository's NOTICE."""
    assert files("ranker.http").joinpath("assets/rapidoc-min.js.gz").is_file()
