"""Each kind of rule; docs/rules.md has the same definitions with examples."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranker.ranking.selection import choose
from stream.runtime.errors import BadEvent
from tests.support.ruled_pages import ITEMS, RuledShop

ALL = [*ITEMS]
AGE = 'fits_age = { kind = "require", of = "item.age_rating", at_most = "user.age" }\n'


def test_what_the_user_has_is_left_out_unless_a_rule_says_otherwise() -> None:
    """`installed`: by default of what is retrieved; of = "all": of the request's candidates, too; "none": never."""
    plain, every = RuledShop(), RuledShop('owned = { kind = "installed", of = "all" }')
    assert plain.page(owned=["chess"]).items == ALL[1:]
    assert plain.page(owned=["chess"]).removed == {"installed": 1}
    assert plain.page(owned=["chess"], given=True).items == ALL
    assert every.page(owned=["chess"], given=True).items == ALL[1:]
    assert every.page(owned=["chess"], given=True).removed == {"owned": 1}
    assert every.page(owned=["chess"], rules=[{"kind": "installed", "of": "none"}]).items == ALL


def test_forbid_leaves_out_items_that_match() -> None:
    """`forbid`: items by their ids, or whose attribute has one of the values; without the attribute they stay."""
    by_id = RuledShop('no = { kind = "forbid", items = ["chess", "diary", "unheard-of"] }').page()
    assert (by_id.items, by_id.removed) == (["poker", "rummy", "atlas", "blank"], {"no": 2})
    by_tag = RuledShop('no = { kind = "forbid", of = "item.tags", values = ["cards", "board"] }').page()
    assert (by_tag.items, by_tag.removed) == (["atlas", "diary", "blank"], {"no": 3})


def test_require_keeps_only_items_that_match() -> None:
    """`require`: what isn't known doesn't match, so an item without the attribute goes, and an unknown item, too."""
    rule = 'only = { kind = "require", of = "item.category", values = ["games", "maps"] }'
    page = RuledShop(rule).page({"nobody": 0.9, "atlas": 0.5, "blank": 0.4, "chess": 0.3}, given=True)
    assert (page.items, page.removed) == (["atlas", "chess"], {"only": 2})


@pytest.mark.parametrize(
    ("comparison", "matching"),
    [
        ("at_most = 9", ["chess", "rummy", "atlas"]),
        ("below = 9", ["chess", "atlas"]),
        ("at_least = 9", ["poker", "rummy"]),
        ("above = 9", ["poker"]),
        ("above = 4, below = 17", ["rummy"]),
        ("values = [9]", ["rummy"]),
    ],
)
def test_comparisons_of_attributes_with_numbers(comparison: str, matching: list[str]) -> None:
    """All of a rule's comparisons must pass; a text counts as the number that it begins with, "12+" as 12."""
    rule = f'{{ of = "item.age_rating", {comparison}'
    assert RuledShop(f'only = {rule}, kind = "require" }}').page().items == matching
    assert RuledShop(f'no = {rule}, kind = "forbid" }}').page().items == [name for name in ALL if name not in matching]


def test_comparisons_with_the_request() -> None:
    """An attribute can be compared with a column of user or context; `default` stands in where the request lacks it."""
    shop = RuledShop(AGE)
    assert shop.page(attributes={"age": 12.0}).items == ["chess", "rummy", "atlas"]
    with pytest.raises(BadEvent, match=r"removed all candidates \(fits_age 6\)"):
        shop.page()
    assert RuledShop(AGE.replace(" }", ", default = 4 }")).page().items == ["chess", "atlas"]
    country = RuledShop('sold = { kind = "require", of = "item.countries", equals = "user.country" }')
    assert country.page(attributes={"country": "fi"}).items == ["chess", "poker"]


def test_what_filters_remove_is_retrieved_again() -> None:
    """Of retrieved candidates: the next ones take the place of those that are removed."""
    page = RuledShop('no = { kind = "forbid", of = "item.category", values = ["games"] }', count=2).page(
        owned=["blank"]
    )
    assert (page.items, page.removed) == (["atlas", "diary"], {"no": 3, "installed": 1})


def test_a_rule_can_be_for_some_requests_only() -> None:
    """`where`: it applies to requests whose columns have one of the values, all of them; bands are columns, too."""
    where = '{ "user.age_band" = ["0"], "context.device" = ["phone", "tablet"] }'
    shop = RuledShop(f'young = {{ kind = "forbid", of = "item.tags", values = ["cards"], where = {where} }}')
    assert shop.page(attributes={"age": 12.0}, device="phone").removed == {"young": 2}
    assert shop.page(attributes={"age": 12.0}, device="desktop").removed == {}
    assert shop.page(attributes={"age": 21.0}, device="phone").removed == {}
    assert shop.page(device="phone").removed == {}


def test_a_rule_can_wait_to_be_named() -> None:
    """apply = "named": only requests that name it. A request brings rules of its own, which count as rules[index]."""
    shop = RuledShop(f'{AGE}calm = {{ kind = "require", of = "item.tags", values = ["calm"], apply = "named" }}')
    adult = {"age": 30.0}
    assert shop.page(attributes=adult).items == ["chess", "poker", "rummy", "atlas"]
    assert shop.page(attributes=adult, rules=["calm"]).items == ["chess", "rummy", "atlas"]
    assert shop.page(attributes=adult, rules=["fits_age", "calm", "calm"]).removed == {"fits_age": 2, "calm": 1}
    own = shop.page(attributes=adult, rules=["calm", {"kind": "forbid", "of": "item.category", "values": ["maps"]}])
    assert (own.items, own.removed) == (["chess", "rummy"], {"fits_age": 2, "calm": 1, "rules[1]": 1})


WRONG: list[tuple[Any, str]] = [
    ("clam", r"rules: the spec has no rule 'clam'; did you mean 'calm'\?"),
    ({"kind": "forbit", "items": ["a"]}, r"rules\[0\]: a rule is a table with a kind; did you mean 'forbid'\?"),
    ({"items": ["a"]}, r"rules\[0\]: a rule is a table with a kind; kinds are installed, require,"),
    ({"kind": "forbid", "item": ["a"]}, r"unknown key 'item' of a rule of kind forbid; did you mean 'items'\?"),
    ({"kind": "forbid"}, r"rules\[0\]: name items, such as"),
    ({"kind": "cap", "of": "item.category"}, r"a rule of kind cap needs count"),
    ({"kind": "cap", "of": "item.categry", "count": 1}, r"isn't declared in \[item\]; did you mean 'item.category'\?"),
    ({"kind": "require", "of": "item.tags", "at_most": 3}, r"item.tags is of type categories, which can't be compared"),
    ({"kind": "require", "of": "item.tags", "equals": "user.tags"}, r"'user.tags' is no column of user or context"),
    ({"kind": "installed", "of": "al"}, r"of can't be 'al'; did you mean 'all'\?"),
    ({"kind": "boost", "items": ["a"], "factor": 0}, r"factor: Expected `float` >= 1e-06"),
    ({"kind": "boost", "items": ["a"], "factor": float("inf")}, r"factor: Expected"),
    ({"kind": "diversity", "by": ["item.id"], "strength": 0.5}, r"by: name items by their ids"),
    ({"kind": "pin", "item": "a", "position": 1, "where": {"user.history": ["a"]}}, r"no column of user or context"),
]


@pytest.mark.parametrize(("rule", "why"), WRONG, ids=[str(rule)[:40] for rule, _ in WRONG])
def test_a_wrong_rule_is_refused_with_its_remedy(rule: Any, why: str) -> None:
    """A request's rules are checked as a spec's are; what is misspelled gets the nearest name."""
    shop = RuledShop('calm = { kind = "require", of = "item.tags", values = ["calm"], apply = "named" }')
    with pytest.raises(BadEvent, match=why):
        shop.page(rules=[rule])


def test_boost_multiplies_the_odds() -> None:
    """`boost`: odds × factor decides the order; a factor below 1 buries."""
    scores = {"chess": 0.5, "atlas": 0.35, "diary": 0.2}
    rule = 'more = {{ kind = "boost", of = "item.category", values = ["maps"], factor = {} }}'
    assert RuledShop(rule.format(1.8)).page(scores).items == ["chess", "atlas", "diary"]  # .35/.65 × 1.8 < 1
    assert RuledShop(rule.format(1.9)).page(scores).items == ["atlas", "chess", "diary"]
    assert RuledShop(rule.format(0.1)).page(scores).items == ["chess", "diary", "atlas"]


def test_cap_bounds_items_with_one_value() -> None:
    """`cap`: at most `count` items of each value on a page; lower ones take their places. No value: not counted."""
    page = RuledShop('varied = { kind = "cap", of = "item.category", count = 1 }').page(k=3)
    assert (page.items, page.removed) == (["chess", "atlas", "diary"], {"varied": 2})
    tags = RuledShop('varied = { kind = "cap", of = "item.tags", count = 1 }').page()
    assert (tags.items, tags.removed) == (["chess", "poker", "diary", "blank"], {"varied": 2})


def test_cap_within_a_run_of_positions() -> None:
    """`within`: at most `count` items of a value in each run of so many positions; what was passed over comes later."""
    page = RuledShop('varied = { kind = "cap", of = "item.category", count = 1, within = 2 }').page()
    assert (page.items, page.removed) == (["chess", "atlas", "poker", "diary", "rummy", "blank"], {})


def test_pin_shows_an_item_at_its_position() -> None:
    """`pin`: there it is, candidate or not; on a shorter page it comes last; two of one position follow each other."""
    shop = RuledShop("""hero = { kind = "pin", item = "diary", position = 2 }
        other = { kind = "pin", item = "blank", position = 2 }
        gone = { kind = "pin", item = "unheard-of", position = 1 }
        far = { kind = "pin", item = "atlas", position = 10 }""")
    assert shop.page({"chess": 0.5, "poker": 0.4}).items == ["chess", "diary", "blank", "poker", "atlas"]
    assert shop.page({"chess": 0.5, "poker": 0.4, "diary": 0.9}, k=2).items == ["chess", "diary"]


def test_filters_win_over_pins_and_caps_over_both() -> None:
    """A pinned item that a filter removes isn't shown; pins count for caps, and one that is over a cap isn't pinned."""
    pin = 'hero = { kind = "pin", item = "poker", position = 1 }\n'
    page = RuledShop(f"{pin}{AGE}").page(attributes={"age": 12.0})
    assert (page.items, page.removed) == (["chess", "rummy", "atlas"], {"fits_age": 3})
    assert RuledShop(pin).page({"chess": 0.5}, owned=["poker"]).removed == {"installed": 1}
    pins = f'{pin}next = {{ kind = "pin", item = "rummy", position = 2 }}\n'
    capped = RuledShop(f'{pins}varied = {{ kind = "cap", of = "item.category", count = 1 }}').page()
    assert (capped.items, capped.removed) == (["poker", "atlas", "diary", "blank"], {"varied": 2})


def test_diversity_lowers_what_is_similar_to_what_stands_above() -> None:
    """`diversity`: odds × (1 − strength × similarity to the most similar item above); similarity: shared over all."""
    scores = {"poker": 0.5, "rummy": 0.45, "atlas": 0.35, "blank": 0.1}
    rule = 'mixed = {{ kind = "diversity", by = ["item.category", "item.tags"], strength = {} }}'
    # rummy shares 2 of 3 values with poker: .45/.55 × (1 − s·2/3) against atlas's .35/.65, which shares none
    assert RuledShop(rule.format(0.51)).page(scores).items == ["poker", "rummy", "atlas", "blank"]
    assert RuledShop(rule.format(0.52)).page(scores).items == ["poker", "atlas", "rummy", "blank"]


NAMES = [f"i{n}" for n in range(9)]
TAGS = st.sampled_from("xyz")
some_items = st.fixed_dictionaries(
    dict.fromkeys(
        NAMES,
        st.fixed_dictionaries({"category": st.sampled_from("ab"), "tags": st.lists(TAGS, max_size=2)}),
    )
)


def rules_of(kind: str, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Rules of one kind."""
    return st.fixed_dictionaries({"kind": st.just(kind), **fields})


columns = st.sampled_from(["item.category", "item.tags"])
caps = rules_of("cap", of=columns, count=st.integers(1, 3), within=st.integers(0, 5))
pins = rules_of("pin", item=st.sampled_from(NAMES), position=st.integers(1, 9))
forbids = rules_of("forbid", of=st.just("item.tags"), values=st.lists(TAGS, min_size=1, max_size=1))
others = st.sampled_from(
    [
        {"kind": "diversity", "by": ["item.tags"], "strength": 0.7},
        {"kind": "boost", "of": "item.category", "values": ["a"], "factor": 3.0},
    ]
)
rule_lists = st.lists(st.one_of(caps, caps, pins, forbids, others), max_size=6)
score_lists = st.lists(st.sampled_from([0.071, 0.137, 0.193, 0.269, 0.421]), min_size=9, max_size=9)
Attributes = dict[str, dict[str, Any]]


def values_of(items: Attributes, item: str, column: str) -> set[str]:
    """Values of a column."""
    value = items[item][column.removeprefix("item.")]
    return {value} if isinstance(value, str) else set(value)


@given(some_items, rule_lists, score_lists, st.integers(1, 9), st.integers(1, 9))
def test_combinations_of_rules(
    items: Attributes, rules: list[dict[str, Any]], scores: list[float], k: int, candidates: int
) -> None:
    """Caps are never exceeded, filters remove all that match, and without caps pins stand where they are pinned."""
    forbidden = {tag for rule in rules if rule["kind"] == "forbid" for tag in rule["values"]}
    allowed = [name for name in NAMES if not set(items[name]["tags"]) & forbidden]
    shop, asked = RuledShop("", items), dict(list(zip(NAMES, scores, strict=True))[:candidates])
    if not set(allowed) & set(asked):
        return
    shown = shop.page(asked, k=k, rules=rules).items
    assert len(set(shown)) == len(shown) <= k
    assert set(shown) <= set(allowed)
    caps = [rule for rule in rules if rule["kind"] == "cap"]
    for cap in caps:
        check_cap(items, shown, cap)
    if not caps:
        check_pins(shown, {r["item"]: r["position"] for r in reversed(rules) if r["kind"] == "pin"}, allowed, k)


def check_cap(items: Attributes, shown: Sequence[str], cap: dict[str, Any]) -> None:
    """By definition: in each run of `within` positions, or on the page."""
    within = cap["within"] or len(shown)
    for first in range(max(1, len(shown) - within + 1)):
        window = [value for item in shown[first : first + within] for value in values_of(items, item, cap["of"])]
        assert all(window.count(value) <= cap["count"] for value in window)


def check_pins(shown: Sequence[str], pins: dict[str, int], allowed: Sequence[str], k: int) -> None:
    """What is pinned and allowed is shown, and on a full page at its position."""
    ours = {item: position for item, position in pins.items() if item in allowed and position <= k}
    if len({*ours.values()}) < len(ours):
        return  # one pushes another down, maybe off the page
    assert set(shown) >= set(ours)
    assert len(shown) < k or all(shown[position - 1] == item for item, position in ours.items())


@given(some_items, rule_lists, score_lists, st.integers(1, 9))
def test_a_page_at_once_or_position_by_position(
    items: Attributes, rules: list[dict[str, Any]], scores: list[float], k: int
) -> None:
    """`fill` gives what `choose` does by `keys` and `take`, as exploration draws; caps count the same."""
    shop = RuledShop("", items)
    assert ordered(shop, rules, scores, k, at_once=True) == ordered(shop, rules, scores, k, at_once=False)


def ordered(
    shop: RuledShop, rules: list[dict[str, Any]], scores: list[float], k: int, *, at_once: bool
) -> tuple[list[int], list[int]]:
    """The order of all items but those pinned elsewhere, and what caps kept off."""
    page = shop.page(dict(zip(NAMES, scores, strict=True)), k=k, rules=[r for r in rules if r["kind"] != "forbid"])
    candidates = shop.candidates(NAMES)
    places = page.rules.places(candidates, np.array(scores), k)
    order = places.fill() if at_once else choose(np.array(scores), k, places).order
    return order, places.kept_off()


def test_a_long_page_under_many_rules_is_ordered_at_once() -> None:
    """The work grows with what items have, not with its product with windows and with what other items have."""
    rng = np.random.default_rng(0)
    shop = RuledShop("", {f"i{n}": {"tags": [f"t{t}" for t in rng.integers(0, 3_000, 40)]} for n in range(700)}, 700)
    few: Any = {f"i{n}": {"tags": [f"t{t}" for t in rng.integers(0, 3_000, 6)]} for n in range(700)}
    caps = [{"kind": "cap", "of": "item.tags", "count": 2, "within": 60 + n} for n in range(32)]
    likeness = {"kind": "diversity", "by": ["item.tags", "item.tags"], "strength": 0.5}
    begun_s = time.monotonic()
    assert len(shop.page(k=700, rules=[likeness]).items) == 700
    assert len(RuledShop("", few, 700).page(k=700, rules=caps).items) > 300
    assert time.monotonic() - begun_s < 10
