"""What is counted of one arm of an experiment, by user."""

from typing import NamedTuple

from stream.tables.dtypes import F64, I64


class ArmCounts(NamedTuple):
    """Counts of one arm; each array has one entry a user, [users].

    `installs` are net of retractions. They may also be expected installs, where the truth is known.
    """

    arm: str
    pages: I64
    impressions: I64  # items on them
    installs: F64

    @property
    def users(self) -> int:
        """How many users have seen a page of this arm."""
        return int((self.impressions > 0).sum())

    @property
    def installs_per_1000(self) -> float:
        """Installs per 1,000 impressions; nan without impressions."""
        shown = int(self.impressions.sum())
        return 1000 * float(self.installs.sum()) / shown if shown else float("nan")
