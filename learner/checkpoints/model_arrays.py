"""The learner's state as arrays: tables that are copied run by run, and small arrays that are copied at once.

Tables are saved as rows, whatever their layout: no weight depends on layout.
"""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np

from learner.deep.deep_model import DeepModel
from learner.deep.vocabulary import WIDTH as VOCABULARY_WIDTH
from learner.training.model import Model
from learner.training.shown_items import ShownItems
from learner.wide.ftrl import WIDTH as WIDE_WIDTH
from learner.wide.ftrl import Ftrl
from stream.features.statistics import WIDTH as STATISTICS_WIDTH
from stream.features.statistics import Statistics
from stream.snapshots.item_names import pack_names, unpack_names
from stream.tables.dtypes import F32
from stream.tables.hash_table import HashTable
from stream.tables.table_runs import NO_VALUES, copy_all, values_of

Arrays = dict[str, "np.ndarray[Any, np.dtype[Any]]"]
THREADS: Final = 2  # that fill tables
VALUES: Final = ".values"  # suffix of the name of a table's values


class Part(NamedTuple):
    """A table of the model. `values`: column 1 of the table names a row of it; 0: none. `keys`: expected at least."""

    table: HashTable
    values: F32 = NO_VALUES
    keys: int = 0


def parts_of(model: Model) -> dict[str, Part]:
    """The tables, by the names of their rows among the arrays."""
    parts = {
        "wide_rows": Part(model.wide.table),
        "statistics": Part(model.statistics.table),
        "likenesses": Part(model.statistics.likenesses),
    }
    if model.deep:
        parts["vocabulary"] = Part(model.deep.vocabulary.table, model.deep.vocabulary.embeddings)
    if model.retrieval:
        parts["retrieval_items"] = Part(model.retrieval.items, model.retrieval.values)
        parts["retrieval_memories"] = Part(model.retrieval.memories)
    ids = model.learned_ids
    return parts | {name: Part(table, keys=ids.ids_max) for name, table in ids.tables().items()}


def rows_of_parts(model: Model) -> Arrays:
    """All rows of all tables, and their values."""
    arrays: Arrays = {}
    for name, part in parts_of(model).items():
        arrays[name] = copy_all(part.table)
        if len(part.values):
            arrays[name + VALUES] = values_of(arrays[name], part.values)
    return arrays


def small_arrays(model: Model) -> Arrays:
    """All state but the rows of tables, copied: megabytes at most.

    An anchor isn't copied, since nothing changes it; nor written again, while a chain has it.
    """
    shown = model.shown
    arrays: Arrays = {
        "wide_clock": model.wide.forgetting.state(),
        "wide_steps": model.wide.steps.copy(),
        "wide_sweep": model.wide.evictor.state(),
        "admission_young": model.wide.admission.young.copy(),
        "admission_old": model.wide.admission.old.copy(),
        "admission_added": model.wide.admission.added.copy(),
        "admission_pages": model.wide.admission.pages.copy(),
        "statistics_sweep": model.statistics.evictor.state(),
        "likenesses_sweep": model.statistics.likeness_evictor.state(),
        **model.progress.arrays(),
        **model.held_out.arrays(),
        "id_sources": model.learned_ids.sources(),
        **{f"shown_young_{name}": array for name, array in pack_names(shown.young).items()},
        **{f"shown_old_{name}": array for name, array in pack_names(shown.old).items()},
        "shown_since_ms": np.array([shown.since_ms], np.int64),
        **model.drift.arrays(),
        "pages": np.frombuffer(b"".join(model.recent_pages), np.uint64),
        "page_bytes": np.array([len(page) for page in model.recent_pages], np.int64),
    }
    arrays |= model.retrieval.arrays() if model.retrieval else {}
    return arrays | (_deep_arrays(model.deep) if model.deep else {})


def _deep_arrays(deep: DeepModel) -> Arrays:
    return {
        "unseen": deep.vocabulary.embeddings[0].copy(),
        "free": deep.vocabulary.free_rows(),
        "dense": deep.tower.flat,
        "dense_squares": deep.tower.squares,
        "deep_clock": deep.forgetting.state(),
        "boundaries": deep.boundaries.copy(),
        "sample": deep.sample.copy(),
        "sampled": deep.sampled.copy(),
    }


def restore_arrays(model: Model, arrays: Arrays, slices: list[str]) -> None:
    """Give a new model the state of these arrays. Raises KeyError, ValueError, IndexError, BadSnapshot.

    Tables are filled side by side: most of it is the system's work, which gives them memory.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        restored = [
            pool.submit(_restore_statistics, model.statistics, arrays),
            pool.submit(_restore_wide, model.wide, arrays),
        ]
        if model.deep:
            restored.append(pool.submit(_restore_deep, model.deep, arrays))
    for one in restored:
        one.result()
    model.progress.restore(arrays, slices)
    model.learned_ids.restore(arrays)
    model.shown = _shown(arrays)
    ends = np.cumsum([0, *arrays["page_bytes"]])
    raw = arrays["pages"].tobytes()
    model.recent_pages.extend(raw[a:b] for a, b in pairwise(ends.tolist()))
    model.drift.restore(arrays, slices)
    model.held_out.restore(arrays)
    if model.retrieval and "retrieval_items" in arrays:  # else the spec has it since the checkpoint
        items, memories = arrays["retrieval_items"], arrays["retrieval_memories"]
        model.retrieval.restore(arrays, items, arrays["retrieval_items" + VALUES], memories)


def _restore_statistics(statistics: Statistics, arrays: Arrays) -> None:
    """Checkpoints of earlier builds have the rows of likenesses among the others': nothing tells them apart."""
    statistics.evictor.restore(arrays["statistics_sweep"])
    statistics.table = HashTable.of_rows(STATISTICS_WIDTH, arrays["statistics"])
    if statistics.program.memory_rows or "likenesses" in arrays:
        statistics.likeness_evictor.restore(arrays["likenesses_sweep"])
        statistics.likenesses = HashTable.of_rows(STATISTICS_WIDTH, arrays["likenesses"])


def _shown(arrays: Arrays) -> ShownItems:
    """Checkpoints of earlier builds have no shown items."""
    if "shown_since_ms" not in arrays:
        return ShownItems()
    young, old = ({name: arrays[f"shown_{age}_{name}"] for name in ("names", "ends")} for age in ("young", "old"))
    return ShownItems(unpack_names(young), unpack_names(old), int(arrays["shown_since_ms"][0]))


def _restore_wide(wide: Ftrl, arrays: Arrays) -> None:
    """Checkpoints of earlier builds have z in place of u, and no clock."""
    if "wide_rows" in arrays:
        wide.table = HashTable.of_rows(WIDE_WIDTH, arrays["wide_rows"])
        wide.restore_clock(arrays["wide_clock"])
        wide.steps[:] = arrays["wide_steps"]
    else:
        wide.table = HashTable.of_rows(WIDE_WIDTH, wide.restore_sums(arrays["wide"]))
    wide.evictor.restore(arrays["wide_sweep"])
    young, old, added = (arrays[f"admission_{name}"] for name in ("young", "old", "added"))
    wide.admission.restore(young, old, added, arrays.get("admission_pages"))


def _restore_deep(deep: DeepModel, arrays: Arrays) -> None:
    rows, free = arrays["vocabulary"], arrays["free"]
    if rows.ndim != 2 or rows.shape[1] != VOCABULARY_WIDTH:
        raise ValueError(f"vocabulary of shape {rows.shape}, wanted width {VOCABULARY_WIDTH}")
    if "embeddings" in arrays:  # of an earlier build: all rows, by their numbers
        deep.vocabulary.restore(rows, values_of(rows, arrays["embeddings"]), arrays["embeddings"][0], free)
    else:
        deep.vocabulary.restore(rows, arrays["vocabulary" + VALUES], arrays["unseen"], free)
    deep.tower.restore(arrays["dense"], arrays["dense_squares"])
    if "deep_clock" in arrays:  # checkpoints of earlier builds have none
        deep.restore_clock(arrays["deep_clock"])
    deep.boundaries = arrays["boundaries"]
    deep.sample[:], deep.sampled[:] = arrays["sample"], arrays["sampled"]
