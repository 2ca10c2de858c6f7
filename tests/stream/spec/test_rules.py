"""Rules as a spec declares them; tests/ranker/rules says what each kind does."""

from pathlib import Path

import pytest

from stream.features.page_features import Layout
from stream.runtime.errors import SpecError
from stream.spec.rules import KINDS
from stream.spec.spec_file import decode_spec, encode_spec, parse_spec
from tests.support.ruled_pages import SPEC

FITS = 'fits = { kind = "require", of = "item.age_rating", at_most = "user.age" }'
WRONG = [
    ('fits = { kind = "requier", of = "item.age_rating" }', "fits", "did you mean 'require'?"),
    ('fits = { kind = "require", of = "item.age_ratin", values = ["4+"] }', "fits", "did you mean 'item.age_rating'?"),
    ('fits = { kind = "require", of = "item.age_rating", valeus = ["4+"] }', "fits", "did you mean 'values'?"),
    ('fits = { kind = "require", of = "item.age_rating" }', "fits", "name items, such as"),
    ('fits = { kind = "require", of = "item.age_rating", above = "user.aeg" }', "fits", "did you mean 'user.age'?"),
    ('fits = { kind = "require", of = "item.age_rating", above = inf }', "fits", "must be a finite number"),
    ('fits = { kind = "require", of = "user.age", above = 3 }', "fits", "'user.age' isn't declared in [item]"),
    ('fits = { kind = "cap", of = "item.age_rating", count = 0 }', "fits", "count: Expected `int` >= 1"),
    ('fits = { kind = "forbid", items = ["a"], default = 3 }', "fits", "this rule has none; leave it out"),
    ('fits = { kind = "forbid", items = ["a"], where = { "item.tags" = ["b"] } }', "fits", "is no column of user"),
    ('fits = "always"', "fits", "a rule is a table with a kind; kinds are"),
    ('"it fits" = { kind = "pin", item = "a", position = 1 }', "it fits", "a rule's name has letters"),
    ('one = { kind = "installed" }\ntwo = { kind = "installed" }', "two", "of which a page takes one"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "name", "words"), WRONG, ids=[rule[:40] for rule, _, _ in WRONG])
def test_a_wrong_rule_is_refused_by_name_and_line(rule: str, name: str, words: str) -> None:
    """As all else in a spec: where, why, what to write instead."""
    with pytest.raises(SpecError) as refused:
        parse_spec(f"{SPEC}{rule}\n")
    said = str(refused.value)
    assert words in said
    assert f"(line {(SPEC + rule).count(chr(10)) + 1}): rules.{name}" in said


def test_rules_are_no_part_of_what_a_model_is() -> None:
    """Rules, and columns that only they read, change neither fingerprint, identity nor pages."""
    ruled = parse_spec(SPEC + FITS)
    plain = parse_spec("\n".join(line for line in SPEC.splitlines() if "attribute" not in line))
    assert (plain.fingerprint(), plain.identity()) == (ruled.fingerprint(), ruled.identity())
    assert plain.columns() == ruled.columns()
    assert Layout(plain).hash == Layout(ruled).hash
    assert decode_spec(encode_spec(ruled)) == ruled
    assert ruled.rules


def test_an_attribute_is_no_feature() -> None:
    """It has no bands, and no model reads it."""
    with pytest.raises(SpecError, match="only rules read an attribute"):
        parse_spec(SPEC.replace('age_rating = "attribute"', 'age_rating = { type = "attribute", bands = [4] }'))
    with pytest.raises(SpecError, match=r"'item.age_rating' is no category here"):
        parse_spec(SPEC.replace('features = ["item.id"]', 'features = ["item.age_rating"]'))


def test_the_page_that_explains_rules() -> None:
    """The examples of docs/rules.md are rules that the store's spec can have; each kind has one."""
    store = Path("specs/store.toml").read_text().replace("[context]", 'devices = "attribute"\n[context]', 1)
    head = store[: store.index("[rules]")]
    found = [parse_spec(head + text.split("```")[0]) for text in Path("docs/rules.md").read_text().split("```toml")[1:]]
    assert {type(rule) for spec in found for rule in spec.rules.values()} == set(KINDS.values())
