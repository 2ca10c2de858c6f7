"""The learner's meters, as `/metrics` shows them."""

from prometheus_client import Gauge, Histogram

from learner.training.model import Model
from learner.training.progressive_validation import ALL, WINDOW
from stream.tables.eviction import EVICTED, EXPIRED

OF = ["slice", "window"]  # all or a slice of the spec; the lifetime or the last so many
FIGURES = {
    "examples": Gauge("thalweg_predicted_examples", "examples that the figures are of: first labels only", OF),
    "auc": Gauge("thalweg_auc_arrival", "AUC, each predicted just before it was learned", OF),
    "log_loss": Gauge("thalweg_log_loss", "mean log loss, likewise", OF),
    "normalised_entropy": Gauge("thalweg_normalised_entropy", "log loss / that of always predicting the base rate", OF),
    "base_rate": Gauge("thalweg_base_rate", "mean label", OF),
    "calibration": Gauge("thalweg_calibration", "mean prediction / mean label", OF),
}
for gauge in FIGURES.values():
    gauge.labels(ALL, "lifetime")  # who reads the metrics finds them from the first moment
EXAMPLES_LEARNED = Gauge("thalweg_examples_learned", "examples learned, since the log's beginning")
DUPLICATES = Gauge("thalweg_duplicates_dropped", "examples and organic installs that had been learned before")
ORGANIC_LEARNED = Gauge("thalweg_organic_learned", "installs without a page learned, since the log's beginning")
DEAD_LETTERS = Gauge("thalweg_dead_letters", "what the learner could not take, in this process")
OFFSET = Gauge("thalweg_learner_offset", "next offset in examples")
VERSION = Gauge("thalweg_published_version", "newest version in the store")
REFUSED = Gauge("thalweg_refused_versions", "versions that the gate refused, in this process")
KEYS = Gauge("thalweg_keys", "keys held; of the deep part ids that have an embedding row", ["part"])
KEYS_GONE = Gauge(
    "thalweg_keys_gone", "keys that expired or that the bound took, since the log's beginning", ["part", "why"]
)
IDS_WAITING = Gauge("thalweg_ids_waiting", "ids without an embedding row whose sightings are counted")
IDS_FORGOTTEN = Gauge("thalweg_ids_forgotten", "ids that expired or that the bound took, in this process", ["had"])
WARM_STARTS = Gauge("thalweg_warm_starts", "warm starts, since the log's beginning")
CHECKPOINT_S = Histogram("thalweg_checkpoint_seconds", "time to write a checkpoint")


def show_model(model: Model) -> None:
    """What the model is now."""
    progress = model.progress
    for name in progress.names:
        for window, figures in (("lifetime", progress.lifetime(name)), (f"{WINDOW}", progress.window(name))):
            for key, value in figures.named().items():
                FIGURES[key].labels(name, window).set(value)
    EXAMPLES_LEARNED.set(model.examples)
    DUPLICATES.set(model.duplicates)
    ORGANIC_LEARNED.set(model.organic)
    WARM_STARTS.set(model.warm_starts)
    for part, table, sweep in (
        ("wide", model.wide.table, model.wide.sweep),
        ("statistics", model.statistics.table, model.statistics.sweep),
    ):
        KEYS.labels(part).set(len(table))
        KEYS_GONE.labels(part, "expired").set(int(sweep.tally[EXPIRED]))
        KEYS_GONE.labels(part, "bound").set(int(sweep.tally[EVICTED]))
    if model.deep:
        vocabulary = model.deep.vocabulary
        KEYS.labels("deep").set(vocabulary.used)
        IDS_WAITING.set(vocabulary.waiting)
        IDS_FORGOTTEN.labels("row").set(vocabulary.forgotten)
        IDS_FORGOTTEN.labels("none").set(vocabulary.forgotten_waiting)
