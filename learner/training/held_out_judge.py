"""Judges the model that learns against a frozen one, the *anchor*, on examples that neither of them has learned.

`worse`: the interval excludes equality by more than a margin, in normalised entropy, in calibration, or in the AUC
within pages; over the window, its last quarter and its last sixteenth, so that a model that goes bad at once isn't
outweighed by what it did before. `better`, `equal`: the window has as many positives as needed, and the model did no
worse than the anchor: so it becomes the next anchor. A model that is a little worse, within the margin, never does: so
many small steps down add up, and are found.

A window counts positives, and examples too: it's as long as so many positives usually take, however many come at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from learner.training.paired_comparison import NO_PAIRS, Comparison, Pairs, compare, finite, plausible_examples

Outcome = Literal["waiting", "equal", "better", "worse"]
OUTCOMES: Final[tuple[Outcome, ...]] = ("waiting", "equal", "better", "worse")
WIDENED: Final = 2.0  # by how many errors / √positives an interval is wider
SUFFIXES: Final = (1, 4, 16)  # parts of the window's positives


@dataclass(frozen=True)
class JudgeConfig:
    """How much evidence is needed, and what counts as worse. `errors`: half an interval, in standard errors."""

    positives: int = 100  # of a window after which a model may become the anchor
    positives_max: int = 400  # of a window; then the oldest examples go
    examples_max: int = 1 << 18
    positives_min: int = 20  # of a verdict, but for a gross fault
    groups_min: int = 30
    errors: float = 3.5
    entropy_margin: float = 0.01
    gross_margin: float = 0.5
    calibration_margin: float = 0.10  # of the logarithm, about the share
    auc_margin: float = 0.01
    recent: int = 512  # examples that are looked at for a gross fault


@dataclass(frozen=True)
class Verdict:
    """What the window says. `reason`: in numbers; empty while waiting."""

    outcome: Outcome
    reason: str
    comparison: Comparison
    implausible: int  # examples of users that were left out
    of_window: bool = True  # else of the recent examples alone


class HeldOutJudge:
    """Collects pairs since the anchor was taken. `usual_rate`: share of positives to expect; None: of the window."""

    def __init__(self, config: JudgeConfig | None = None, usual_rate: float | None = None) -> None:
        self.config, self.usual_rate = config or JudgeConfig(), usual_rate
        self._chunks: list[Pairs] = []
        # Examples and positives since the last verdict over the window; examples since the last over the recent ones;
        # predictions that weren't numbers, since the window began.
        self._since = np.zeros(4, np.int64)

    def record(self, pairs: Pairs) -> None:
        """Add examples of whole pages, in order."""
        count = len(pairs.labels)
        self._chunks.append(finite(pairs))
        not_numbers = np.count_nonzero(~np.isfinite(pairs.live))
        self._since += np.array([count, np.count_nonzero(pairs.labels > 0.5), count, not_numbers])

    @property
    def window(self) -> Pairs:
        """The examples that are judged."""
        if len(self._chunks) != 1:
            self._chunks = [Pairs._make(map(np.concatenate, zip(NO_PAIRS, *self._chunks, strict=True)))]
        return self._chunks[0]

    def restart(self, usual_rate: float | None = None) -> None:
        """Begin an empty window, for another anchor or another model."""
        self._chunks, self.usual_rate = [], usual_rate or self.usual_rate
        self._since[:] = 0

    def due_verdict(self) -> Verdict | None:
        """A verdict, when enough is new for one to be worth its time: over the whole window when an eighth of it is
        new, else over the recent examples when a quarter of them is; None: not now."""
        examples, positives, recent, _ = self._since.tolist()
        limit = self.config.recent
        if recent < limit // 4:
            return None
        first = self._chunks[0].labels if self._chunks else NO_PAIRS.labels  # all but what is new, roughly
        if positives >= self.config.positives_max // 32 or examples >= max(limit, len(first) // 8):
            return self.verdict()
        return self.recent_verdict()

    def recent_verdict(self) -> Verdict:
        """As `verdict`, of the last examples alone: `worse` only for a gross fault."""
        self._since[2] = 0
        pairs, implausible, rate = self._plausible(self._recent())
        found = compare(pairs, rate)
        reason = self._not_numbers() or _gross_fault(found, self.config)
        return Verdict(
            "worse" if reason else "waiting", reason + _left_out(implausible, reason), found, implausible, False
        )

    def _not_numbers(self) -> str:
        return f"{self._since[3]} predictions of held-out examples aren't numbers" if self._since[3] else ""

    def _recent(self) -> Pairs:
        count, chunks = 0, list[Pairs]()
        for chunk in reversed(self._chunks):
            chunks.insert(0, chunk.last(self.config.recent - count))
            count += len(chunks[0].labels)
            if count >= self.config.recent:
                break
        return Pairs._make(map(np.concatenate, zip(NO_PAIRS, *chunks, strict=True)))

    def verdict(self) -> Verdict:
        """What the whole window says. Any outcome but `waiting` asks for a `restart`."""
        self._since[:3] = 0
        pairs, implausible, rate = self._plausible(self.window)
        whole = compare(pairs, rate)
        if reason := self._not_numbers():
            return Verdict("worse", reason, whole, implausible)
        places = np.flatnonzero(pairs.labels > 0.5)
        for parts in SUFFIXES:
            count = len(places) // parts
            if parts > 1 and count < self.config.positives_min:
                break
            found = whole if parts == 1 else compare(pairs.last(len(pairs.labels) - int(places[-count])), rate)
            if reason := _fault(found, self.config) or _gross_fault(found, self.config):
                return Verdict("worse", reason + _left_out(implausible, reason), found, implausible)
        entropy, needed = whole.entropy, self.config.positives
        if whole.positives < needed or whole.examples < needed / rate / 2 or entropy.value > 0.0:
            return Verdict("waiting", "", whole, implausible)
        is_better = entropy.value + self.config.errors / 2 * entropy.error < 0.0
        reason = f"normalised entropy {whole.live_entropy:.4f}, of the anchor {whole.anchor_entropy:.4f}"
        reason += _evidence(whole) + _left_out(implausible, reason)
        return Verdict("better" if is_better else "equal", reason, whole, implausible)

    def _plausible(self, window: Pairs) -> tuple[Pairs, int, float]:
        """Examples of plausible users, as many as a window may have; how many others there are; the usual rate.

        Where most of a long window is implausible, that is the world as it is now: its rate becomes the usual one.
        """
        rate, config = self.usual_rate or _rate_of(window), self.config
        which = plausible_examples(window.users, window.labels, rate)
        implausible = len(which) - int(np.count_nonzero(which))
        if implausible > max(len(which) / 2, config.positives / rate):
            self.usual_rate = rate = _rate_of(window)
            which, implausible = np.ones(len(which), np.bool_), 0
        pairs = window.part(which) if implausible else window
        places, first = np.flatnonzero(pairs.labels > 0.5), 0
        if len(places) > config.positives_max:
            first = int(places[-config.positives_max - 1]) + 1
            pairs = pairs.last(len(pairs.labels) - first)
        if self._chunks and window is self._chunks[0] and (first or len(which) > config.examples_max):
            dropped = int(np.flatnonzero(which)[first])
            self._chunks = [window.last(min(len(which) - dropped, config.examples_max))]
        return pairs, implausible, rate

    def arrays(self) -> dict[str, Any]:
        """The window and what belongs to it."""
        state = np.array([self.usual_rate or 0.0, *self._since])
        return {**self.window._asdict(), "state": state}

    def restore(self, arrays: Mapping[str, Any]) -> None:
        """Resume from what `arrays` gave."""
        self._chunks = [Pairs(*(arrays[name] for name in Pairs._fields))]
        rate, *since = arrays["state"].tolist()
        self.usual_rate, self._since[:] = rate or None, since


def _rate_of(pairs: Pairs) -> float:
    rate = float(pairs.labels.mean()) if len(pairs.labels) else 0.5
    return min(max(rate, 1e-6), 1 - 1e-6)


def _fault(found: Comparison, config: JudgeConfig) -> str:
    """Why the live model is worse; empty: it isn't, as far as this shows."""
    if found.positives < config.positives_min or found.groups < config.groups_min:
        return ""
    errors = config.errors * (1 + WIDENED / np.sqrt(found.positives))
    entropy = found.entropy
    if entropy.value - errors * entropy.error > config.entropy_margin:
        return (
            f"normalised entropy {found.live_entropy:.4f}, of the anchor {found.anchor_entropy:.4f}: "
            f"{entropy.value:.4f} ± {errors * entropy.error:.4f} worse{_evidence(found)}"
        )
    live, anchor = found.live_calibration, found.anchor_calibration
    excess = abs(live.value) - max(abs(anchor.value), config.calibration_margin)
    if excess > errors * live.error:
        return (
            f"calibration {np.exp(live.value):.3f}, of the anchor {np.exp(anchor.value):.3f}, "
            f"within {100 * errors * live.error:.0f} %{_evidence(found)}"
        )
    auc = found.auc
    if found.auc_pages >= config.positives_min and auc.value + errors * auc.error < -config.auc_margin:
        return (
            f"AUC within pages {found.live_auc:.4f}, of the anchor {found.anchor_auc:.4f}: "
            f"{auc.value:.4f} ± {errors * auc.error:.4f}, {found.auc_pages} pages{_evidence(found)}"
        )
    return ""


def _gross_fault(found: Comparison, config: JudgeConfig) -> str:
    """As `_fault`, of a difference so large that it shows without positives."""
    if found.groups < config.groups_min or not np.isfinite(found.entropy.error):
        return ""
    low = found.entropy.value - config.errors * found.entropy.error
    if not low > config.gross_margin:
        return ""
    return (
        f"normalised entropy {found.live_entropy:.3f}, of the anchor {found.anchor_entropy:.3f}: at least {low:.3f} "
        f"worse{_evidence(found)}"
    )


def _evidence(found: Comparison) -> str:
    return f", over {found.examples} held-out examples, {found.positives} positive"


def _left_out(implausible: int, reason: str) -> str:
    return f"; {implausible} of implausible users left out" if implausible and reason else ""
