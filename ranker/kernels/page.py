"""Kernels that score a page: the user's part is computed once, then items in batches, on any number of threads."""

from typing import Any, NamedTuple

import numpy as np

from ranker.kernels.crossing import add_wide, fill_statistics, prefixes_of
from ranker.kernels.net import Embeddings, InputLayer, ItemNet, activations_of, inputs_of, item_key, tower
from ranker.kernels.pair_cache import NO_SLOT, slot_of, slots_of
from ranker.kernels.plan import PlanArrays
from ranker.kernels.request import Tables, UserContext
from ranker.kernels.scratch import Scratch
from ranker.kernels.similarity import fill_memories, read_memories
from ranker.kernels.table_reads import read_rows
from stream.features.cross_products import ITEM, USER, list_at
from stream.features.page_kernels import Page, open_page
from stream.features.statistic_reads import StatisticRows, base_rate
from stream.tables.dtypes import F32, I64, U32, U64
from stream.tables.hash_kernels import find
from stream.tables.jit import kernel


class UserLayer(NamedTuple):
    """What the user's part of the first layer is computed from."""

    inputs: InputLayer
    bias: F32  # f32[width]
    embeddings: Embeddings


class Activations(NamedTuple):
    """Items' parts of the first layer."""

    heads: U64  # u64[capacity, 2]: `item_key` → row
    parts: F32  # f32[rows, width]
    uses: U32  # u32[rows]: how often each was used


class Model(NamedTuple):
    """A version, as items are scored by it."""

    plan: PlanArrays
    tables: Tables
    deep: bool  # False: the wide part alone
    net: ItemNet


class Run(NamedTuple):
    """A page that is being ranked by a version."""

    words: U64
    user: UserContext
    user_part: F32  # f32[width], of the first layer
    logits: F32  # f32[n], written batch by batch
    generation: int = 0  # of the slots in `user`


def without_slots(user: UserContext) -> UserContext:
    """A user none of whose items has a slot."""
    return user._replace(slots=np.full_like(user.slots, NO_SLOT), memory_slots=np.full_like(user.memory_slots, NO_SLOT))


@kernel
def begin(
    words: U64, now: float, plan: PlanArrays, tables: Tables, layer: UserLayer, base_key: np.uint64,
    flags: tuple[bool, bool], scratch: Scratch,
) -> Any:  # fmt: skip
    """The page's `UserContext`; its part of the first layer; items without a slot. `flags`: are the last two wanted?

    One kernel for all: a call from Python costs as much as hundreds of keys, and other threads wait for it.
    """
    deep, admits = flags
    page = open_page(words, plan.sizes)
    user = _user_context(page, now, plan, tables, base_key, scratch)
    part = user_part(words, plan.sizes, layer) if deep else np.empty(0, np.float32)
    return user, part, _without_slot(page, user, plan, tables.slots) if admits else np.empty(0, np.uint64)


@kernel
def _user_context(
    page: Page, now: float, plan: PlanArrays, tables: Tables, base_key: np.uint64, scratch: Scratch
) -> UserContext:
    """Unless `now` is NaN, writes base rate and the user's statistics to the page."""
    f32, at, rows = page.f32, page.at, StatisticRows(scratch.n, scratch.s, scratch.t)
    wide, statistics = prefixes_of(page, plan.wide), prefixes_of(page, plan.statistics)
    history, end = _history_of(page, plan)
    slots = slots_of(tables.slots, page.words[history:end])
    base = np.nan
    items, residuals, ends = np.empty(0, np.uint64), np.empty(0, np.float64), np.zeros(1, np.int64)
    if now == now:
        items, residuals, ends = read_memories(page, plan, tables.statistics, scratch)
        scratch.keys[0] = base_key
        read_rows(scratch.keys, scratch.hashes, 1, tables.statistics, now, 0.0, rows)
        base = base_rate(rows.n[0], rows.s[0])
        f32[at.base_rate] = base
    memory_slots = slots_of(tables.slots, items)
    user = UserContext(wide.keys, wide.ends, statistics.keys, statistics.ends, slots, items, residuals, ends,
                       memory_slots, now, base, 0.0)  # fmt: skip
    if now == now:
        fill_statistics(page, plan, tables, user, 0, 1, True, scratch)
        for k in range(at.sizes.statistics):
            if _is_of_user(plan, k):
                for item in range(1, at.items):
                    f32[at.statistics + item * at.sizes.statistics + k] = f32[at.statistics + k]
    scratch.totals[0] = 0.0
    add_wide(page, plan, tables, user, 0, 1, True, scratch)
    return UserContext(wide.keys, wide.ends, statistics.keys, statistics.ends, slots, items, residuals, ends,
                       memory_slots, now, base, scratch.totals[0])  # fmt: skip


@kernel
def _is_of_user(plan: PlanArrays, k: int) -> bool:
    """Whether statistic k is of the user alone."""
    crosses = plan.statistics
    return crosses.user_columns[k] == crosses.offsets[k + 1] - crosses.offsets[k]  # type: ignore[no-any-return]


@kernel
def _history_of(page: Page, plan: PlanArrays) -> Any:
    """First and past-last word of the items of the user's history."""
    if plan.history < 0:
        return np.int64(0), np.int64(0)
    return list_at(page.w32, page.at, USER, plan.history, 0)


@kernel
def _without_slot(page: Page, user: UserContext, plan: PlanArrays, heads: U64) -> U64:
    """Those of the page's items, and of its user's history and memories, that have no slot."""
    words, at, remembered = page.words, page.at, user.memory_items
    history, end = _history_of(page, plan)
    found, count = np.empty(at.items + end - history + remembered.shape[0], np.uint64), 0
    for m in range(remembered.shape[0]):
        if user.memory_slots[m] == NO_SLOT:
            found[count] = remembered[m]
            count += 1
    for m in range(end - history):
        if user.slots[m] == NO_SLOT:
            found[count] = words[history + m]
            count += 1
    for position in range(at.items):
        item, end = list_at(page.w32, at, ITEM, plan.item_id, position)
        if end > item and slot_of(heads, words[item]) == NO_SLOT:
            found[count] = words[item]
            count += 1
    return found[:count]


@kernel
def same_for_all(words: U64, plan: PlanArrays) -> bool:
    """Whether a logged page's statistics of the user alone are the same, bit for bit, for all its items."""
    page = open_page(words, plan.sizes)
    w32, at = page.w32, page.at
    for k in range(at.sizes.statistics):
        if _is_of_user(plan, k):
            for item in range(1, at.items):
                if w32[at.statistics + item * at.sizes.statistics + k] != w32[at.statistics + k]:
                    return False
    return True


@kernel
def user_part(words: U64, sizes: I64, layer: UserLayer) -> F32:
    """The user's part of the first layer, its bias included. float32 [width]."""
    inputs = inputs_of(words, np.zeros(1, np.int64), sizes, layer.inputs.group)
    return activations_of(inputs, layer.inputs, layer.embeddings, layer.bias)[0]  # type: ignore[no-any-return]


@kernel
def fill_items(
    words: U64, user: UserContext, first: int, last: int, plan: PlanArrays, tables: Tables, scratch: Scratch
) -> None:
    """Write the statistics of items first:last, but those of the user alone, unless they stay as logged."""
    if user.now == user.now:
        page = open_page(words, plan.sizes)
        fill_statistics(page, plan, tables, user, first, last, False, scratch)
        fill_memories(page, plan, tables, user, first, last, scratch)


@kernel
def score_wide(run: Run, first: int, last: int, model: Model, scratch: Scratch) -> None:
    """Statistics, then the wide part's logits, of items first:last (at most BUFFER)."""
    user, plan, tables, totals, logits = run.user, model.plan, model.tables, scratch.totals, run.logits
    fill_items(run.words, user, first, last, plan, tables, scratch)
    totals[: last - first] = user.total
    add_wide(open_page(run.words, plan.sizes), plan, tables, user, first, last, False, scratch)
    for i in range(last - first):
        logits[first + i] = np.float32(totals[i])


@kernel
def score_deep(run: Run, first: int, last: int, model: Model, items: Activations, scratch: Scratch) -> bool:
    """Add the deep part's logits of items first:last. False, and nothing is added, when an item's part is missing."""
    net, logits, page = model.net, run.logits, open_page(run.words, model.plan.sizes)
    words, w32, at, lists, numbers = page.words, page.w32, page.at, net.lists, net.numbers
    heads, parts, uses = items
    rows, totals = scratch.ends, scratch.totals
    for i in range(last - first):
        head = find(heads, item_key(words, w32, at, first + i, lists, numbers))
        rows[i] = np.int64(heads[head, 1]) if head >= 0 else np.int64(0)
        if rows[i] == 0:  # also while another thread puts it
            return False
        uses[rows[i]] += np.uint32(1)
    tower(page, first, last, net, run.user_part, parts, scratch)
    for i in range(last - first):
        logits[first + i] += np.float32(totals[i])
    return True


@kernel
def score_items(run: Run, first: int, last: int, model: Model, items: Activations, scratch: Scratch) -> bool:
    """Logits of items first:last, of both parts if the model is deep; False, and the wide part's alone, when an item's
    part is missing.
    """
    score_wide(run, first, last, model, scratch)
    return not model.deep or score_deep(run, first, last, model, items, scratch)
