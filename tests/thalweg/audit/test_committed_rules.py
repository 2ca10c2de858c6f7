"""Commands that look back use the rules in the joiner's commits, and report a spec that has other ones."""

from dataclasses import replace

import pytest

from stream.joiner.commit_metadata import encode_metadata
from stream.joiner.join import RestartPoint
from stream.joiner.label_rules import LabelRules, label_rules
from stream.runtime.errors import SpecError
from stream.spec.parts import Label
from stream.spec.spec import Spec
from stream.spec.spec_file import load_spec
from thalweg.audit.committed_rules import committed_model, committed_rules, resolve_rules
from thalweg.audit.rules import AuditRules, audit_rules
from thalweg.cli.options import SPEC

MINE = Spec("mine", label=Label(policy="wait", window="1m", lateness="5s", early="10s"))


def commit(rules: LabelRules, model: str = "") -> tuple[int, str]:
    """As a joiner commits."""
    return 7, encode_metadata(RestartPoint(7, 5, 3), rules, model)


def test_rules_come_back_as_the_spec_has_them() -> None:
    """What a joiner of a spec commits, and what a look back reads from that spec, are the same rules."""
    for spec in (MINE, load_spec(SPEC), load_spec(SPEC.with_name("store.toml"))):
        committed = committed_rules(
            {0: commit(replace(label_rules(spec), bytes_max=10), spec.name), 1: (3, "moved by a tool"), 2: (3, "")}
        )
        assert committed == {0: audit_rules(spec)}
        assert resolve_rules(committed, None) == resolve_rules(committed, audit_rules(spec)) == audit_rules(spec)
    assert committed_model({0: (1, "x"), 1: (1, "{}"), 2: commit(LabelRules(), "mine")}) == "mine"
    assert committed_model({0: commit(LabelRules())}) == ""


@pytest.mark.parametrize("metadata", ["", "moved", "[1]", "{}", '{"rules": 3}', '{"rules": [1]}'])
def test_a_commit_without_rules_has_none(metadata: str) -> None:
    """Then the spec must be named, and counts."""
    assert committed_rules({0: (3, metadata)}) == {}
    with pytest.raises(SpecError, match="name the spec that it runs with --spec"):
        resolve_rules({}, None)
    assert resolve_rules({}, audit_rules(MINE)) == audit_rules(MINE)


def test_a_spec_that_the_joiner_does_not_run_by_is_an_error() -> None:
    """Both are named: judging by other rules would call right labels wrong."""
    committed = committed_rules({0: commit(label_rules(MINE))})
    with pytest.raises(
        SpecError, match=r"it has policy wait, window 1 min, .*; the spec says policy eager, window 2 s"
    ):
        resolve_rules(committed, AuditRules())
    for other in (replace(audit_rules(MINE), lateness_ms=1), replace(audit_rules(MINE), early_ms=None)):
        with pytest.raises(SpecError, match="doesn't run by that spec"):
            resolve_rules(committed, other)


def test_partitions_of_different_rules_need_a_word() -> None:
    """One that was silent since the spec was changed has the old rules in its commit: a named spec decides."""
    committed = committed_rules({0: commit(label_rules(MINE)), 1: commit(LabelRules())})
    with pytest.raises(SpecError, match=r"different rules: policy wait, .*; or policy eager"):
        resolve_rules(committed, None)
    assert resolve_rules(committed, audit_rules(MINE)) == audit_rules(MINE)
    assert resolve_rules(committed, audit_rules(Spec("x", label=Label(window="2s")))) == AuditRules()
