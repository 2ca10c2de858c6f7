"""The two parts of a model in terms of weights and columns, over random models of random specs."""

import numpy as np
from hypothesis import assume, given
from hypothesis import settings as how
from hypothesis import strategies as st

from ranker.explain.deep_part import DeepPart
from ranker.explain.wide_part import WideWeight, name_of, wide_parts
from ranker.versions.model import Version
from ranker.versions.version_loader import load_version
from stream.events.types import Item, User
from stream.features.encoder import one_page
from stream.features.page_features import Catalogue, build_page, id_of
from stream.features.page_kernels import open_page
from stream.features.serve_as import as_served
from stream.features.value_names import ValueNames
from stream.snapshots.memory_store import MemoryStore
from stream.tables.dtypes import U64
from stream.tables.hash_kernels import mix
from tests.support.random_models import ToyModel, items, some_spec
from thalweg.views.feature_names import FeatureNames

SEEDS = st.integers(0, 2**32 - 1)
PARTS = st.sampled_from([["wide", "deep"], ["wide"], ["deep"]])


def served(seed: int, parts: list[str]) -> tuple[ToyModel, Version]:
    """A random model and its second version."""
    model, store = ToyModel(some_spec(np.random.default_rng(seed), parts), seed), MemoryStore("m")
    model.publish(store, "base")
    model.learn(2)
    model.publish(store)
    return model, load_version(store, "m", 2)


def deep_of(version: Version) -> DeepPart:
    """The deep part of a version that has one."""
    assert version.tower is not None
    return DeepPart(version.plan, version.tower)


@given(SEEDS, PARTS)
@how(max_examples=40)
def test_bias_wide_and_deep_are_the_logit(seed: int, parts: list[str]) -> None:
    """For every item of a page, bias + the weights that fired + the deep part = the logit that the kernels give."""
    model, version = served(seed, parts)
    page = model.page(9)
    words = as_served(model.layout, page.copy())
    wide = wide_parts(version, words, np.arange(9))
    total = np.array([one.bias + one.total for one in wide])
    if "deep" in parts:
        deep = deep_of(version)
        total += deep.contributions(deep.inputs(words, np.arange(9)))[0]
    np.testing.assert_allclose(total, version.logits(page.copy()), rtol=1e-5, atol=1e-5)
    for one in wide:
        np.testing.assert_allclose(one.total, sum(each.weight for each in one.weights), atol=1e-9)


@given(SEEDS)
@how(max_examples=20)
def test_weights_that_fired_are_the_models_own(seed: int) -> None:
    """They are the published weights, but 0, of the item's keys, the largest first; a weight's ids mix to its key."""
    model, version = served(seed, ["wide"])
    words, crosses = as_served(model.layout, model.page(5)), version.plan.encoder.wide
    keys, offsets = model.encoder.wide_keys(one_page(words))
    for i, part in enumerate(wide_parts(version, words, np.arange(5))):
        found = part.weights
        expected = [model.wide.get(key, 0.0) for key in keys[offsets[i] : offsets[i + 1] - 1].tolist()]
        assert [abs(one.weight) for one in found] == sorted((abs(w) for w in expected if w), reverse=True)
        for one in found:
            key = crosses.salts[one.cross]
            for value in one.ids:
                key = np.uint64(mix(key, np.uint64(value)))
            assert model.wide[int(key) & ~255 | one.cross + 1] == one.weight


@given(SEEDS)
@how(max_examples=20)
def test_a_contribution_is_the_fall_of_the_logit_without_the_column(seed: int) -> None:
    """It is how far the kernels' logit falls when the page itself lacks a number: NaN in its words."""
    model, version = served(seed, ["deep"])
    deep = deep_of(version)
    words = as_served(model.layout, model.page(4))
    before = version.logits(words)
    _, contributions = deep.contributions(deep.inputs(words, np.arange(4)))
    for c, name in enumerate(deep.names):
        if (without := without_number(version, words, name)) is not None:
            np.testing.assert_allclose(contributions[:, c], before - version.logits(without), rtol=1e-4, atol=1e-5)


@given(SEEDS)
@how(max_examples=20)
def test_a_contribution_is_the_fall_of_the_logit_at_an_unknown_category(seed: int) -> None:
    """It is how far the kernels' logit falls when the item's tags are one that the model has no vector of; 0 for an
    item without tags.
    """
    model, version = served(seed, ["deep"])
    deep, layout = deep_of(version), model.layout
    assume("item.tags" in deep.names)
    pages = []
    for tags in (["a", "b"], ["no vector"]):
        catalogue = Catalogue(layout)
        catalogue.put(Item("tagged", {"tags": tags}))
        catalogue.put(Item("bare"))
        rows = catalogue.rows(["tagged", "bare"])
        words = build_page(layout, layout.user("u", {}, [], {}), catalogue, rows, 1_000_000)
        pages.append(as_served(layout, words))
    expected = version.logits(pages[0].copy()) - version.logits(pages[1].copy())
    _, contributions = deep.contributions(deep.inputs(pages[0], np.arange(2)))
    found = contributions[:, deep.names.index("item.tags")]
    assert expected[1] == 0.0
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def without_number(version: Version, words: U64, name: str) -> U64 | None:
    """The page without this number of the user's, the items', or among the statistics; None for another column."""
    layout, page = version.plan.layout, words.copy()
    _, _, f32, at = open_page(page, layout.size_array)
    if name in layout.fixed:
        return None  # it is served as the spec says, whatever the page has
    if name in layout.user_numbers:
        f32[at.user_numbers + layout.user_numbers.index(name)] = np.nan
    elif name in layout.item_numbers:
        f32[at.item_numbers : at.statistics].reshape(at.items, -1)[:, layout.item_numbers.index(name)] = np.nan
    elif name.startswith("statistics."):
        statistics = f32[at.statistics : at.statistics + at.items * at.sizes.statistics].reshape(at.items, -1)
        statistics[:, layout.statistics.index(name.removeprefix("statistics."))] = np.nan
    else:
        return None
    return page


def test_an_item_of_which_nothing_is_known_has_no_contributions() -> None:
    """Removed numbers are missing, removed categories have the vector of those without one; another item has some."""
    _, version = served(3, ["deep"])
    deep = deep_of(version)
    other = np.where(deep.removed == 0.0, np.float32(0.5), np.float32(0.0))
    _, contributions = deep.contributions(np.stack([deep.removed, other]))
    assert np.abs(contributions[0]).max() == 0
    assert np.abs(contributions[1]).max() > 0
    numbers = [c for c, name in enumerate(deep.names) if name not in version.plan.encoder.deep_lists]
    assert 0 < len(numbers) < len(deep.names)
    assert all((deep.removed[deep.inputs_of[c]] == [0.0, 1.0]).all() for c in numbers)


def test_a_weight_is_named_by_its_values() -> None:
    """Each column's text for its id, in the order of the cross; the digits of an id whose text isn't known."""
    _, version = served(11, ["wide"])
    cross, names = version.plan.encoder.cross_names.index("user.history x item.id"), ValueNames(version.plan.layout)
    names.add_item(Item("i1", {}, "One"))
    known = id_of(version.plan.layout.seeds["item.id"], "i1")
    assert (
        name_of(version, WideWeight(0.5, cross, (known, 7)), names) == "user.history=i1 One x item.id=0000000000000007"
    )


@given(SEEDS)
@how(max_examples=10)
def test_snapshots_diff_names_weights_as_explanations_do(seed: int) -> None:
    """A weight that fired has the name that `thalweg snapshots diff` finds for its key by hashing all known values."""
    model, version = served(seed, ["wide"])
    names = FeatureNames(model.layout)
    for item in [*items(30), *(Item(f"i{n}") for n in range(30, 40))]:
        names.add_item(item)
    for n in range(5):
        names.add_user(User(f"u{n}", {"likes": ["a", "b"]}))
    names.add_context({"device": ["x", "y", "z"]})
    words, encoder = as_served(model.layout, model.page(5)), version.plan.encoder
    keys, offsets = encoder.wide_keys(one_page(words))
    found = names.of_keys(encoder, keys)
    for i, part in enumerate(wide_parts(version, words, np.arange(5))):
        of_keys = {found[key] for key in keys[offsets[i] : offsets[i + 1]].tolist() if model.wide.get(key)} - {"bias"}
        assert {name_of(version, one, names) for one in part.weights} == of_keys
