"""Everything that is learned, and what happens to it between micro-batches: eviction, quantiles, calls for retrains."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import numpy as np

from learner.deep.deep_model import FIRST_FREEZE, DeepModel
from learner.retrieval.item_retrieval import ItemRetrieval
from learner.training.dedup import RecentIds
from learner.training.drift import STEP_MAX, DriftDetector
from learner.training.encoded_batch import BatchEncoder
from learner.training.held_out import HeldOut
from learner.training.progressive_validation import ProgressiveValidation
from learner.training.ranking_kernels import PAGE_ITEMS
from learner.training.ranking_progress import RankingProgress
from learner.training.recent_pages import RecentPages
from learner.training.shown_items import ShownItems
from learner.training.training_records import RecordEncoder, TrainingRecords
from learner.wide.ftrl import Ftrl
from stream.events.types import BadPart, Removal
from stream.features.encoder import Batch, DeepInput, Encoder, WideKeys, one_page
from stream.features.page_features import Layout
from stream.features.statistics import Statistics, StatisticsProgram
from stream.spec.spec import Spec
from stream.spec.values import duration_ms
from stream.tables.dtypes import F32, I64, U64

GOLDEN_PAGES = 4


# ids, predictions, labels, weights, weights of labels that they take back, page keys; arrays [B]
OnPredicted = Callable[[U64, F32, F32, F32, F32, I64], None]


@dataclass
class ModelState:
    """Everything that is learned. The caller takes what `installs` collects."""

    spec: Spec
    seed: int = 0
    draws: bool = True  # the tower's first weights; else they are zeros, and a checkpoint's take their place
    learns_statistics: bool = True  # else pages bring statistics that somebody else learns
    previous: Sequence[Spec] = ()  # specs that this one evolved from: pages logged under them are still learned
    on_predicted: OnPredicted | None = None  # hears what was predicted of examples just before they were learned
    examples: int = 0  # learned
    duplicates: int = 0
    organic: int = 0  # installs without a page that were learned
    unpredictable: int = 0  # examples whose prediction wasn't a number, in this process: nothing is learned from them
    sampled_out: int = 0  # negatives that only statistics learned
    left_out: int = 0  # crosses of an item that had too many keys
    watermark_ms: int = 0  # greatest event time of a learned page
    learned_ms: int = 0  # ingest time of the newest label
    warm_starts: int = 0  # retrains that this model came from
    roll_backs: int = 0  # returns to an earlier state: what was trained from the one before isn't promoted
    warm_start_at: int = 0  # example index at which a retrain was last called for, or promoted
    retrain_wanted: str = ""  # why a retrain is called for; the caller takes it
    erased: list[int] = field(default_factory=list)  # ids of users, in the order of the log
    removals: list[Removal] = field(default_factory=list)  # what went with them; the caller takes it
    rejected: list[BadPart] = field(default_factory=list)  # of records that were learned from their events
    installs: list[tuple[int, int]] = field(
        default_factory=list
    )  # (id, ingest ms) first learned since the last publish; sampled by the smallest ids, which are hashes

    def __post_init__(self) -> None:
        spec = self.spec
        self.layout = Layout(spec)
        self.encoder = Encoder(spec, self.layout)
        self.statistics = Statistics(StatisticsProgram(spec, self.layout))
        program = self.statistics.program if self.learns_statistics else None
        self.batch_encoder = BatchEncoder(spec, self.layout, self.encoder, program)
        self.record_encoder = RecordEncoder(spec, self.layout, self.batch_encoder, self.previous)
        self.wide = Ftrl.of(spec, self.encoder.alphas)
        if base := spec.label.base_log_odds:
            self.wide.set_initial_weight(self.encoder.bias_key, base)
        lists, numbers = len(self.encoder.deep_lists), len(self.encoder.deep_numbers)
        seed = self.seed if self.draws else None
        self.deep = (
            DeepModel(spec.deep, lists, numbers, seed, self.encoder.deep.unseen) if "deep" in spec.parts else None
        )
        slices, label = self.batch_encoder.slices.names, spec.label
        labels_ms = duration_ms(label.window) + duration_ms(label.lateness)
        settles = label.policy == "fake_negative"  # else a page's predictions know its labels
        rankings = RankingProgress(len(slices), labels_ms, settles=settles, items_max=PAGE_ITEMS if settles else 1)
        self.progress = ProgressiveValidation(slices, rankings)
        self.held_out = HeldOut(spec, lambda: (self.wide, self.deep), self.encoder, self.predict_encoded)
        self.learned_ids = RecentIds()
        self.shown = ShownItems()
        self.retrieval: ItemRetrieval | None = None
        if spec.retrieval.is_learned and self.learns_statistics:
            self.retrieval = ItemRetrieval(spec.retrieval, self.layout)
        self.drift = DriftDetector(spec.drift, slices)
        self.recent_pages = RecentPages(GOLDEN_PAGES)

    @property
    def learned(self) -> int:
        """Labels and organic installs learned, by statistics alone too, and users erased.

        While it stays the same, so does a version.
        """
        return self.examples + self.organic + self.sampled_out + len(self.erased)

    @property
    def trained(self) -> int:
        """Examples learned, and users erased. While it stays the same, so do weights and embeddings."""
        return self.examples + len(self.erased)

    def predict(self, words: U64) -> F32:
        """P(Y=1) of each item of a page, float32 [n]."""
        batch = one_page(words)
        return self.predict_encoded(self.encoder.wide_keys(batch), self.encoder.deep_input(batch))

    def encode_pages(self, pages: Sequence[U64], *, serving: bool = False) -> list[tuple[WideKeys, DeepInput]]:
        """What `predict_encoded` takes, of each page; all at once. `serving`: see `Encoder.deep_input`."""
        counts = [int(words[1]) for words in pages]
        starts, ends = np.cumsum([0, *map(len, pages)]), np.cumsum([0, *counts])
        of_page = np.repeat(np.arange(len(pages)), counts)
        words = np.concatenate(pages) if pages else np.zeros(0, np.uint64)
        batch = Batch(words, starts, of_page, np.arange(ends[-1]) - ends[of_page])
        keys, given = self.encoder.wide_keys(batch), self.encoder.deep_input(batch, serving=serving)
        return [(keys.part(a, b), given.part(a, b)) for a, b in pairwise(ends.tolist())]

    def predict_encoded(self, keys: WideKeys, given: DeepInput) -> F32:
        """P(Y=1) of examples, float32 [B]."""
        weights = self.wide.weights(self.wide.table.rows_of(keys.keys))
        logits = np.add.reduceat(weights, keys.offsets[:-1])  # every example has a key: the bias
        if self.deep:
            logits = logits + self.deep.score(given)
        predictions: F32 = (1.0 / (1.0 + np.exp(-logits))).astype(np.float32)
        return predictions

    def is_quiet(self, records: TrainingRecords, first: int, last: int) -> bool:
        """Whether learning these records changes nothing but what their examples change, in whatever steps."""
        sizes, deep = records.examples.sizes(first, last), self.deep
        newest_ms = records.examples.newest_ms(first, last)
        if deep and (
            self.due(self.examples, self.examples + sizes.predicted)
            or not deep.vocabulary.is_quiet(sizes.ids)
            or not deep.forgetting.is_quiet(newest_ms)
        ):
            return False
        before_last = records.examples.sizes(first, last - 1).predicted  # `held_out` acts at the end of a record
        return (
            sizes.examples <= STEP_MAX
            and not self.drift.is_due(sizes.predicted)
            and not self.held_out.is_due(self.examples, self.examples + before_last)
            and not any(records.organic[first:last])
            and not any(records.erased[first:last])
            and self.wide.is_quiet(sizes.keys, newest_ms)
            and (not self.learns_statistics or self.statistics.is_quiet(sizes.statistics, sizes.examples))
            and (self.retrieval is None or self.retrieval.is_quiet(sizes.examples))
        )

    def due(self, before: int, after: int) -> list[Callable[[], None]]:
        """What is due between two example indices: freezing quantiles, at doublings; eviction; a call for a retrain."""
        assert self.deep is not None
        due: list[Callable[[], None]] = []
        if before.bit_length() != after.bit_length() and after >= FIRST_FREEZE:
            due.append(self.deep.freeze_quantiles)
        for every, action in (
            (self.deep.vocabulary.evict_every(), self.evict),
            (self.spec.deep.warm_start.every, partial(self.call_for_retrain, "periodic")),
        ):
            if every and before // every != after // every:
                due.append(action)
        return due

    def evict(self) -> None:
        """Evict ids of the deep part that have expired, or are over its bound."""
        assert self.deep is not None
        self.deep.vocabulary.evict(self.watermark_ms)

    def call_for_retrain(self, why: str) -> None:
        """Ask the caller for a retrain; nothing else changes."""
        self.retrain_wanted, self.warm_start_at = why, self.examples

    def act_on_drift(self) -> None:
        """What the spec wants when the model has become worse, at a fixed count of examples after the alarm."""
        action = self.drift.take_due()
        if action == "retrain":
            self.call_for_retrain("drift")
        elif action == "forget":
            self.forget(self.spec.drift.keeps)

    def forget(self, share: float) -> None:
        """Keep this share of both parts' sums of squares, so that they learn faster; weights stay."""
        self.wide.forget(share)
        if self.deep:
            self.deep.forget(share)

    @property
    def publishing_frozen(self) -> bool:
        """Whether no version should go out: the model has become worse, and the spec wants it so."""
        return self.spec.drift.action == "freeze" and self.drift.is_alarmed

    def return_to(self, earlier: "ModelState") -> None:
        """Take over what an earlier model of the same spec has learned: weights, embeddings, statistics, what is
        kept for retrieval.

        What belongs to the log stays: counts, ids learned, figures, times, pages.
        """
        self.wide, self.deep, self.statistics = earlier.wide, earlier.deep, earlier.statistics
        self.retrieval = earlier.retrieval
        self.drift.begin_anew()
        self.held_out.begin_again()

    def finite(self) -> bool:
        """Whether every dense parameter is finite, and every embedding that changed since the last publish."""
        return self.deep is None or self.deep.finite()
