"""A learner must remember as many example ids as joiners may emit again."""

import pytest

from learner.dedup_capacity import check_dedup
from stream.joiner.commit_metadata import Progress, encode_metadata
from stream.joiner.join import RestartPoint
from stream.joiner.label_rules import LabelRules
from stream.runtime.errors import SettingsError
from stream.runtime.settings import DEDUP_IDS, Settings


def commit(uncommitted_max: int) -> tuple[int, str]:
    """A joiner's commit."""
    return 7, encode_metadata(RestartPoint(7, 5, 3), LabelRules(), "", Progress(9, uncommitted_max=uncommitted_max))


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
