"""What a learner takes of memory at its spec's bounds. Constants are measured: docs/containers.md."""

from itertools import pairwise
from typing import Final

from learner.deep.vocabulary import HIGH_WATER
from learner.deep.vocabulary import WIDTH as VOCABULARY_WIDTH
from learner.retrieval.item_retrieval import ITEM_WIDTH, MEMORY, MEMORY_COLUMNS
from learner.retrieval.item_rows import columns_for
from learner.training.held_out_pages import PAGES_MAX
from learner.wide.admission import CELLS_MAX
from learner.wide.ftrl import WIDTH as WIDE_WIDTH
from stream.features.statistics import WIDTH as STATISTICS_WIDTH
from stream.runtime.settings import Settings
from stream.snapshots.part_sizes import base_bytes_of, packing_bytes
from stream.spec.bounds import Needs, likeness_rows
from stream.spec.spec import Spec
from stream.tables.table_size import growing_bytes

PROCESS: Final = 300_000_000  # interpreter, numba, kernels, clients, records that were read ahead
DRAWING: Final = 500_000_000  # torch, which draws a new model's first weights
RETRAINING: Final = 300_000_000  # a retrain's process, without its models
WINDOW_EXAMPLE: Final = 2_000  # bytes of an example of a retrain's window
HELD_OUT_PAGE: Final = 8_192  # bytes of a page that waits for its labels
CHECKPOINT_SLICES: Final = 80_000_000  # copies that wait for the disk


def learner_needs(spec: Spec, settings: Settings) -> Needs:
    """Bytes that a learner takes at most: with a full base being published; and during a retrain, or a roll back.

    A retrain in this container has a copy of the live model and the new one; a roll back, or the promotion of a
    candidate, a second model and the checkpoint that it's restored from.
    """
    model = model_bytes(spec, settings)
    whole = sum(model.values())
    always = {
        "process": PROCESS + (DRAWING if "deep" in spec.parts else 0),
        **model,
        "anchors": 2 * _frozen_bytes(spec) if spec.publish.gate.holdout else 0,
        "publishing a base": packing_bytes(spec),
        "checkpoints": CHECKPOINT_SLICES,
    }
    rare = {"a roll back": whole + base_bytes_of(spec) + 16 * spec.wide.max_keys}
    if "deep" in spec.parts and (spec.drift.action == "retrain" or spec.deep.warm_start.every):
        rare["a retrain"] = RETRAINING + 2 * whole + WINDOW_EXAMPLE * spec.deep.warm_start.window
    return Needs(always, rare)


def model_bytes(spec: Spec, settings: Settings) -> dict[str, int]:
    """Bytes of a model's tables while they grow to their bounds, by table."""
    wide, deep, kept = spec.wide, spec.deep, spec.retrieval.kept
    found = {"statistics": growing_bytes(spec.max_statistics, STATISTICS_WIDTH)}
    if rows := likeness_rows(spec):
        found["likenesses"] = growing_bytes(rows, STATISTICS_WIDTH)
    if "wide" in spec.parts:
        admits = max([wide.admit, *(cross.admit or 1 for cross in spec.crosses())]) > 1
        found["wide"] = growing_bytes(wide.max_keys, WIDE_WIDTH, stamped=True) + 3 * CELLS_MAX * admits
    if "deep" in spec.parts:
        ids = int(2 * HIGH_WATER * deep.max_rows)  # with a row, and without
        rows_bytes = deep.max_rows * (8 * deep.embedding_dim + 17)  # vector and sums; key, mark, place among changed
        found["embeddings"] = rows_bytes + growing_bytes(ids, VOCABULARY_WIDTH, tracked=False) + _tower_bytes(spec)
    if spec.retrieval.is_learned:
        width = columns_for(spec.retrieval.list_length, spec.retrieval.vector_dim).width
        memories = growing_bytes(kept.max_users, MEMORY_COLUMNS + MEMORY, tracked=False)
        found["retrieval"] = 4 * width * kept.max_items + growing_bytes(kept.max_items, ITEM_WIDTH) + memories
    found["example ids"] = 2 * settings.partitions * growing_bytes(settings.dedup_ids, 1, tracked=False)
    found["held-out pages"] = HELD_OUT_PAGE * PAGES_MAX if spec.publish.gate.holdout else 0
    return found


def _tower_bytes(spec: Spec) -> int:
    """Weights and their sums of squares, float32; each input is counted as a list."""
    widths = [len(spec.deep_features()) * max(2, spec.deep.embedding_dim), *spec.deep.hidden_units, 1]
    return 8 * sum(a * b for a, b in pairwise(widths))


def _frozen_bytes(spec: Spec) -> int:
    """Of a frozen copy of what predicts: keys with room for an eighth more, values, where buckets begin."""
    wide = spec.wide.max_keys if "wide" in spec.parts else 0
    deep = spec.deep.max_rows if "deep" in spec.parts else 0
    return wide * (8 + 4) * 9 // 8 + deep * (8 + 4 * spec.deep.embedding_dim) * 9 // 8 + 2 * (wide + deep)
