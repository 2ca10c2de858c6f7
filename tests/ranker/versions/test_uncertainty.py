"""What a version doesn't know of items, from the learner's sums to the ranker."""

import numpy as np
import pytest

from learner.training.model import Model
from stream.features.encoder import one_page
from stream.features.page_features import Catalogue, build_page
from stream.spec.spec_file import parse_spec
from tests.support.learned_models import served_versions
from tests.support.learner_world import SPEC, records

EXPLORING = SPEC + "[explore]\nprior = 2.0\nkind = "


def test_uncertainty_is_that_of_the_items_keys() -> None:
    """u² = Σ 1 / (prior + n): n FTRL's sums of squares of the keys of features and crosses of the item without a user's
    id or history, within 6 %, by bases and deltas; also of keys whose weight L1 has zeroed; of a new key n is 0.
    """
    spec = parse_spec(EXPLORING + '"thompson"')
    model, count = Model(spec), 0
    explored = {c + 1 for c in spec.explored_crosses()}
    assert [spec.crosses()[c - 1].of for c in sorted(explored)] == [["item.id"], ["user.age_band", "item.tags"]]
    for _, version in served_versions(model, records(spec, 400, items=3)):
        layout = model.layout
        catalogue = Catalogue(layout)
        items = ["i0", "i1", "i2", "i3", "new"]
        user = layout.user("u1", {"age": 30.0}, ["i1"], {})
        words = build_page(layout, user, catalogue, catalogue.rows(items), 1)
        positions = np.array([0, 1, 3, 4])
        found = version.uncertainty(words, positions)
        keys = model.encoder.wide_keys(one_page(words))
        for u, position in zip(found, positions, strict=True):
            mine = keys.keys[keys.offsets[position] : keys.offsets[position + 1]]
            mine = mine[np.isin(mine & np.uint64(255), list(explored))]
            sums = model.wide.sums(model.wide.table.rows_of(mine))
            assert u**2 == pytest.approx((1 / (2.0 + sums)).sum(), rel=0.07)
            count += (sums > 0).sum()
        assert found[-1] ** 2 == pytest.approx(0.5)  # it has no tags
    assert count > 30, "the test saw learned keys"


def test_sums_are_published_where_a_spec_needs_them() -> None:
    """By specs that explore at random, or not at all, uncertainty is 0, and versions have no sums."""
    for text in (SPEC, EXPLORING + '"epsilon"'):
        spec = parse_spec(text)
        model = Model(spec)
        for _, version in served_versions(model, records(spec, 40)):
            words = np.frombuffer(version.manifest.golden[0].features, np.uint64).copy()
            assert version.uncertainty(words, np.zeros(1, np.int64)).tolist() == [0.0]
            assert not version.wide.base.view(np.float32)[:, 3].any()
