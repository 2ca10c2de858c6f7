"""GET /v1/explain: what it refuses, and that it is bounded."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.http_ranker import HttpRanker, http_ranker, problem_of


@pytest.fixture(scope="module")
def ranker() -> Iterator[HttpRanker]:
    """One for all tests, without a model."""
    with http_ranker() as made:
        yield made


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("user=u&k=0", "k: Expected `int` >= 1"),
        ("user=u&k=101", "k: Expected `int` <= 100"),
        ("user=u&k=ten", "k: "),
        ("user=", "user: "),
        ("item=a", "user"),
        ("user=u&item=a&item=b", "'item' is given twice"),
        ("user=u&items=a", "'items' is no parameter"),
        ('user=u&rule={"kind":', "isn't JSON"),
        ("user=u&context.=a", "'context.' is no parameter"),
        ("user=u&request_id=a", "'request_id' is no parameter"),
    ],
)
def test_a_bad_query_is_refused(ranker: HttpRanker, query: str, detail: str) -> None:
    """With what is wrong, before anything is ranked."""
    problem = problem_of(ranker.client.get(f"/v1/explain?{query}"))
    assert problem["status"] == 400
    assert detail in problem["detail"]


def test_it_waits_until_the_ranker_ranks(ranker: HttpRanker) -> None:
    """Like a list, an explanation needs a ranker that is ready."""
    ranker.is_ready = False
    try:
        answer = ranker.client.get("/v1/explain?user=u")
        assert problem_of(answer)["type"].endswith("not_ready")
        assert answer.headers["retry-after"] == "1"
    finally:
        ranker.is_ready = True


def test_it_needs_the_scope_of_ranking(tmp_path: Path) -> None:
    """A token without `rank` gets no explanation, and no token none either."""
    tokens = tmp_path / "tokens.toml"
    tokens.write_text('[a]\ntoken = "0123456789abcdef"\nscopes = ["events"]\n')
    with http_ranker(tokens) as ranker:
        assert ranker.client.get("/v1/explain?user=u").status_code == 401
        headers = {"authorization": "Bearer 0123456789abcdef"}
        assert ranker.client.get("/v1/explain?user=u", headers=headers).status_code == 403
