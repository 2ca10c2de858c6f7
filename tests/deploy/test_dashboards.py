"""Grafana's dashboards: as written from their panels, with metrics that exist."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from deploy.observability.dashboards import files
from deploy.observability.panels import BOARDS, Board
from tests.support.prometheus import RULES, rules
from thalweg.stack.broker import REPOSITORY

FILES = {file.stem: json.loads(content) for file, content in files().items()}
OF_OTHERS = {  # of Prometheus itself and of its client library
    "up", "ALERTS", "scrape_duration_seconds", "python_gc_collections_total", "process_cpu_seconds_total",
    "process_resident_memory_bytes", "process_open_fds", "process_start_time_seconds",
}  # fmt: skip
TABLE = dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", (REPOSITORY / "docs" / "metrics.md").read_text(), re.M))
RECORDED = {rule["record"] for rule in rules() if "record" in rule}


def queries(board: Board) -> list[str]:
    """All PromQL of a dashboard."""
    return [query for panels in board.rows.values() for panel in panels for query in panel.queries.values()]


def metrics_of(query: str) -> Iterator[str]:
    """Names of series that a query reads."""
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|\b(by|ignoring|group_left) \([^)]*\)", "", query)
    yield from re.findall(r"\b(?:up|ALERTS|\w+[_:][\w:]+)\b(?! ?\()", bare)


def panels(name: str) -> list[dict[str, Any]]:
    """A dashboard's panels without its rows."""
    return [panel for panel in FILES[name]["panels"] if panel["type"] != "row"]


def test_files_are_those_of_the_panels() -> None:
    """Whoever changes a panel writes the files again."""
    for file, content in files().items():
        assert file.read_text() == content, "write them again: python -m deploy.observability.dashboards"
    assert {*files()} == {*next(iter(files())).parent.iterdir()}


@pytest.mark.parametrize("name", sorted(BOARDS))
def test_each_metric_exists(name: str) -> None:
    """What a query reads is in docs/metrics.md, recorded by a rule, or Prometheus' own."""
    known = {*TABLE, *OF_OTHERS, *RECORDED}
    known |= {f"{metric}_bucket" for metric, kind in TABLE.items() if kind == "histogram"}
    for query in queries(BOARDS[name]):
        read = [*metrics_of(query)]
        assert read, query
        assert {*read} <= known, query


def test_each_metric_of_a_rule_exists() -> None:
    """The same for recording rules and alerts."""
    text = "\n".join(rule["expr"] for rule in rules())
    assert set(re.findall(r"\bthalweg_(?:joiner|learner|ranker)_\w+", text)) <= set(TABLE)
    assert set(re.findall(r"\b[a-z_]+:[a-z_]+:\w+", text)) <= RECORDED
    used = text + "".join(query for board in BOARDS.values() for query in queries(board))
    assert [name for name in RECORDED if name not in used] == []
    assert RULES.read_text().count("record: ") == len(RECORDED)


@pytest.mark.parametrize("name", sorted(BOARDS))
def test_panels_are_whole(name: str) -> None:
    """Each has a number and a title of its own, a unit, queries with legends, and lies beside the others."""
    found = panels(name)
    assert len({one["id"] for one in FILES[name]["panels"]}) == len(FILES[name]["panels"])
    assert len({one["title"] for one in found}) == len(found)
    covered: set[tuple[int, int]] = set()
    for one in found:
        assert one["fieldConfig"]["defaults"]["unit"]
        assert one["datasource"]["uid"] == "${datasource}"
        assert all(target["expr"] and target["legendFormat"] for target in one["targets"])
        grid = one["gridPos"]
        cells = {(grid["x"] + x, grid["y"] + y) for x in range(grid["w"]) for y in range(grid["h"])}
        assert not cells & covered
        assert max(x for x, _ in cells) < 24
        covered |= cells
