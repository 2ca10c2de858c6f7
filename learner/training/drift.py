"""Drift of the log loss: ADWIN over records' mean log losses (Bifet and Gavaldà 2007), as River has it."""

from typing import Any, Final

from river.drift import ADWIN

DELTA: Final = 0.002
CLOCK: Final = 32  # ADWIN looks for a change at every 32nd loss only
LOSSES_MAX: Final = 100_000  # records; then ADWIN is reset, so that checkpoints stay small


class DriftDetector:
    """Says when the mean log loss has risen. `losses`: ADWIN's input since the last reset; it is restored from them."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin from scratch, as after a warm start."""
        self.losses: list[float] = []
        self._adwin: Any = ADWIN(delta=DELTA, clock=CLOCK)  # type: ignore[no-untyped-call]  # River's has no types
        self._ticks = 0  # losses since ADWIN began, or last found a change

    @property
    def losses_before_check(self) -> int:
        """How many losses can be added before the next that may be found to have risen."""
        if len(self.losses) == LOSSES_MAX:
            return 0
        return min(CLOCK - 1 - self._ticks % CLOCK, LOSSES_MAX - 1 - len(self.losses))

    def add(self, loss: float) -> bool:
        """Add a record's mean log loss. Returns whether the mean is found to have risen with it."""
        if len(self.losses) == LOSSES_MAX:
            self.reset()
        before = self._adwin.estimation
        self._update(loss)
        return bool(self._adwin.drift_detected) and self._adwin.estimation > before

    def restore(self, losses: list[float]) -> None:
        """Replay a checkpoint's losses: ADWIN has no state that can be saved."""
        self.reset()
        for loss in losses:
            self._update(loss)

    def _update(self, loss: float) -> None:
        self._ticks = 1 if self._adwin.drift_detected else self._ticks + 1
        self.losses.append(loss)
        self._adwin.update(loss)
