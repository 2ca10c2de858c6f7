"""The page of metrics is that of the code, and names keep Prometheus' rules."""

import re
from pathlib import Path

import pytest

from tests.support.forked_services import Nest


@pytest.fixture(scope="module")
def table(nest: Nest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """As written by a process of its own: here other tests have registered what they like."""
    page = tmp_path_factory.mktemp("metrics") / "metrics.md"
    assert nest.run("metrics_table", [], {}, page).wait() == 0, page.read_text()
    return page.read_text()


def test_the_page_is_that_of_the_code(table: str) -> None:
    """Whoever adds or renames a metric writes the page again."""
    page = Path(__file__).parents[3] / "docs" / "metrics.md"
    assert page.read_text() == table, "write it again: python -m thalweg.views.metrics_table > docs/metrics.md"


def test_names_keep_the_rules(table: str) -> None:
    """Each names its service; base units; a counter ends in _total, nothing else does."""
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|", table, re.M)
    assert len(rows) > 40
    for name, kind in rows:
        assert re.match(r"thalweg_(joiner|learner|ranker)_", name), name
        assert name.endswith("_total") == (kind == "counter"), name
        assert not re.search(r"_(ms|kb|mb|minutes)(_|$)", name), name
        assert kind != "histogram" or name.endswith("_seconds"), name


def test_docs_name_metrics_that_exist(table: str) -> None:
    """What README, ARCHITECTURE and the other pages call a metric is one."""
    root = Path(__file__).parents[3]
    exist = set(re.findall(r"thalweg_\w+", table))
    for page in (root / "README.md", root / "ARCHITECTURE.md", *(root / "docs").glob("*.md")):
        named = set(re.findall(r"\bthalweg_\w+", page.read_text()))
        assert named <= exist, (page.name, named - exist)
