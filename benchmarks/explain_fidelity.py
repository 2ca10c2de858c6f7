"""Whether columns' contributions say what the deep part does.

Fidelity is the rank correlation (Spearman) over the columns of an item between their contributions and the fall of the
deep part's logit when a column is removed; the mean over items. The page itself is built without the column and scored
by the serving kernels: a number is missing, a category has a value that nobody has seen. `together`: sets of up to half
of the columns are removed, and correlated over the sets with the sums of their contributions; ablation isn't exact
here by definition. `swapped`: the column has another page's value instead; the mean over 50.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final, NamedTuple

import numpy as np
import torch
from scipy.stats import spearmanr

from ranker.explain.deep_part import DeepPart
from ranker.explain.wide_part import wide_parts
from ranker.versions.model import Version
from stream.features.page_kernels import ItemColumns, UnknownItems, UserColumns, build, open_page, user_columns
from stream.features.serve_as import as_served
from stream.tables.dtypes import F32, F64, U32, U64

EXPLAINED: Final = 1_000
OTHERS: Final = 50  # pages whose values replace a column's
SETS: Final = 20  # of columns, for each item
STEPS: Final = 32  # of integrated gradients
SEED: Final = 7
UNSEEN: Final = np.uint64(0x5EED_0F_40_B0D7)  # an id that no value has
FIRST: Final = np.zeros(1, np.int64)
Floats = list[F64]


class Fidelity(NamedTuple):
    """Of one method: to one column removed, to several removed together, to another page's value."""

    removed: float
    together: float
    swapped: float


def without(version: Version, words: U64, names: Iterable[str]) -> U64:
    """A page of one item, built without these columns."""
    for name in names:
        words = _without(version, words, name)
    return words


def _without(version: Version, words: U64, name: str) -> U64:
    layout, page = version.plan.layout, words.copy()
    sizes, (_, w32, f32, at) = layout.size_array, open_page(page, layout.size_array)
    if name in layout.user_numbers:
        f32[at.user_numbers + layout.user_numbers.index(name)] = np.nan
    elif name in layout.item_numbers:
        f32[at.item_numbers + layout.item_numbers.index(name)] = np.nan
    elif name.startswith("statistics."):
        f32[at.statistics + layout.statistics.index(name.removeprefix("statistics."))] = np.nan
    else:
        user = user_columns(page, sizes)
        items = page[at.item_ids : at.user_numbers // 2], w32[at.item_offsets :][: at.sizes.item_lists + 1]
        if name in layout.user_lists:
            user = UserColumns(*unknown(user.ids, user.offsets, layout.user_lists.index(name)), user.numbers)
        else:
            items = unknown(*items, layout.item_lists.index(name))
        numbers = f32[at.item_numbers : at.statistics].reshape(1, -1)
        none = UnknownItems(np.zeros(0, np.uint64), 0)
        rebuilt: U64 = build(user, ItemColumns(*items, numbers), FIRST, none, page[0], sizes)
        _, _, floats, to = open_page(rebuilt, sizes)
        floats[to.base_rate] = f32[at.base_rate]
        floats[to.statistics : to.statistics + at.sizes.statistics] = f32[at.statistics :][: at.sizes.statistics]
        return rebuilt
    return page


def unknown(ids: U64, offsets: U32, which: int) -> tuple[U64, U32]:
    """Lists, one of them, if it isn't empty, with the id of an unseen value alone."""
    low, high = int(offsets[which]), int(offsets[which + 1])
    if low == high:
        return ids, offsets
    moved = offsets.copy()
    moved[which + 1 :] -= np.uint32(high - low - 1)
    return np.concatenate([ids[:low], [UNSEEN], ids[high:]]), moved


def deep_logit(version: Version, words: U64) -> float:
    """The deep part's logit of a page's one item, by the serving kernels."""
    (wide,) = wide_parts(version, words, FIRST)
    return float(version.logits(words)[0]) - wide.bias - wide.total


def logits_of(deep: DeepPart, x: F32) -> F64:
    """Logits of inputs [n, I], float64 [n]."""
    for i, (weight, bias) in enumerate(deep.layers):
        x = (np.maximum(x, 0) if i else x) @ weight + bias
    return x[:, 0].astype(np.float64)


def ablated(deep: DeepPart, x: F32, replacement: F32) -> F64:
    """By how much the logits fall when a column has these inputs [I]. float64 [n, C]."""
    falls = []
    for of in deep.inputs_of:
        other = x.copy()
        other[:, of] = replacement[of]
        falls.append(logits_of(deep, x) - logits_of(deep, other))
    return np.stack(falls, axis=1)


def integrated(deep: DeepPart, x: F32, baseline: F32) -> F64:
    """Integrated gradients (Sundararajan et al. 2017) of each column, float64 [n, C]."""
    layers = [(torch.from_numpy(w.copy()), torch.from_numpy(b.copy())) for w, b in deep.layers]
    total = np.zeros(x.shape)
    for step in range(STEPS):
        a = at = torch.tensor(baseline + (x - baseline) * (step + 0.5) / STEPS, dtype=torch.float32, requires_grad=True)
        for i, (weight, bias) in enumerate(layers):
            a = torch.addmm(bias, torch.relu(a) if i else a, weight)
        total += torch.autograd.grad(a.sum(), at)[0].numpy()
    total *= (x - baseline) / STEPS
    return np.stack([total[:, of].sum(axis=1) for of in deep.inputs_of], axis=1)


def correlation(found: Sequence[F64], expected: Sequence[F64]) -> float:
    """The mean over items of Spearman's correlation."""
    each = [spearmanr(one, other).statistic for one, other in zip(found, expected, strict=True)]
    return float(np.mean(each))


def methods_of(deep: DeepPart, version: Version, others: F32) -> dict[str, Callable[[F32], F64]]:
    """Contributions [n, C] of inputs [n, I], by method: what replaces a column, or where integration begins."""
    lists = [name in version.plan.encoder.deep_lists for name in deep.names]
    absent, median = deep.removed.copy(), deep.removed.copy()
    for of, is_list in zip(deep.inputs_of, lists, strict=True):
        absent[of] = 0.0 if is_list else absent[of]
        median[of] = median[of] if is_list else (0.5, 0.0)
    mean = others.mean(axis=0)
    return {
        "ablation, unknown": lambda x: deep.contributions(x)[1],
        "ablation, absent": lambda x: ablated(deep, x, absent),
        "ablation, median": lambda x: ablated(deep, x, median),
        "ablation, mean": lambda x: ablated(deep, x, mean),
        "integrated gradients, unknown": lambda x: integrated(deep, x, deep.removed),
        "integrated gradients, mean": lambda x: integrated(deep, x, mean),
    }


def fidelities(shown: Sequence[U64], version: Version, count: int) -> dict[str, Fidelity]:
    """By method, over `count` pages of one item. Columns that the spec fixes can't be removed: they are left out."""
    assert version.tower is not None, "the spec has a deep part"
    deep, random, layout = DeepPart(version.plan, version.tower), np.random.default_rng(SEED), version.plan.layout
    drawn = random.choice(len(shown), count + OTHERS, replace=False)
    pages = [as_served(layout, shown[i].copy()) for i in drawn.tolist()]  # kernels are compiled for writable arrays
    x = np.concatenate([deep.inputs(words, FIRST) for words in pages])
    pages, x, others = pages[:count], x[:count], x[count:]
    served_as = [name for name, column in layout.columns.items() if column.serve_as is not None]
    free = [c for c, name in enumerate(deep.names) if name not in served_as]
    sets = [random.choice(free, random.integers(2, len(free) // 2 + 1), replace=False).tolist() for _ in range(SETS)]

    def falls(columns: Sequence[Sequence[int]]) -> Floats:
        names = [[deep.names[c] for c in of] for of in columns]
        return [
            deep_logit(version, words) - np.array([deep_logit(version, without(version, words, of)) for of in names])
            for words in pages
        ]

    removed, together = falls([[c] for c in free]), falls(sets)
    swapped = sum(map(partial(ablated, deep, x), others), np.zeros((count, len(deep.names)))) / OTHERS
    found = {}
    for method, of in methods_of(deep, version, others).items():
        each = of(x)
        sums = np.stack([each[:, columns].sum(axis=1) for columns in sets], axis=1)
        found[method] = Fidelity(
            correlation([*each[:, free]], removed), correlation([*sums], together),
            correlation([*each[:, free]], [*swapped[:, free]]),
        )  # fmt: skip
    return found
