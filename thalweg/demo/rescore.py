"""Checks that no reply mixes two versions: replies are recomputed from the snapshot of the version that they name.

Both halves: the statistics in a reply's features are that version's, and so are the scores of these features.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from ranker.versions.model import Version, score_features
from ranker.versions.version_loader import VersionLoader
from stream.events.types import RankReply
from stream.features.page_features import words_of
from stream.runtime.errors import BadEvent, BadSnapshot
from stream.snapshots.store import SnapshotStore

DIFFERENCE_MAX: Final = 1e-5


@dataclass(frozen=True)
class RescoreCounts:
    """How many replies were recomputed, how many of them their version doesn't explain, and how many couldn't be."""

    checked: int
    mixed: int
    unavailable: int  # their version was collected, or they have none


def rescore(store: SnapshotStore, model: str, replies: Sequence[RankReply]) -> RescoreCounts:
    """Recompute these replies, version by version. Raises StoreUnavailable."""
    by_version: dict[int, list[RankReply]] = defaultdict(list)
    for reply in replies:
        if reply.version and reply.items:
            by_version[reply.version].append(reply)
    loader, previous = VersionLoader(store, model), None
    checked = mixed = 0
    for number in sorted(by_version):
        try:
            version = previous = loader.load(number, previous)
        except BadSnapshot:
            continue
        checked += len(by_version[number])
        mixed += sum(not explains(version, reply) for reply in by_version[number])
    return RescoreCounts(checked, mixed, len(replies) - checked)


def explains(version: Version, reply: RankReply) -> bool:
    """Whether this version gives the reply's page its statistics, to the bit, and its items their scores."""
    try:
        words = words_of(reply.features, version.plan.layout, len(reply.items))
        scores = score_features(version, reply.features, len(reply.items))
    except BadEvent:
        return False
    filled = words.copy()
    version.fill(filled, reply.time_ms)
    if not np.array_equal(filled, words):  # as whole numbers, so a missing value (NaN) equals itself
        return False
    return bool(np.abs(scores - np.asarray(reply.scores)).max() <= DIFFERENCE_MAX)
