"""docs/store.md can't lie: its parameters, calls and scenarios are the code's."""

import re
from pathlib import Path

import numpy as np

from producers.store.parameters import START_MS, StoreParameters
from producers.store.scenario import KINDS, load_scenario, parse_scenario
from producers.store.world import StoreWorld
from stream.events.types import Impression
from tests.support.store_worlds import DAY, SMALL

TEXT = (Path(__file__).parents[3] / "docs" / "store.md").read_text()


def section(title: str) -> str:
    """The text of a section."""
    return TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_every_parameter_stands_in_the_table_with_its_reason() -> None:
    """Groups and fields of the parameters are named in their section, and none that doesn't exist."""
    named = set(re.findall(r"`([\w.]+)`", section("Parameters")))
    defaults = StoreParameters()
    for group in defaults.__struct_fields__:
        fields = getattr(getattr(defaults, group), "__struct_fields__", None)
        if fields is None:
            assert group in named
            continue
        for field in fields:
            if (group, field) not in {("page", "popular"), ("page", "new"), ("page", "random")}:  # "60 + 15 + 25"
                assert {field, f"{group}.{field}"} & named or any(one.endswith(field) for one in named), (group, field)
        for one in named:
            if one.startswith(f"{group}."):
                assert one.removeprefix(f"{group}.") in fields


def test_every_kind_of_scenario_is_described() -> None:
    """The table of kinds has all of them with their keys, and the example is valid."""
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", section("Scenarios"), re.M))
    assert rows.keys() == KINDS.keys()
    for kind, row in rows.items():
        keys = set(KINDS[kind].__struct_fields__) - {"at"}
        assert keys <= set(re.findall(r"`(\w+)`", row))
    (example,) = re.findall(r"```toml\n(.*?)```", TEXT, re.S)
    assert len(parse_scenario(example).happens) == 2


def test_the_example_plays() -> None:
    """The loop in the docs runs as it stands."""
    (example,) = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    sent: list[object] = []
    names = {
        "StoreWorld": StoreWorld, "preset": lambda name: SMALL, "load_scenario": load_scenario,
        "Impression": Impression, "np": np,
        "until_ms": START_MS + DAY // 100, "score": lambda pages: pages.popularity, "send": sent.extend,
    }  # fmt: skip
    exec(compile(example, "docs/store.md", "exec"), names)
    assert any(isinstance(event, Impression) for event in sent)
