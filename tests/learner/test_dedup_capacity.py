"""A learner must remember as many example ids as joiners may emit again."""

import pytest
from structlog.testing import capture_logs

from learner.dedup_capacity import DedupMonitor, check_dedup
from learner.training.metrics import DEDUP_SHARE
from stream.joiner.commit_metadata import Progress, encode_metadata
from stream.joiner.join import RestartPoint
from stream.joiner.label_rules import LabelRules
from stream.runtime.errors import LogUnavailable, SettingsError
from stream.runtime.settings import DEDUP_IDS, Settings


def commit(uncommitted_max: int, emitted_max: int = 0) -> tuple[int, str]:
    """A joiner's commit."""
    progress = Progress(9, uncommitted_max=uncommitted_max, emitted_max=emitted_max)
    return 7, encode_metadata(RestartPoint(7, 5, 3), LabelRules(), "", progress)


@pytest.mark.parametrize(
    ("commits", "needed"),
    [
        ({}, 0),
        ({0: (7, "")}, 0),
        ({0: commit(Settings(dedup_ids=20_000).uncommitted_max)}, 0),
        ({0: commit(8_000), 1: commit(8_001)}, 20_003),
        ({0: commit(Settings().uncommitted_max)}, DEDUP_IDS),
    ],
    ids=["no joiner yet", "a tool's commit", "the same", "one of two", "the default"],
)
def test_a_learner_that_remembers_too_few_ids_does_not_start(
    commits: dict[int, tuple[int, str]], needed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names both numbers, and what to set."""
    monkeypatch.setattr("learner.dedup_capacity.group_commits", lambda *_: commits)
    small = Settings(dedup_ids=20_000)
    if not needed:
        check_dedup(small)
        return
    with pytest.raises(SettingsError, match=rf"20000 ids.*THALWEG_DEDUP_IDS={needed} .*THALWEG_DEDUP_IDS=20000"):
        check_dedup(small)
    check_dedup(Settings(dedup_ids=needed))


def test_while_it_learns_an_alarm_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line when more ids are needed than before: by what joiners emitted, or by what they may emit."""
    commits: dict[int, tuple[int, str]] = {}
    monkeypatch.setattr("learner.dedup_capacity.group_commits", lambda *_: commits)
    monitor, asked = DedupMonitor(Settings(dedup_ids=20_000)), list[int]()
    for emitted_max, uncommitted_max, share in (
        (5_000, 8_000, 0.25), (20_000, 8_000, 1.0), (30_000, 8_000, 1.5), (30_000, 8_000, 1.5), (9_000, 80_000, 10.0),
    ):  # fmt: skip
        commits = {0: commit(8_000), 1: commit(uncommitted_max, emitted_max)}
        with capture_logs() as logged:
            monitor.check()
        assert DEDUP_SHARE._value.get() == share
        asked += [line["THALWEG_DEDUP_IDS"] for line in logged]
    assert asked == [30_000, 200_000]


def test_a_broker_that_is_away_raises_no_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    """The learner itself says that it waits."""

    def away(*_: object) -> None:
        raise LogUnavailable("no broker")

    monkeypatch.setattr("learner.dedup_capacity.group_commits", away)
    with capture_logs() as logged:
        DedupMonitor(Settings()).check()
    assert [line["log_level"] for line in logged] == ["info"]
