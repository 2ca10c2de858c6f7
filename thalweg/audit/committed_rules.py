"""The rules that the joiner runs by, as its commits say: who looks back must not judge by other ones."""

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final

from stream.runtime.errors import SpecError
from thalweg.audit.rules import AuditRules
from thalweg.text.durations import spoken

GROUP: Final = "joiner"  # whose commits they are


def stored_in(metadata: str) -> dict[str, Any]:
    """What a commit's metadata tells; empty where it's nobody's, or a tool's."""
    try:
        told = json.loads(metadata or "{}")
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def rules_in(commits: Mapping[int, tuple[int, str]]) -> dict[int, AuditRules]:
    """Per partition of `events` the rules in its commit (offset, metadata), where it has any."""
    found: dict[int, AuditRules] = {}
    names = {field.name for field in fields(AuditRules)}
    for partition, (_, metadata) in commits.items():
        try:
            stored = {"skew_ms": 0, **stored_in(metadata)["rules"]}  # older joiners allowed none
            found[partition] = AuditRules(**{name: value for name, value in stored.items() if name in names})
        except (TypeError, KeyError, AttributeError):
            continue  # nobody's, a tool's, or an older joiner's
    return found


def model_in(commits: Mapping[int, tuple[int, str]]) -> str:
    """The model whose spec the joiner runs by, empty when no commit tells."""
    return next((str(name) for _, metadata in commits.values() if (name := stored_in(metadata).get("model"))), "")


def rules_of(told: Mapping[int, AuditRules], named: AuditRules | None) -> AuditRules:
    """The rules to look back by: the joiner's, which must be those of the spec that was named, if one was.

    A partition whose commit tells other rules than the rest may only be silent since the spec was changed: then a
    named spec decides. Raises SpecError.
    """
    if named is not None:
        if not told or named in told.values():
            return named
        raise SpecError(
            f"the joiner doesn't run by that spec: it has {_spoken(next(iter(told.values())))}; the spec says "
            f"{_spoken(named)}. Leave --spec away to go by the joiner's own rules, or name the spec that it runs by"
        )
    if not told:
        raise SpecError(
            "no joiner has told its rules in a commit yet (it never ran here, or has taken in nothing): name the spec "
            "that it runs by with --spec"
        )
    different = list(dict.fromkeys(told.values()))
    if len(different) > 1:
        raise SpecError(
            "the joiner's commits tell different rules: " + "; or ".join(_spoken(one) for one in different) + ". Its "
            "spec was changed and some partitions were silent since, or joiners run by different specs: name with "
            "--spec the one to go by"
        )
    return different[0]


def _spoken(rules: AuditRules) -> str:
    """The rules for a person."""
    said = f"policy {rules.policy}, window {spoken(rules.window_ms)}, lateness {spoken(rules.lateness_ms)}"
    said += f", known {spoken(rules.known_ms)}"
    said += "" if rules.early_ms is None else f", early {spoken(rules.early_ms)}"
    said += f", skew {spoken(rules.skew_ms)}"
    said += ", organic installs emitted" if rules.organic else ""
    return said + (", in `examples` too" if rules.organic_examples else "")
