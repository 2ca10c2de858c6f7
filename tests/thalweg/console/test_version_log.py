"""The timeline follows head, decisions and refusals, each once."""

import json
from pathlib import Path

import pytest
from prometheus_client.samples import Sample

from stream.runtime.errors import StoreUnavailable
from stream.snapshots.memory_store import MemoryStore
from tests.support.small_versions import publish
from thalweg.console.rooms import RoomReading
from thalweg.console.version_log import REFUSED, ROLL_BACKS, SEEDED, VersionLog


def learner(**refused: float) -> list[RoomReading]:
    """A learner that refused so many versions by cause."""
    samples = [Sample(REFUSED, {"cause": cause}, count) for cause, count in refused.items() if cause != "back"]
    return [RoomReading("learner", "0", "up", "", [*samples, Sample(ROLL_BACKS, {}, refused.get("back", 0.0))])]


@pytest.fixture
def store() -> MemoryStore:
    """A store of the model m."""
    return MemoryStore("m")


def follow(store: MemoryStore, quarantine: Path | None = None) -> VersionLog:
    """A log whose clock stands at 5 ms."""
    return VersionLog(store, quarantine, lambda: 5)


class Failing(MemoryStore):
    """Goes away between two questions, until `is_listing`."""

    is_listing = False

    def versions(self) -> list[int]:
        """Raises StoreUnavailable."""
        if not self.is_listing:
            raise StoreUnavailable("it went away")
        return super().versions()


def fill(store: MemoryStore, *versions: int) -> None:
    """Publish these, each the child of the one before."""
    head, token = store.head(), store.take_token()
    parent = head.version if head else 0
    for version in versions:
        publish(store, version, parent, token)
        parent = version


def test_it_begins_with_the_newest_versions(store: MemoryStore) -> None:
    """A page that opens sees some of the past; nothing is said twice."""
    log = follow(store)
    assert log.update(learner()) == ({"head": 0, "pinned": 0}, [])
    fill(store, *range(1, SEEDED + 3))
    section, entries = log.update(learner())
    assert [one["version"] for one in entries] == list(range(3, SEEDED + 3))
    assert section == {"head": SEEDED + 2, "pinned": 0}
    assert log.update(learner())[1] == []
    fill(store, SEEDED + 3, SEEDED + 4)
    assert [one["version"] for one in log.update(learner())[1]] == [SEEDED + 4], "the head of each reading"


def test_an_entry_has_the_version_s_figures(store: MemoryStore) -> None:
    """Examples, installs, times as the manifest has them."""
    fill(store, 1)
    [entry] = follow(store).update(learner())[1]
    assert entry["examples"] == 8
    assert entry["installs"] == 1
    assert entry["time_ms"] == 3_000


def test_decisions(store: MemoryStore) -> None:
    """Pinned, another pinned, unpinned: one entry each, also when it was pinned before the console began."""
    fill(store, 1, 2, 3)
    store.pin(2)
    log = follow(store)
    found = [log.update(learner())]
    for version in (1, 0):
        store.pin(version)
        found.append(log.update(learner()))
    kinds = [[(one["kind"], one["version"]) for one in entries if one["kind"] != "published"] for _, entries in found]
    assert kinds == [[("pinned", 2)], [("pinned", 1)], [("unpinned", 0)]]
    assert [section["pinned"] for section, _ in found] == [2, 1, 0]


def test_refusals_have_their_reason(store: MemoryStore, tmp_path: Path) -> None:
    """What a learner refused from now on is listed by cause, with the reason of the newest evidence if it's here."""
    evidence = {"version": 9, "cause": "spread", "reason": "scores spread by 2.1", "numbers": {"spread": 2.1}}
    (tmp_path / "000000000009-spread.json").write_text(json.dumps(evidence))
    (tmp_path / "000000000010-mean.json").write_text("{")
    log = follow(store, tmp_path)
    assert log.update(learner(spread=4))[1] == []
    _, entries = log.update(learner(spread=6, mean=1, back=1))
    assert [(one["kind"], one["cause"], one["count"], one["reason"]) for one in entries] == [
        ("refused", "spread", 2, "scores spread by 2.1"),
        ("refused", "mean", 1, ""),
        ("rolled_back", "rolled_back", 1, ""),
    ]


def test_a_learner_that_is_gone_refuses_nothing(store: MemoryStore) -> None:
    """Its restart, with counters at 0, is no refusal either."""
    log = follow(store)
    log.update(learner(spread=4))
    for readings in ([], learner(spread=0), learner(spread=0)):
        assert log.update(readings)[1] == []
    assert log.update(learner(spread=1))[1][0]["count"] == 1


def test_a_store_that_goes_away_while_it_is_read_is_read_again() -> None:
    """The first list of versions isn't lost."""
    store = Failing("m")
    fill(store, 1, 2)
    log = follow(store)
    assert "error" in log.update(learner())[0]
    store.is_listing = True
    assert [one["version"] for one in log.update(learner())[1]] == [1, 2]


def test_a_pin_has_the_time_at_which_it_was_made() -> None:
    """Also when the console began long after it."""
    store = MemoryStore("m", now_us=lambda: 7_000_000)
    fill(store, 1)
    store.pin(1)
    assert follow(store).update(learner())[1][-1]["time_ms"] == 7_000


def test_a_store_that_is_gone_is_said(store: MemoryStore) -> None:
    """The page shows the error in place of the versions, and goes on."""
    log = follow(store)
    store.answers = False
    assert "error" in log.update(learner())[0]
    store.answers = True
    fill(store, 1)
    assert log.update(learner())[0] == {"head": 1, "pinned": 0}
