"""Commands to try Thalweg."""

import pytest

from stream.runtime.errors import SettingsError
from thalweg.cli.tour import rule_of


def test_a_rule_is_a_name_or_an_object() -> None:
    """`--rule` takes the name of one of the spec's rules, or a rule as JSON."""
    assert rule_of("varied") == "varied"
    assert rule_of(' {"kind": "forbid", "items": ["a"]}') == {"kind": "forbid", "items": ["a"]}
    with pytest.raises(SettingsError, match="--rule takes a rule's name, or a JSON object"):
        rule_of("{kind: forbid}")
