"""What held-out pages are for: they judge the model continuously, against an anchor, a frozen copy of what it was.

All of it happens at example indices: when the index passes a multiple of EVERY, at the end of that record, the pages
whose labels are final are scored by both, and the judge may come to a verdict. A model that did no worse over a window
becomes the next anchor; one that did worse is for the learner to roll back.
"""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import numpy as np

from learner.deep.deep_model import DeepModel
from learner.training.frozen_model import FrozenModel, ModelCopy, frozen_arrays, frozen_of
from learner.training.held_out_judge import OUTCOMES, HeldOutJudge, JudgeConfig, Outcome, Verdict
from learner.training.held_out_pages import HeldOutPages, LabelledPages
from learner.training.paired_comparison import Pairs
from learner.wide.ftrl import Ftrl
from stream.features.encoder import Batch, DeepInput, Encoder, WideKeys
from stream.spec.spec import Spec
from stream.spec.values import duration_ms
from stream.tables.dtypes import F32, U64

EVERY: Final = 8_192  # examples; a power of two, as the other actions that are due at an index
SCORED: Final = 2_048  # examples that are scored at once
FIRST_POSITIVES: Final = 1_000  # learned before there is an anchor: until then a model is hardly one
Predict = Callable[[WideKeys, DeepInput], F32]
Parts = Callable[[], tuple[Ftrl, DeepModel | None]]
NEWS_MAX: Final = 16


class Judgement(NamedTuple):
    """A verdict at an example index, about a model since its anchor's."""

    examples: int
    anchor: int
    verdict: Verdict


class HeldOut:
    """Held-out pages, the anchor, and the judge of one model. `parts`: those it has now; `predict`: its own.

    `news` collects judgements, but for "waiting", for the caller to take; the newest NEWS_MAX.
    """

    def __init__(self, spec: Spec, parts: Parts, encoder: Encoder, predict: Predict) -> None:
        label, self.share = spec.label, spec.publish.gate.holdout
        labels_ms = duration_ms(label.window) + duration_ms(label.lateness)
        self.pages = HeldOutPages(labels_ms, settles=label.are_negatives_early)
        self.judge = HeldOutJudge(JudgeConfig())
        self.anchor: FrozenModel | None = None
        self.verdict: Verdict | None = None  # the last over the window
        self.examples = 0  # held out
        self.outcomes: dict[Outcome, int] = dict.fromkeys(OUTCOMES, 0)
        self.begun = 0  # anchors, the one that is being copied among them
        self.worse = ""  # why the model is to be rolled back; `begin_again` empties it
        self.news: deque[Judgement] = deque(maxlen=NEWS_MAX)
        self._parts, self._encoder, self._predict = parts, encoder, predict
        self._copy: ModelCopy | None = None  # of the next anchor

    def is_due(self, before: int, after: int) -> bool:
        """Whether `act` is due between these example indices."""
        return self.share > 0.0 and before // EVERY != after // EVERY

    def act(self, examples: int, positives: float, usual_rate: float, watermark_ms: int) -> None:
        """Score what is final, judge, and go on copying the next anchor. `examples`, `positives`: learned so far, and
        the share of positives among all labels, whichever of them were sampled."""
        pages = self.pages.take(watermark_ms)
        if pages and self.anchor:
            self.judge.record(self._scored(pages, self.anchor))
            self._judge(examples)
        if self.anchor is None and self._copy is None and positives >= FIRST_POSITIVES:
            self.judge.restart(usual_rate)
            self._begin_copy(examples)
        if self._copy and (anchor := self._copy.step()):
            self.anchor, self._copy = anchor, None
            self.judge.restart()

    def begin_again(self) -> None:
        """The model has become another, as by a rollback: the anchor and waiting pages stay, the window is void."""
        self._copy, self.worse = None, ""
        self.judge.restart()

    def erase(self, user: np.uint64, wide: U64) -> int:
        """Drop the user's pages that wait, and the user's keys and embedding from the anchor. Returns how many pages.

        `wide`: keys of the wide part. Figures of judged pages stay, under hashes, until their window is over.
        """
        ids = np.array([user])
        if self.anchor:
            self.anchor = self.anchor.without(wide, ids)
        if self._copy:
            self._copy.erase(wide, ids)
        return self.pages.erase(user)

    def carry(self, before: "HeldOut", *, is_same: bool) -> None:
        """Go on where those of another model were, with its anchor: so small steps down add up. `is_same`: whether
        features mean the same to both; else neither its anchor nor the pages that wait are of use. Call it when the
        model has its parts.
        """
        if is_same:
            self.restore(before.arrays())
            self.begin_again()
        else:
            self.examples, self.begun, self.outcomes = before.examples, before.begun, dict(before.outcomes)

    def _begin_copy(self, examples: int) -> None:
        self._copy = ModelCopy(*self._parts(), examples)
        self.begun += 1

    def _judge(self, examples: int) -> None:
        verdict = self.judge.due_verdict()
        if verdict is None:
            return
        if verdict.of_window or verdict.outcome != "waiting":
            self.verdict = verdict
        if verdict.outcome == "waiting":
            return
        if verdict.outcome == "worse":
            self.worse, self._copy = verdict.reason, None
            self.judge.restart()
        elif self._copy is None:
            self._begin_copy(examples)
        else:
            return
        assert self.anchor is not None
        self.news.append(Judgement(examples, self.anchor.examples, verdict))
        self.outcomes[verdict.outcome] += 1

    def _scored(self, pages: LabelledPages, anchor: FrozenModel) -> Pairs:
        predictions = np.empty((2, len(pages.labels)), np.float32)
        words, starts, page, position = pages.batch
        for first in range(0, len(pages.labels), SCORED):
            part = slice(first, first + SCORED)
            batch = Batch(words, starts, page[part], position[part])
            inputs = self._encoder.wide_keys(batch), self._encoder.deep_input(batch)
            predictions[0, part], predictions[1, part] = self._predict(*inputs), anchor.predict_encoded(*inputs)
        return Pairs(pages.pages, pages.users, pages.labels, pages.weights, *predictions)

    def arrays(self) -> dict[str, Any]:
        """The state, for a checkpoint. What isn't changed any more isn't copied."""
        found = {f"held_out_page_{name}": array for name, array in self.pages.arrays().items()}
        found |= {f"held_out_judge_{name}": array for name, array in self.judge.arrays().items()}
        found["held_out_worse"] = np.frombuffer(self.worse.encode(), np.uint8)
        found["held_out_counts"] = np.array([self.examples, self.begun, *self.outcomes.values()], np.int64)
        if self.anchor:
            found |= {f"held_out_anchor_{name}": array for name, array in frozen_arrays(self.anchor).items()}
        if self._copy:
            found |= {f"held_out_copy_{name}": array for name, array in self._copy.arrays().items()}
        return found

    def restore(self, arrays: Mapping[str, Any]) -> None:
        """Resume from what `arrays` gave; checkpoints of earlier builds have none. Raises KeyError, ValueError."""
        if "held_out_counts" not in arrays:
            return
        pages, judge, anchor, copy = (
            {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
            for prefix in ("held_out_page_", "held_out_judge_", "held_out_anchor_", "held_out_copy_")
        )
        self.pages.restore(pages)
        self.judge.restore(judge)
        self.examples, self.begun, *counts = arrays["held_out_counts"].tolist()
        self.outcomes = dict(zip(OUTCOMES, counts, strict=True))
        self.worse = arrays["held_out_worse"].tobytes().decode() if "held_out_worse" in arrays else ""
        self.anchor = frozen_of(self._parts()[1], anchor) if anchor else None
        self._copy = None
        if copy:
            self._copy = ModelCopy(*self._parts(), 0)
            self._copy.restore(copy)
