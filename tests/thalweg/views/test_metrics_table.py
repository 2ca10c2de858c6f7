"""The page of metrics is that of the code, and names keep Prometheus' rules."""

import re
import subprocess
import sys
from functools import cache
from pathlib import Path


@cache
def table() -> str:
    """As written by a process of its own: here other tests have registered what they like."""
    command = [sys.executable, "-m", "thalweg.views.metrics_table"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_page_is_that_of_the_code() -> None:
    """Whoever adds or renames a metric writes the page anew."""
    page = Path(__file__).parents[3] / "docs" / "metrics.md"
    assert page.read_text() == table(), "write it anew: python -m thalweg.views.metrics_table > docs/metrics.md"


def test_names_keep_the_rules() -> None:
    """Each names its service; base units; a counter ends in _total, nothing else does."""
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|", table(), re.M)
    assert len(rows) > 40
    for name, kind in rows:
        assert re.match(r"thalweg_(joiner|learner|ranker)_", name), name
        assert name.endswith("_total") == (kind == "counter"), name
        assert not re.search(r"_(ms|kb|mb|minutes)(_|$)", name), name
        assert kind != "histogram" or name.endswith("_seconds"), name


def test_docs_name_metrics_that_exist() -> None:
    """What README, ARCHITECTURE and the other pages call a metric is one."""
    root = Path(__file__).parents[3]
    exist = set(re.findall(r"thalweg_\w+", table()))
    for page in (root / "README.md", root / "ARCHITECTURE.md", *(root / "docs").glob("*.md")):
        named = set(re.findall(r"\bthalweg_\w+", page.read_text()))
        assert named <= exist, (page.name, named - exist)
