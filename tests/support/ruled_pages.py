"""Pages under rules, without a model: items with attributes, and the scores that a model would give them."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ranker.ranking.page_candidates import under_rules
from ranker.retrieval.candidates import Candidates
from ranker.rules.item_tests import ItemRows, item_rows
from ranker.rules.page_rules import PageRules
from ranker.rules.rulebook import Rulebook
from stream.events.types import Item, RankRequest, Value
from stream.features.page_features import Catalogue, Layout
from stream.spec.spec_file import parse_spec

SPEC = """
name = "shop"
parts = ["wide"]
[user]
id = "category"
age = { type = "number", bands = [18, 40] }
country = "category"
history = { of = "item.id" }
[item]
id = "category"
category = "category"
tags = "categories"
age_rating = "attribute"
countries = "attribute"
[context]
device = "category"
[wide]
features = ["item.id"]
[rules]
"""
ITEMS: Mapping[str, Mapping[str, Value]] = {
    "chess": {"category": "games", "tags": ["board", "calm"], "age_rating": "4+", "countries": ["ee", "fi"]},
    "poker": {"category": "games", "tags": ["cards"], "age_rating": "17+", "countries": ["fi"]},
    "rummy": {"category": "games", "tags": ["cards", "calm"], "age_rating": 9.0},
    "atlas": {"category": "maps", "tags": ["calm"], "age_rating": "4+", "countries": ["ee"]},
    "diary": {"category": "notes", "tags": [], "age_rating": "unrated"},
    "blank": {},
}


@dataclass
class Page:
    """What is shown, and what rules say of it."""

    items: list[str]
    removed: dict[str, int]
    rules: PageRules = field(repr=False)


class RuledShop:
    """Pages of a spec's `rules` (TOML), over items by name; `count` of them are retrieved."""

    def __init__(self, rules: str = "", items: Mapping[str, Mapping[str, Value]] = ITEMS, count: int = 100) -> None:
        spec, self.count = parse_spec(SPEC + rules), count
        self.items = {name: Item(name, dict(attributes)) for name, attributes in items.items()}
        self.catalogue = Catalogue(Layout(spec))
        for item in self.items.values():
            self.catalogue.put(item)
        self.rulebook = Rulebook(spec, self.catalogue, self.items)

    def page(
        self,
        scores: Mapping[str, float] | None = None,
        *,
        k: int = 10,
        rules: Sequence[str | dict[str, Any]] = (),
        owned: Sequence[str] = (),
        attributes: Mapping[str, Value] | None = None,
        given: bool = False,
        **context: str,
    ) -> Page:
        """The page of candidates with these scores; by default all items, in their order. `given`: by the request."""
        scores = scores or {name: 0.5 - 0.01 * n for n, name in enumerate(self.items)}
        request = RankRequest("r", "u1", k, context=dict(context), rules=list(rules))
        ruled = self.rulebook.page(request, attributes, owned)
        found = under_rules(
            Candidates([*scores] if given else []), lambda excluded: self.retrieved(scores, excluded), ruled,
            self.catalogue, ruled.pinned(k, self.items),
        )  # fmt: skip
        probabilities = np.array([scores.get(name, 0.01) for name in found.names])
        places = ruled.places(self.candidates(found.names), probabilities, k)
        order = places.fill()
        ruled.count(places)
        return Page([found.names[i] for i in order], ruled.removed, ruled)

    def retrieved(self, names: Iterable[str], excluded: Collection[str]) -> Candidates:
        """The first `count` of these items that aren't excluded."""
        names = [*names]
        first = [name for name in names if name not in excluded][: self.count]
        return Candidates(first, ["popular"] * len(first), [*range(1, len(first) + 1)], {*names} & {*excluded})

    def candidates(self, names: Sequence[str]) -> ItemRows:
        """Items as candidates."""
        return item_rows(names, self.catalogue.lookup(names)[0])
