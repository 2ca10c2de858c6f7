"""What the publish gate found of a version: it is in its metrics, in the learner's metrics and in the evidence."""

from typing import Annotated, Final

import msgspec

from stream.snapshots.payload import NAME_BYTES_MAX

NUMBERS_MAX: Final = 64

# Causes, by which refused versions are counted and their evidence is kept.
NOT_FINITE: Final = "not_finite"  # a parameter or a score is no number
COLUMN: Final = "column_missing"  # recent pages lack a column that earlier ones had
SHIFT: Final = "shift"  # scores are higher or lower than the live version's
SPREAD: Final = "spread"  # scores differ more or less among themselves than the live version's
RANKING: Final = "ranking"  # items of a page come in another order
NORMS: Final = "norms"  # layers or embeddings have grown or shrunk
CALIBRATION: Final = "calibration"  # predictions don't fit the recent label rate
LOG_LOSS: Final = "log_loss"  # the recent label rate alone predicts better
PACKING: Final = "packing"  # its numbers can't be written
CAUSES: Final = (NOT_FINITE, COLUMN, SHIFT, SPREAD, RANKING, NORMS, CALIBRATION, LOG_LOSS, PACKING)


class Verdict(msgspec.Struct, frozen=True, omit_defaults=True):
    """`cause`: one of CAUSES, empty when the version may be served; `reason` says it in words; `numbers`: what was
    compared, all finite."""

    cause: Annotated[str, msgspec.Meta(max_length=NAME_BYTES_MAX)] = ""
    reason: Annotated[str, msgspec.Meta(max_length=2_000)] = ""
    numbers: Annotated[
        dict[Annotated[str, msgspec.Meta(max_length=NAME_BYTES_MAX)], float], msgspec.Meta(max_length=NUMBERS_MAX)
    ] = {}

    @property
    def passed(self) -> bool:
        """Whether the version may be served."""
        return not self.cause
