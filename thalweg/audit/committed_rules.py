"""The joiner's rules, from its commits: commands that look back must judge by the same ones."""

import json
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from stream.runtime.errors import SpecError
from thalweg.audit.rules import AuditRules
from thalweg.text.durations import format_duration

GROUP: Final = "joiner"  # the consumer group whose commits are read


def _parse(metadata: str) -> dict[str, Any]:
    """A commit's metadata; empty where there is none, or the joiner didn't write it."""
    try:
        parsed = json.loads(metadata or "{}")
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def committed_rules(commits: Mapping[int, tuple[int, str]]) -> dict[int, AuditRules]:
    """By partition of `events`, the rules in its commit (offset, metadata), where it has any."""
    found: dict[int, AuditRules] = {}
    for partition, (_, metadata) in commits.items():
        try:
            stored = {"skew_ms": 0, **_parse(metadata)["rules"]}  # older joiners allowed none
            found[partition] = msgspec.convert(stored, AuditRules)
        except (TypeError, KeyError, msgspec.ValidationError):
            continue  # no metadata, or a tool's, or an older joiner's
    return found


def committed_model(commits: Mapping[int, tuple[int, str]]) -> str:
    """The model whose spec the joiner runs, empty when no commit names one."""
    return next((str(name) for _, metadata in commits.values() if (name := _parse(metadata).get("model"))), "")


def resolve_rules(committed: Mapping[int, AuditRules], named: AuditRules | None) -> AuditRules:
    """The rules to judge by: the joiner's, which must be `named`, the rules of the given spec, if there is one.

    Partitions that have been silent since the spec was changed still have its old rules in their commits; then `named`
    decides. Raises SpecError.
    """
    if named is not None:
        if not committed or named in committed.values():
            return named
        raise SpecError(
            f"the joiner doesn't run by that spec: it has {_describe(next(iter(committed.values())))}; the spec says "
            f"{_describe(named)}. Leave out --spec to use the joiner's own rules, or name the spec that it runs"
        )
    if not committed:
        raise SpecError(
            "no joiner has committed its rules yet (it never ran here, or has read nothing): name the spec that it "
            "runs with --spec"
        )
    different = list(dict.fromkeys(committed.values()))
    if len(different) > 1:
        raise SpecError(
            "the joiner's commits have different rules: " + "; or ".join(map(_describe, different)) + ". Its spec was "
            "changed and some partitions have been silent since, or joiners run different specs: name the spec to use "
            "with --spec"
        )
    return different[0]


def _describe(rules: AuditRules) -> str:
    durations = {
        "window": rules.window_ms, "lateness": rules.lateness_ms, "known": rules.known_ms, "early": rules.early_ms,
        "skew": rules.skew_ms,
    }  # fmt: skip
    parts = [f"policy {rules.policy}"]
    parts += [f"{name} {format_duration(ms)}" for name, ms in durations.items() if ms is not None]
    parts += ["organic installs emitted"] * rules.organic + ["in `examples` too"] * rules.organic_examples
    return ", ".join(parts)
