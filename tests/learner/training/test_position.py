"""Position as a feature that is held constant when ranking: what was shown on top isn't taken for what is good."""

import numpy as np
import pytest

from learner.publishing.version_builder import serving_deep_logits, serving_wide_logits
from learner.training.model import Model
from stream.events.types import INSTALLED, WINDOW_CLOSED, Examples, Impression
from stream.features.page_features import Catalogue, Layout, build_page
from stream.spec.spec import Spec
from stream.spec.spec_file import parse_spec

ITEMS, SHOWN, PAGES = 20, 8, 1_500
ITEM_NAMES = [f"i{n}" for n in range(ITEMS)]
RELEVANCE = np.linspace(0.1, 0.9, ITEMS)  # P(click | looked at)
LOOKED_AT = 0.8 ** np.arange(SHOWN)  # by position
SPEC = """
name = "biased"
[user]
id = "category"
[item]
id = "category"
[statistics]
item_rate = { kind = "rate", by = ["item.id"] }
[wide]
alpha = 0.1
features = ["item.id"]
[deep]
features = ["item.id", "statistics.*"]
embedding_dim = 8
min_count = 2
hidden_units = [32, 16]
"""
POSITION = '[context]\nposition = { type = "number", serve_as = 1 }\n'


def learned(spec: Spec, seed: int) -> Model:
    """A model of pages on which what is shown first has nothing to do with what is relevant: a click needs both."""
    random = np.random.default_rng(seed)
    popularity = random.permutation(ITEMS) / ITEMS
    layout = Layout(spec)
    catalogue, model = Catalogue(layout), Model(spec)
    for n in range(PAGES):
        chosen = random.choice(ITEMS, SHOWN, replace=False)
        shown = chosen[np.argsort(-(popularity[chosen] + random.normal(0, 0.15, SHOWN)))]
        names = [ITEM_NAMES[i] for i in shown]
        words = build_page(layout, layout.user("u", {}, [], {}), catalogue, catalogue.rows(names))
        model.statistics.fill(words, n + 1)
        clicked = [int(c) for c in random.random(SHOWN) < LOOKED_AT * RELEVANCE[shown]]
        page = Impression(f"r{n}", n + 1, "u", names, features=words.tobytes())
        ids = list(range(n * SHOWN + 1, (n + 1) * SHOWN + 1))
        reasons = [INSTALLED if c else WINDOW_CLOSED for c in clicked]
        model.learn([Examples(page, ids, list(range(SHOWN)), clicked, [1.0] * SHOWN, reasons, [n] * SHOWN)], n)
    return model


def agreement(model: Model) -> float:
    """Kendall's tau of the order that a ranker would serve and the true one: pairs in order less pairs in disorder."""
    catalogue = Catalogue(model.layout)
    user = model.layout.user("u", {}, [], {})
    words = build_page(model.layout, user, catalogue, catalogue.rows(ITEM_NAMES))
    model.statistics.fill(words, PAGES + 1)
    served = serving_wide_logits(model, words) + serving_deep_logits(model, words)
    signs = np.sign(np.subtract.outer(served, served) * np.subtract.outer(RELEVANCE, RELEVANCE))
    return float(signs[np.triu_indices(ITEMS, 1)].mean())


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_the_order_is_closer_to_the_truth_with_position_held_still(seed: int) -> None:
    """Clicks come of position and relevance: learned with the position, the order served is more that of relevance."""
    without = parse_spec(SPEC)
    with_position = parse_spec(SPEC.replace("[statistics]", f"{POSITION}[statistics]").replace(
        '"statistics.*"', '"context.position", "statistics.*"'
    ))  # fmt: skip
    biased, fair = agreement(learned(without, seed)), agreement(learned(with_position, seed))
    assert fair > biased + 0.15
    assert fair > 0.7
