"""Drift of the log loss: ADWIN over records' mean log losses (Bifet and Gavaldà 2007), as River has it."""

from typing import Any, Final

from river.drift import ADWIN

DELTA: Final = 0.002
LOSSES_MAX: Final = 100_000  # records; then ADWIN is reset, so that checkpoints stay small


class DriftDetector:
    """Says when the mean log loss has risen. `losses`: ADWIN's input since the last reset; it is restored from them."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin from scratch, as after a warm start."""
        self.losses: list[float] = []
        self._adwin: Any = ADWIN(delta=DELTA)  # type: ignore[no-untyped-call]  # River's class has no types

    def add(self, loss: float) -> bool:
        """Add a record's mean log loss. Returns whether the mean is found to have risen with it."""
        if len(self.losses) == LOSSES_MAX:
            self.reset()
        before = self._adwin.estimation
        self.losses.append(loss)
        self._adwin.update(loss)
        return bool(self._adwin.drift_detected) and self._adwin.estimation > before

    def restore(self, losses: list[float]) -> None:
        """Replay a checkpoint's losses: ADWIN has no state that can be saved."""
        self.reset()
        for loss in losses:
            self.losses.append(loss)
            self._adwin.update(loss)
