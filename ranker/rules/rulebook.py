"""A spec's rules, compiled for one catalogue; and those that requests name or bring, compiled when they first come."""

import threading
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NoReturn

import msgspec

from ranker.rules.item_attributes import ItemAttributes
from ranker.rules.item_tests import ItemTest
from ranker.rules.page_rules import NamedRule, PageRules
from ranker.rules.request_values import RequestValues
from stream.events.types import Item, RankRequest, Value
from stream.features.page_features import Catalogue, texts_of
from stream.runtime.errors import BadEvent
from stream.spec.rule_checks import check_rule, type_error
from stream.spec.rules import AnyRule, Cap, Diversity, ItemRule
from stream.spec.spec import Spec
from stream.spec.suggestions import near

KEPT: Final = 256  # lists of rules that requests had, compiled


class Rulebook:
    """Rules for requests; `catalogue` is the one whose rows candidates have. Threads may share it."""

    def __init__(self, spec: Spec, catalogue: Catalogue, items: Mapping[str, Item]) -> None:
        self.spec, self.catalogue = spec, catalogue
        self._columns, self._items = spec.readable_columns(), items
        self._named = {name: _compiled(name, rule) for name, rule in spec.rules.items()}
        self._always = [one for one in self._named.values() if one.rule.apply == "always"]
        self._lock = threading.Lock()
        self._attributes = ItemAttributes(catalogue, items, (), ())
        for rule in spec.rules.values():
            self._read_also(rule)
        self._of_request = lru_cache(KEPT)(self._compile)

    def page(
        self, request: RankRequest, attributes: Mapping[str, Value] | None, owned: Collection[str] | None
    ) -> PageRules:
        """The rules for a request of a user with these attributes and installs. Raises BadEvent for a wrong rule."""
        try:
            own = self._of_request(msgspec.json.encode(request.rules)) if request.rules else []
        except (TypeError, RecursionError) as bad:  # MessagePack has more types of values, and of keys, than JSON
            raise BadEvent(f"rules: they have a value that no rule can have ({bad}); correct them") from None
        values = RequestValues(self._columns, request.user, attributes or {}, request.context)
        return PageRules([*self._always, *own], values, owned or (), self._attributes)

    def _compile(self, rules: bytes) -> list[NamedRule]:
        """A request's rules, encoded: names of the spec's, or rules. Raises BadEvent."""
        found: dict[str, NamedRule] = {}
        for index, rule in enumerate(msgspec.json.decode(rules)):
            one = self._named_rule(rule) if isinstance(rule, str) else self._own_rule(f"rules[{index}]", rule)
            if one not in self._always:
                found[one.name] = one
        return list(found.values())

    def _named_rule(self, name: str) -> NamedRule:
        if name not in self._named:
            raise BadEvent(f"rules: the spec has no rule {name[:100]!r}; {near(name[:100], [*self._named])}")
        return self._named[name]

    def _own_rule(self, name: str, raw: Any) -> NamedRule:
        def reject(word: str, why: str) -> NoReturn:
            raise BadEvent(f"{name}: {why}")

        try:
            rule = msgspec.convert(raw, AnyRule)
        except msgspec.ValidationError:
            reject(*type_error(raw))
        check_rule(rule, self._columns, reject)
        self._read_also(rule)
        return _compiled(name, rule)

    def _read_also(self, rule: AnyRule) -> None:
        """Have the attributes that this rule reads."""
        texts, numbers = _read_by(rule)
        with self._lock:
            old = self._attributes
            if not ({*texts} <= {*old.texts} and {*numbers} <= {*old.numbers}):
                names = [*dict.fromkeys([*old.texts, *texts])], [*dict.fromkeys([*old.numbers, *numbers])]
                self._attributes = ItemAttributes(self.catalogue, self._items, *names)


def _read_by(rule: AnyRule) -> tuple[list[str], list[str]]:
    """The attributes of items whose texts, and whose numbers, a rule reads."""
    if isinstance(rule, ItemRule):
        has_texts = bool(rule.values or rule.equals)
        return [rule.of] if has_texts else [], [rule.of] if rule.bounds() else []
    if isinstance(rule, Cap):
        return [rule.of], []
    return (list(rule.by) if isinstance(rule, Diversity) else []), []


def _compiled(name: str, rule: AnyRule) -> NamedRule:
    where = {column: frozenset(_texts(values)) for column, values in rule.where.items()}
    return NamedRule(name, rule, ItemTest(rule) if isinstance(rule, ItemRule) else None, where)


def _texts(values: Sequence[str | float]) -> list[str]:
    return [text for value in values for text in texts_of(value)]
