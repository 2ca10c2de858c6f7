"""Pages as they're ranked: what `serve_as` holds is another's, all else stays, and what was logged comes back."""

from typing import Any

import msgspec
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stream.events.types import Value
from stream.features.page_features import Catalogue, Layout, build_page, select, words_of
from stream.features.page_kernels import open_page
from stream.features.serve_as import as_logged, as_served
from stream.spec.columns import Column
from stream.spec.spec import Spec
from stream.tables.dtypes import U64
from tests.support.feature_pages import LAYOUT, SPEC, Shown, pages

HELD = st.fixed_dictionaries(
    {}, optional={"device": st.sampled_from(["", "phone", "x"]), "hour": st.sampled_from([0.0, 7.5, 23.0])}
)


def spec_with(held: dict[str, Any]) -> Spec:
    """The spec that uses everything, with bands of the hour, and these columns held still."""
    context = {
        **SPEC.context,
        "device": Column(type="category", serve_as=held.get("device")),
        "hour": Column(type="number", bands=[6, 18], serve_as=held.get("hour")),
    }
    statistics = {name: one for name, one in SPEC.statistics.items() if "context.device" not in one.by}
    return msgspec.structs.replace(SPEC, context=context, statistics=statistics)


def page_of(layout: Layout, shown: Shown, context: dict[str, Value]) -> U64:
    """The page in this context, each of its statistics another number."""
    catalogue = Catalogue(layout)
    for item in shown.items:
        catalogue.put(item)
    user = layout.user(shown.user, shown.attributes, shown.history, context)
    words = build_page(layout, user, catalogue, catalogue.rows([item.item for item in shown.items]))
    at, count = open_page(words, layout.size_array).at, len(shown.items) * layout.sizes.statistics
    words.view(np.float32)[at.base_rate] = 0.5
    words.view(np.float32)[at.statistics : at.statistics + count] = np.arange(count)
    return words


@given(pages(), HELD)
def test_a_page_is_served_as_if_its_context_were_what_is_held(shown: Shown, held: dict[str, Any]) -> None:
    """Bit for bit the page of a request that said so: category, number and band; a sound page of the same layout."""
    layout = Layout(spec_with(held))
    served = as_served(layout, page_of(layout, shown, shown.context))
    assert served.tobytes() == page_of(layout, shown, shown.context | held).tobytes()
    assert (words_of(served.tobytes(), layout, len(shown.items)) == served).all()


@given(pages(), HELD, st.data())
def test_what_was_given_is_logged(shown: Shown, held: dict[str, Any], data: st.DataObject) -> None:
    """The best of a page that was served: what a page of theirs in the true context is, its statistics with it."""
    layout = Layout(spec_with(held))
    words = page_of(layout, shown, shown.context)
    before = words.copy()
    chosen = data.draw(st.lists(st.integers(0, len(shown.items) - 1), min_size=1, unique=True))
    logged = as_logged(layout, select(layout, as_served(layout, words), chosen), words)
    assert logged.tobytes() == select(layout, words, chosen).tobytes()
    assert (words == before).all()


def test_what_is_held_changes_no_layout() -> None:
    """Pages are logged as they were: a spec that holds other columns still reads the same log."""
    hashes = {Layout(spec_with(held)).hash for held in ({}, {"hour": 7.5}, {"device": "x", "hour": 0.0})}
    assert len(hashes) == 1


@given(pages())
def test_without_such_columns_a_page_is_itself(shown: Shown) -> None:
    """Nothing is copied: a position alone is in no page."""
    words = shown.words()
    assert LAYOUT.fixed == frozenset()
    assert as_served(LAYOUT, words) is words
    assert as_logged(LAYOUT, words, words) is words
