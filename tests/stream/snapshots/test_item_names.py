"""Names of items as a version carries them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.runtime.errors import BadSnapshot
from stream.snapshots.item_names import ITEMS_MAX, pack_names, unpack_names
from stream.snapshots.payload import Payload, pack, unpack

names_of = st.sets(st.text(min_size=1, max_size=8).filter(lambda text: text.isprintable()), max_size=9)


@given(names_of)
def test_names_come_back(names: set[str]) -> None:
    """Through a content's bytes, each once; the same names in any order are the same bytes."""
    raw = pack(pack_names(names))
    assert sorted(unpack_names(unpack(raw))) == sorted(names)
    assert pack(pack_names(sorted(names, reverse=True))) == raw


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"names": np.zeros(1, np.uint8)},
        {"names": np.zeros(1, np.int64), "ends": np.ones(1, np.int64)},
        {"names": np.zeros((1, 1), np.uint8), "ends": np.ones(1, np.int64)},
        {"names": np.zeros(1, np.uint8), "ends": np.ones(1, np.float64)},
        {"names": np.full(2, 97, np.uint8), "ends": np.array([1], np.int64)},
        {"names": np.full(2, 97, np.uint8), "ends": np.array([1, 1, 2], np.int64)},
        {"names": np.full(2, 97, np.uint8), "ends": np.array([2, 1, 2], np.int64)},
        {"names": np.full(2, 97, np.uint8), "ends": np.array([-1, 2], np.int64)},
        {"names": np.full(1, 0xFF, np.uint8), "ends": np.array([1], np.int64)},
        {"names": np.full(ITEMS_MAX + 1, 97, np.uint8), "ends": np.arange(1, ITEMS_MAX + 2)},
    ],
    ids=["nothing", "no ends", "numbers", "a table", "floats", "short", "empty name", "falling", "below 0", "no text",
         "too many"],
)  # fmt: skip
def test_what_holds_no_names_is_refused(content: Payload) -> None:
    """Other arrays, ends that don't rise or don't end with the bytes, no UTF-8, too many."""
    with pytest.raises(BadSnapshot):
        unpack_names(content)
