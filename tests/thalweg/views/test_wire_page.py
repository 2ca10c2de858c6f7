"""The page of the wire is that of the code."""

import re
from pathlib import Path
from typing import Any

import msgspec

from stream.events.named_requests import NamedRequest
from stream.events.types import KINDS, RankReply, RankRequest
from thalweg.views import wire_page

PAGE = (Path(__file__).parents[3] / "docs" / "wire.md").read_text()


def test_the_page_is_that_of_the_code() -> None:
    """Whoever changes a field, a limit or a kind writes the page again."""
    assert wire_page.page() == PAGE, "write it again: python -m thalweg.views.wire_page > docs/wire.md"


def test_positions_are_those_on_the_wire() -> None:
    """A reader who goes by the page finds each field where it is."""
    forms: tuple[tuple[str, Any], ...] = ("Request", RankRequest), ("Reply", RankReply)
    for form, kind in forms:
        section = PAGE.split(f"## {form} (tag")[1].split("\n## ")[0].split("`reply_to`, by position")[0]
        rows = re.findall(r"^\| (\d+) \| `(\w+)` \|", section, re.M)
        given: dict[str, Any] = {name: f"<{name}>" for name in kind.__struct_fields__}
        wire = msgspec.msgpack.decode(msgspec.msgpack.encode(kind(**given)))
        assert wire[0] == int(re.findall(rf"## {form} \(tag (\d+)\)", PAGE)[0])
        assert {int(position): f"<{name}>" for position, name in rows} == dict(enumerate(wire[1:], 1))


def test_every_kind_and_every_name_is_there() -> None:
    """No kind of error is left out, and a request has the same fields in both forms."""
    assert set(wire_page.KINDS) == set(KINDS)
    assert set(NamedRequest.__struct_fields__) == set(RankRequest.__struct_fields__)
