"""One encoder for learner and ranker, against a slow one that follows the definitions."""

from collections.abc import Sequence
from itertools import product

import msgspec
import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from stream.events.types import Item
from stream.features.cross_products import KEYS_MAX, column_of
from stream.features.encoder import Batch, Encoder, one_page
from stream.features.page_features import Layout
from stream.runtime.errors import SpecError
from stream.spec.columns import Cross
from stream.spec.spec import Spec
from stream.spec.spec_file import decode_spec, encode_spec
from tests.support.feature_pages import LAYOUT, SPEC, Shown, page, pages, parsed

ENCODER = Encoder(SPEC, LAYOUT)
CROSSES = [
    ["user.id"],
    ["item.tags"],
    ["context.device"],
    ["user.history", "item.id"],
    ["user.likes", "item.tags", "item.year_band"],
    ["item.tags", "user.age_band"],
]
LISTS = ["user.likes", "item.tags", "item.id", "user.history"]
NUMBERS = ["item.price", "context.position", "user.age", "statistics.seen", "context.hour", "item.year",
           "statistics.alike"]  # fmt: skip


def mix_by_hand(h: int, value: int) -> int:
    """table.py's hash, in Python's integers."""
    x = (h ^ value) * 0x9E3779B97F4A7C15 % 2**64
    x ^= x >> 32
    x = x * 0xD6E8FEB86659FD93 % 2**64
    return x ^ (x >> 29)


def keys_by_hand(raw: bytes, position: int, crosses: Sequence[Sequence[str]] = CROSSES) -> list[int]:
    """The wide part's keys of one item: every combination of each cross, its index in the low byte; then the bias."""
    found, keys = parsed(raw), []
    for index, cross in enumerate([*crosses, []]):
        salt = xxhash.xxh3_64_intdigest(f"wide {' x '.join(cross) or 'bias'}".encode())
        for ids in product(*(found.column(name, position) for name in cross)):
            key = salt
            for value in ids:
                key = mix_by_hand(key, value)
            keys.append(key & ~255 | (index + 1))
    return keys


def batch_of(shown: Sequence[Shown], order: Sequence[tuple[int, int]]) -> tuple[list[bytes], Batch]:
    """Pages laid end to end, with statistics that tell which they are, and (page, position) pairs over them."""
    words = [one.words() for one in shown]
    for n, (one, w) in enumerate(zip(shown, words, strict=True)):
        count = len(one.items) * len(SPEC.statistics)
        w.view(np.float32)[-count - 1 : -1] = 1_000 * n + np.arange(count)  # the last one pads
    starts = np.cumsum([0, *map(len, words)])[:-1].astype(np.int64)
    pairs = np.array(order, np.int64).reshape(-1, 2)
    batch = Batch(np.concatenate(words), starts, pairs[:, 0].copy(), pairs[:, 1].copy())
    return [w.tobytes() for w in words], batch


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[bytes], Batch]:
    """Several pages, and examples of them in any order, some twice."""
    shown = draw(st.lists(pages(items_max=3), min_size=1, max_size=3))
    places = [(p, i) for p, one in enumerate(shown) for i in range(len(one.items))]
    return batch_of(shown, draw(st.lists(st.sampled_from(places), min_size=1, max_size=6)))


@given(batches())
def test_wide_keys_are_every_combination_of_every_cross(made: tuple[list[bytes], Batch]) -> None:
    """In the order of crosses and lists, each with 1 + its cross's index in the low byte, the bias last."""
    raws, batch = made
    got = ENCODER.wide_keys(batch)
    wanted = [keys_by_hand(raws[p], i) for p, i in zip(batch.page, batch.position, strict=True)]
    assert got.offsets.tolist() == np.cumsum([0, *map(len, wanted)]).tolist()
    assert got.keys.tolist() == [key for keys in wanted for key in keys]
    assert all(int(got.keys[end - 1]) & 255 == len(CROSSES) + 1 for end in got.offsets[1:])


@given(batches(), st.booleans())
def test_deep_input_is_the_page_s_lists_and_numbers(made: tuple[list[bytes], Batch], serving: bool) -> None:
    """In the spec's order, missing ones NaN; a position counts from 1, and is constant when serving."""
    raws, batch = made
    got = ENCODER.deep_input(batch, serving=serving)
    assert (ENCODER.deep_lists, ENCODER.deep_numbers) == (LISTS, NUMBERS)
    lists: list[list[int]] = []
    rows = []
    for p, i in zip(batch.page.tolist(), batch.position.tolist(), strict=True):
        found = parsed(raws[p])
        lists += [found.column(name, i) for name in LISTS]
        values = found.numbers | found.item_numbers[i]
        values |= {f"statistics.{k}": v for k, v in found.statistics[i].items()}
        rows.append([(2 if serving else i + 1) if n == "context.position" else values[n] for n in NUMBERS])
    assert got.offsets.tolist() == np.cumsum([0, *map(len, lists)]).tolist()
    assert got.ids.tolist() == [value for ids in lists for value in ids]
    np.testing.assert_array_equal(got.numbers, np.array(rows, np.float32))


@given(batches(), st.data())
def test_a_part_is_what_encoding_only_those_gives(made: tuple[list[bytes], Batch], data: st.DataObject) -> None:
    """Any cut of a batch, an empty one too."""
    _, batch = made
    first = data.draw(st.integers(0, len(batch.page)))
    last = data.draw(st.integers(first, len(batch.page)))
    few = Batch(batch.words, batch.starts, batch.page[first:last], batch.position[first:last])
    keys, only = ENCODER.wide_keys(batch).part(first, last), ENCODER.wide_keys(few)
    assert (keys.keys.tolist(), keys.offsets.tolist()) == (only.keys.tolist(), only.offsets.tolist())
    part, alone = ENCODER.deep_input(batch).part(first, last), ENCODER.deep_input(few)
    assert (part.ids.tolist(), part.offsets.tolist()) == (alone.ids.tolist(), alone.offsets.tolist())
    np.testing.assert_array_equal(part.numbers, alone.numbers)


def test_all_items_of_a_page_are_a_batch() -> None:
    """one_page: each position once, in order."""
    words = page("u", {"likes": ["x"]}, ["a"], {}, [Item("a", {"tags": ["t"]}), Item("b")])
    batch = one_page(words)
    assert (batch.page.tolist(), batch.position.tolist()) == ([0, 0], [0, 1])
    got = ENCODER.wide_keys(batch)
    assert got.part(1, 2).keys.tolist() == keys_by_hand(words.tobytes(), 1)


@pytest.mark.parametrize(("likes", "tags", "there"), [(64, 64, True), (241, 17, False), (1000, 1000, False)])
def test_a_product_over_the_limit_is_left_out(likes: int, tags: int, there: bool) -> None:
    """KEYS_MAX keys of one cross of one item still count; one more, and that cross alone is left out."""
    crosses: list[list[str] | Cross] = [["user.likes", "item.tags"], ["item.id"]]
    spec = msgspec.structs.replace(SPEC, wide=msgspec.structs.replace(SPEC.wide, features=[], crosses=crosses))
    item = Item("a", {"tags": [f"t{i}" for i in range(tags)]})
    words = page("u", {"likes": [str(i) for i in range(likes)]}, [], {}, [item])
    keys = Encoder(spec, Layout(spec)).wide_keys(one_page(words)).keys.tolist()
    wanted = keys_by_hand(words.tobytes(), 0, [["user.likes", "item.tags"], ["item.id"]])
    assert (likes * tags <= KEYS_MAX) == there
    assert keys == (wanted if there else wanted[-2:])
    left_out = Encoder(spec, Layout(spec)).left_out(one_page(words))
    assert left_out is not None
    assert left_out.tolist() == [0 if there else 1]


def test_crosses_without_lists_are_never_left_out() -> None:
    """So nobody counts."""
    crosses: list[list[str] | Cross] = [["user.id", "item.id"]]
    spec = msgspec.structs.replace(SPEC, wide=msgspec.structs.replace(SPEC.wide, features=[], crosses=crosses))
    assert Encoder(spec, Layout(spec)).left_out(one_page(page("u", {}, [], {}, [Item("a")]))) is None


def only(part: str) -> Encoder:
    """An encoder of a spec of one part."""
    spec = Spec(**{**msgspec.structs.asdict(SPEC), "parts": [part]})
    return Encoder(spec, Layout(spec))


def test_a_part_that_is_left_out_reads_nothing() -> None:
    """Deep alone has the bias for its one wide key; wide alone has neither lists nor numbers."""
    words = page("u", {"likes": ["x"]}, ["a"], {}, [Item("a"), Item("b")])
    keys = only("deep").wide_keys(one_page(words))
    assert keys.offsets.tolist() == [0, 1, 2]
    assert keys.keys[0] == keys.keys[1] == keys_by_hand(words.tobytes(), 0, [])[0]
    given_ = only("wide").deep_input(one_page(words))
    assert (len(given_.ids), given_.offsets.tolist(), given_.numbers.shape) == (0, [0], (2, 0))
    assert given_.part(1, 2).numbers.shape == (1, 0)


def test_alphas_are_the_spec_s_or_a_cross_s_own() -> None:
    """One per cross, in order, and the bias's, which can have a rate of its own."""
    crosses: list[list[str] | Cross] = [["user.id", "item.id"], Cross(of=["item.tags"], alpha=0.5)]
    wide = msgspec.structs.replace(SPEC.wide, alpha=0.25, features=["item.id"], crosses=crosses)
    encoder = Encoder(msgspec.structs.replace(SPEC, wide=wide), LAYOUT)
    assert encoder.alphas.tolist() == [0.25, 0.25, 0.5, 0.25]
    wide = msgspec.structs.replace(wide, bias_alpha=2.0)
    spec = msgspec.structs.replace(SPEC, wide=wide)
    assert Encoder(spec, Layout(spec)).alphas.tolist() == [0.25, 0.25, 0.5, 2.0]
    assert encoder.cross_names == ["item.id", "user.id x item.id", "item.tags", "bias"]


def test_what_no_page_has_is_refused() -> None:
    """A name that is no category of the layout, and more crosses than a key's low byte can tell apart."""
    with pytest.raises(SpecError, match=r"user\.age"):
        column_of(LAYOUT, "user.age")
    wide = msgspec.structs.replace(SPEC.wide, features=["user.id"] * 251, crosses=[])
    with pytest.raises(SpecError, match="251"):
        decode_spec(encode_spec(msgspec.structs.replace(SPEC, wide=wide)))
