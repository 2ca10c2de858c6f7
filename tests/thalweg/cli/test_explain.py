"""`thalweg explain`, against a whole ranker."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.support.memory_ranker import Whole, ready_ranker
from tests.support.waiting import wait_until
from thalweg.cli.main import app
from thalweg.client.errors import InvalidRequest, Unreachable
from thalweg.client.explanations import explain

PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def ranker() -> Iterator[Whole]:
    """One for all tests."""
    with ready_ranker() as made:
        yield made


def said_of(ranker: Whole, *words: str) -> str:
    """What the command prints."""
    result = CliRunner().invoke(app, ["explain", *words, "--http", ranker.http.address])
    assert result.exit_code == 0, result.output
    return result.output


def test_a_page_has_a_line_for_each_item(ranker: Whole) -> None:
    """Title, logit in parts, and the version that ranked it."""
    wait_until(lambda: not explain(ranker.http.address, "u").notes)  # a profile that is read too late is cached
    said = said_of(ranker, "u", "-k", "3", "--context", "device=x")
    page = explain(ranker.http.address, "u", k=3, context={"device": "x"})
    assert [one.title for one in page.items if one.title not in said] == []
    assert "version 1 of m" in said
    assert "this user isn't described" not in said


def test_one_item_has_a_line_for_each_term(ranker: Whole, tmp_path: Path) -> None:
    """All columns of the deep part and all weights; the same as JSON, and as a picture."""
    files = tmp_path / "one.json", tmp_path / "one.png"
    said = said_of(ranker, "u", "i7", "--json", str(files[0]), "--plot", str(files[1]))
    (one,) = json.loads(files[0].read_bytes())["items"]
    assert one["item"] == "i7"
    assert "Item 7 for user u" in said
    assert all(term["column"] in said for term in one["deep_terms"])
    assert len(one["deep_terms"]) == one["deep_columns"]
    assert files[1].read_bytes().startswith(PNG)


def test_what_can_not_be_explained_says_why(ranker: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown item, no ranker at the address, none here, a picture of no item: one line each, with the remedy."""
    with pytest.raises(InvalidRequest, match=r"no item 'i999' is described.*write the item"):
        explain(ranker.http.address, "u", "i999")
    with pytest.raises(Unreachable, match="--http"):
        explain("127.0.0.1:1", "u")
    monkeypatch.setenv("THALWEG_LOCAL", str(tmp_path))
    for words, remedy in (
        (["u"], "thalweg run ranker --http"),
        (["u", "--plot", str(tmp_path / "x.png")], "name it after the user"),
        (["u", "--http", "ftp://x"], "an address is HOST:PORT"),
    ):
        result = CliRunner().invoke(app, ["explain", *words])
        assert result.exit_code == 1
        assert remedy in result.output
