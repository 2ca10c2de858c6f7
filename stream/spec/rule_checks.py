"""Checks of rules, of a spec's and of those that a request brings; errors name the remedy."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn, assert_never, get_args

import msgspec

from stream.spec.columns import Column
from stream.spec.rules import (
    KINDS,
    RULES_OF_A_SPEC_MAX,
    AnyRule,
    Apply,
    Boost,
    Cap,
    Diversity,
    Forbid,
    Installed,
    InstalledOf,
    ItemRule,
    Pin,
    Require,
)
from stream.spec.spec import Spec
from stream.spec.suggestions import near

NAMES: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
CHOICES: Final = {"apply": get_args(Apply), "of": get_args(InstalledOf)}
NUMERIC: Final = ("number", "category", "attribute")  # what can be compared: "12+" is 12
TEXTUAL: Final = ("category", "categories", "number", "attribute")

Reject = Callable[[str, str], NoReturn]  # the word at fault, and why


def type_error(raw: Any) -> tuple[str, str]:
    """What is wrong with plain values that aren't a rule: the word at fault, and why; two empty texts: nothing."""
    try:
        msgspec.convert(raw, AnyRule)
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at `$")
    else:
        return "", ""
    kind = raw.get("kind") if isinstance(raw, dict) else None
    if not isinstance(kind, str) or kind not in KINDS:
        known = [*KINDS]
        why = near(kind, known) if isinstance(kind, str) else f"kinds are {', '.join(known)}"
        return "kind", f"a rule is a table with a kind; {why}"
    word = next(iter(re.findall(r"\w+", path)), kind)
    if unknown := re.fullmatch(r"Object contains unknown field `(.+)`", what):
        key = unknown.group(1)
        return key, f"unknown key {key!r} of a rule of kind {kind}; {near(key, [*KINDS[kind].__struct_fields__])}"
    if value := re.fullmatch(r"Invalid enum value '(.*)'", what):
        return word, f"{word} can't be {value.group(1)!r}; {near(value.group(1), [*CHOICES[word]])}"
    if missing := re.fullmatch(r"Object missing required field `(.+)`", what):
        return kind, f"a rule of kind {kind} needs {missing.group(1)}"
    return word, f"{word}: {what}"


def check_rules_table(spec: Spec, reject: Callable[[str, str, str], NoReturn]) -> None:
    """Call `reject` with a rule's name, the word at fault and why at the first rule that is wrong."""
    columns = spec.readable_columns()
    for name, rule in spec.rules.items():

        def reject_rule(word: str, why: str, name: str = name) -> NoReturn:
            reject(name, word, why)

        if not NAMES.fullmatch(name):
            reject(name, name, "a rule's name has letters, digits, . _ -, at most 64")
        check_rule(rule, columns, reject_rule)
    for kind in (Installed, Diversity):
        always = [name for name, one in spec.rules.items() if isinstance(one, kind) and one.apply == "always"]
        if len(always) > 1:
            why = f"{' and '.join(always)} are of one kind, of which a page takes one"
            reject(always[1], "kind", f'{why}: give the others apply = "named"')
    if len(spec.rules) > RULES_OF_A_SPEC_MAX:
        reject([*spec.rules][RULES_OF_A_SPEC_MAX], "", f"{len(spec.rules)} rules are over {RULES_OF_A_SPEC_MAX}")


def check_rule(rule: AnyRule, columns: Mapping[str, Column], reject: Reject) -> None:
    """Call `reject` at what is wrong; `columns` are those that the spec declares."""
    for name, values in rule.where.items():
        _check_request_column(name, "where", columns, reject)
        _check_finite(values, "where", reject)
    match rule:
        case Require() | Forbid() | Boost():
            _check_item_rule(rule, columns, reject)
        case Cap():
            _check_item_column(rule.of, "of", TEXTUAL, columns, reject)
        case Diversity():
            for name in rule.by:
                _check_item_column(name, "by", TEXTUAL, columns, reject)
        case Installed() | Pin():
            pass
        case _:
            assert_never(rule)


def _check_item_rule(rule: ItemRule, columns: Mapping[str, Column], reject: Reject) -> None:
    bounds = rule.bounds()
    is_compared = bool(rule.values or rule.equals or bounds)
    if bool(rule.items) == bool(rule.of) or is_compared != bool(rule.of):
        reject("of", 'name items, such as items = ["a", "b"], or an attribute and what to compare it with, such as '
               'of = "item.category", values = ["games"], or of = "item.age_rating", at_most = "user.age"')  # fmt: skip
    _check_finite([*rule.values, *bounds.values(), *([] if rule.default is None else [rule.default])], "of", reject)
    if rule.values or rule.equals:
        _check_item_column(rule.of, "of", TEXTUAL, columns, reject)
    if bounds:
        _check_item_column(rule.of, "of", NUMERIC, columns, reject)
    references = [(name, bound) for name, bound in bounds.items() if isinstance(bound, str)]
    for name, column in [*references, *([("equals", rule.equals)] if rule.equals else [])]:
        _check_request_column(column, name, columns, reject)
    if rule.default is not None and not (references or rule.equals):
        reject("default", "default stands in for a column of the request, and this rule has none; leave it out")


def _check_item_column(
    name: str, key: str, types: tuple[str, ...], columns: Mapping[str, Column], reject: Reject
) -> None:
    known = [n for n, c in columns.items() if n.startswith("item.") and c.type in types and n not in ("item.id",)]
    known = [n for n in known if not _is_band(n, columns)]
    if name == "item.id":
        reject(key, f'{key}: name items by their ids: items = ["a", "b"]')
    if name in columns and name not in known and name.startswith("item."):
        what = "be compared with numbers" if types is NUMERIC else "be read by rules"
        reject(name, f"{key}: {name} is of type {columns[name].type}, which can't {what}; {near(name, known)}")
    if name not in known:
        why = f"{name!r} isn't declared in [item]; {near(name, known)}"
        reject(name, f'{key}: {why} (an attribute that no model reads: licence = "attribute")')


def _check_request_column(name: str, key: str, columns: Mapping[str, Column], reject: Reject) -> None:
    known = [n for n, c in columns.items() if not n.startswith("item.") and not c.of]
    if name not in known:
        reject(name, f"{key}: {name!r} is no column of user or context; {near(name, known)}")


def _is_band(name: str, columns: Mapping[str, Column]) -> bool:
    return name.endswith("_band") and bool(columns.get(name.removesuffix("_band"), Column()).bands)


def _check_finite(values: list[str | float], key: str, reject: Reject) -> None:
    if any(isinstance(value, float) and not math.isfinite(value) for value in values):
        reject(key, f"{key}: numbers must be finite")
