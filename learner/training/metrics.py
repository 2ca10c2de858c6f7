"""The learner's metrics."""

from collections.abc import Mapping

from prometheus_client import Counter, Gauge, Histogram

from learner.training.figures import ALL, WINDOW
from learner.training.held_out import HeldOut
from learner.training.model import Model
from learner.training.ranking_kernels import KINDS, RECENT
from stream.runtime.metrics import Total
from stream.snapshots.verdict import Verdict
from stream.tables.eviction import EVICTED, EXPIRED

LABELS = ["slice", "window"]  # all or a slice of the spec; the lifetime or the last WINDOW
FIGURES = {
    "examples": Gauge(
        "thalweg_learner_predicted_examples", "examples that the figures are of: first labels only", LABELS
    ),
    "auc": Gauge("thalweg_learner_auc", "AUC, each predicted just before it was learned; by slice and window", LABELS),
    "log_loss": Gauge(
        "thalweg_learner_log_loss",
        "mean log loss, each predicted just before it was learned; by slice and window",
        LABELS,
    ),
    "normalised_entropy": Gauge(
        "thalweg_learner_normalised_entropy",
        "log loss / that of always predicting the base rate; by slice and window",
        LABELS,
    ),
    "base_rate": Gauge("thalweg_learner_base_rate", "mean label; by slice and window", LABELS),
    "calibration": Gauge("thalweg_learner_calibration", "mean prediction / mean label; by slice and window", LABELS),
}
RANKING_LABELS = ["slice", "group", "window"]  # of pages or of sessions; the lifetime or the last RECENT of them
RANKING = {
    "auc": Gauge(
        "thalweg_learner_ranking_auc", "AUC within pages, or within sessions, weighted by items", RANKING_LABELS
    ),
    "ndcg": Gauge("thalweg_learner_ranking_ndcg", "NDCG@10 of pages, or of sessions", RANKING_LABELS),
    "hit_rate": Gauge(
        "thalweg_learner_ranking_hit_rate",
        "share of pages, or of sessions, of more than 10 items that have a positive among the first 10",
        RANKING_LABELS,
    ),
    "groups": Gauge("thalweg_learner_ranked", "pages, or sessions, that have both labels", RANKING_LABELS),
}
UNCOUNTED = Total("thalweg_learner_unranked_pages", "pages that no figure of ranking counts, by reason", ("reason",))
for gauge in FIGURES.values():
    gauge.labels(ALL, "lifetime")  # present from the first scrape on
EXAMPLES = Total("thalweg_learner_examples", "examples learned, since the log's beginning")
DUPLICATES = Total("thalweg_learner_duplicates", "examples and organic installs dropped as duplicates")
SAMPLED_OUT = Total(
    "thalweg_learner_sampled_out",
    "negatives that only statistics learned, by `sample_negatives`, since the log's beginning",
)
LEFT_OUT = Total(
    "thalweg_learner_crosses_left_out", "cross-products of an item left out, since they would have over 4,096 keys"
)
DEDUP_SHARE = Gauge(
    "thalweg_learner_dedup_share",
    "the most examples that a joiner emitted between two commits / ids of a partition that the learner remembers",
)
ORGANIC = Total("thalweg_learner_organic_installs", "installs without a page learned, since the log's beginning")
UNPREDICTABLE = Total(
    "thalweg_learner_unpredictable_examples",
    "examples whose prediction wasn't a number, in this process: nothing is learned from them",
)
DEAD_LETTERS = Total("thalweg_learner_dead_letters", "events that the learner rejected, in this process")
OFFSET = Gauge("thalweg_learner_offset", "next offset in examples")
# By partition, though there is one: what has no value yet isn't exported, where 0 would say that none waits.
LAG_RECORDS = Gauge(
    "thalweg_learner_lag_records", "records of examples that aren't learned yet, by partition", ["partition"]
)
LAG_EXAMPLES = Gauge(
    "thalweg_learner_lag_examples",
    "examples that aren't learned yet: the records, at the recent mean of examples; by partition",
    ["partition"],
)
LAG_SECONDS = Gauge(
    "thalweg_learner_lag_seconds",
    "age of the oldest record that waits to be learned, by append time and partition",
    ["partition"],
)
VERSION = Gauge("thalweg_learner_published_version", "newest version in the store")
REJECTED = Total("thalweg_learner_rejected_versions", "versions rejected, by the gate or when packed, in this process")
REFUSED = Total("thalweg_learner_refused_versions", "versions rejected, by cause, in this process", ("cause",))
ROLL_BACKS = Total(
    "thalweg_learner_roll_backs",
    "returns to an earlier checkpoint, after rejected versions or by held-out pages, in this process",
)
PASSES = Gauge("thalweg_learner_gate_passed", "1 when the last version judged passed the gate, else 0")
MEASURES = Gauge("thalweg_learner_gate_measure", "what the gate measured of the last version judged, by name", ["name"])
KEYS = Gauge("thalweg_learner_keys", "keys in tables, by part; of the deep part ids with an embedding row", ["part"])
EVICTED_KEYS = Total(
    "thalweg_learner_evicted_keys", "keys that expired or were over the bound, by part and reason", ("part", "reason")
)
PENDING_IDS = Gauge("thalweg_learner_pending_ids", "ids without an embedding row whose pages are counted")
EVICTED_IDS = Total(
    "thalweg_learner_evicted_ids",
    "ids that expired or were over the bound, in this process, by their row",
    ("had",),
)
HELD_OUT = Total("thalweg_learner_held_out_examples", "examples held out from learning, to judge the model by")
HELD_OUT_DROPPED = Total(
    "thalweg_learner_held_out_unjudged_examples",
    "examples held out that judge nothing, since too many pages waited for labels",
)
HELD_OUT_WINDOW = Gauge(
    "thalweg_learner_held_out_window", "what the judge's window has, since the anchor: examples, positives", ["of"]
)
HELD_OUT_FIGURES = Gauge(
    "thalweg_learner_held_out",
    "normalised entropy, calibration and AUC within pages over held-out examples, of the live model and the anchor, "
    "at the last verdict",
    ["figure", "model"],
)
HELD_OUT_DIFFERENCE = Gauge(
    "thalweg_learner_held_out_difference",
    "live - anchor over held-out examples at the last verdict: normalised entropy, AUC within pages; and their "
    "standard errors",
    ["figure", "of"],
)
HELD_OUT_IMPLAUSIBLE = Gauge(
    "thalweg_learner_held_out_implausible",
    "examples of the window left out: of users with too many positives",
)
HELD_OUT_VERDICTS = Total("thalweg_learner_held_out_verdicts", "verdicts by held-out examples", ("outcome",))
ANCHOR = Gauge("thalweg_learner_held_out_anchor", "example index of the anchor; 0: there is none yet")
WARM_STARTS = Total("thalweg_learner_warm_starts", "retrained models that were promoted, since the log's beginning")
RETRAINS = Counter(
    "thalweg_learner_retrains", "retrains that ended, in this process, by what became of the model", ["outcome"]
)
for outcome in ("promoted", "dropped"):
    RETRAINS.labels(outcome)
DRIFT_ALARMS = Total("thalweg_learner_drift_alarms", "drift alarms, since the log's beginning, by slice", ("slice",))
DRIFT = Gauge("thalweg_learner_drift", "drift statistic / the bound of an alarm, by slice", ["slice"])
FROZEN = Gauge("thalweg_learner_publishing_frozen", "1 while drift keeps versions from being published, else 0")
CHECKPOINT = Histogram("thalweg_learner_checkpoint_seconds", "from a checkpoint's beginning until its file is there")
CHECKPOINT_PAUSE = Histogram(
    "thalweg_learner_checkpoint_pause_seconds", "time that learning pauses for, at each copy for a checkpoint"
)
CHECKPOINT_BYTES = Gauge("thalweg_learner_checkpoint_bytes", "size of the newest checkpoint's file")
BACKUP_TIME = Gauge(
    "thalweg_learner_backup_timestamp_seconds", "when this process last wrote a backup, Unix time; 0: never"
)
BACKUP_BYTES = Counter("thalweg_learner_backup_bytes", "bytes that backups have written, without what was there")
BACKUP_FAILURES = Counter("thalweg_learner_backup_failures", "backups that couldn't be written")
REDIS_USED = Gauge("thalweg_learner_redis_used_bytes", "memory that Redis uses")
REDIS_LIMIT = Gauge("thalweg_learner_redis_limit_bytes", "Redis's maxmemory, or its machine's memory without one")


def set_verdict(verdict: Verdict, refused: Mapping[str, int]) -> None:
    """Set the metrics of the gate's last verdict, and how many versions it refused by cause."""
    PASSES.set(verdict.passed)
    for name, value in verdict.numbers.items():
        MEASURES.labels(name).set(value)
    for cause, count in refused.items():
        REFUSED.set(count, cause)


def set_model(model: Model) -> None:
    """Set the metrics of the model's state."""
    progress = model.progress
    for name in progress.names:
        for window, figures in (("lifetime", progress.lifetime(name)), (f"{WINDOW}", progress.window(name))):
            for key, value in figures.named().items():
                FIGURES[key].labels(name, window).set(value)
    for row, name in enumerate(progress.names):
        for kind in KINDS:
            of = progress.rankings.lifetime(kind, row), progress.rankings.window(kind, row)
            for window, ranking in zip(("lifetime", f"{RECENT}"), of, strict=True):
                for key, value in (ranking.named() | {"groups": ranking.groups}).items():
                    RANKING[key].labels(name, kind, window).set(value)
    for reason, count in progress.rankings.uncounted().items():
        UNCOUNTED.set(count, reason)
    EXAMPLES.set(model.examples)
    DUPLICATES.set(model.duplicates)
    ORGANIC.set(model.organic)
    UNPREDICTABLE.set(model.unpredictable)
    LEFT_OUT.set(model.left_out)
    SAMPLED_OUT.set(model.sampled_out)
    WARM_STARTS.set(model.warm_starts)
    FROZEN.set(model.publishing_frozen)
    for row, name in enumerate(model.drift.names):
        DRIFT.labels(name).set(model.drift.statistic(row))
        DRIFT_ALARMS.set(model.drift.alarm_count(row), name)
    set_held_out(model.held_out)
    for part, table, sweep in (
        ("wide", model.wide.table, model.wide.evictor),
        ("statistics", model.statistics.table, model.statistics.evictor),
        ("likenesses", model.statistics.likenesses, model.statistics.likeness_evictor),
    ):
        KEYS.labels(part).set(len(table))
        EVICTED_KEYS.set(int(sweep.tally[EXPIRED]), part, "expired")
        EVICTED_KEYS.set(int(sweep.tally[EVICTED]), part, "bound")
    if model.deep:
        vocabulary = model.deep.vocabulary
        KEYS.labels("deep").set(vocabulary.assigned)
        PENDING_IDS.set(vocabulary.pending)
        EVICTED_IDS.set(vocabulary.evicted, "row")
        EVICTED_IDS.set(vocabulary.evicted_pending, "none")


def set_held_out(held_out: HeldOut) -> None:
    """Set the metrics of held-out examples and the last verdict by them."""
    HELD_OUT.set(held_out.examples)
    HELD_OUT_DROPPED.set(held_out.pages.dropped)
    ANCHOR.set(held_out.anchor.examples if held_out.anchor else 0)
    for outcome, count in held_out.outcomes.items():
        HELD_OUT_VERDICTS.set(count, outcome)
    if held_out.verdict is None:
        return
    found = held_out.verdict.comparison
    HELD_OUT_WINDOW.labels("examples").set(found.examples)
    HELD_OUT_WINDOW.labels("positives").set(found.positives)
    HELD_OUT_IMPLAUSIBLE.set(held_out.verdict.implausible)
    for figure, live, anchor in (
        ("normalised_entropy", found.live_entropy, found.anchor_entropy),
        ("calibration", found.live_calibration.factor, found.anchor_calibration.factor),
        ("page_auc", found.live_auc, found.anchor_auc),
    ):
        HELD_OUT_FIGURES.labels(figure, "live").set(live)
        HELD_OUT_FIGURES.labels(figure, "anchor").set(anchor)
    for figure, estimate in (("normalised_entropy", found.entropy), ("page_auc", found.auc)):
        HELD_OUT_DIFFERENCE.labels(figure, "value").set(estimate.value)
        HELD_OUT_DIFFERENCE.labels(figure, "error").set(estimate.error)
