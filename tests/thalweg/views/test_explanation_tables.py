"""Explanations as tables."""

from io import StringIO
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from stream.events.named_explanations import DeepTerm, Explanation, ItemExplanation, WideTerm
from stream.events.types import RankReply
from thalweg.versions.snapshot_tables import weights_table
from thalweg.views.explanation_plot import write_png
from thalweg.views.explanation_tables import BAR_WIDTH, item_table, page_table
from thalweg.views.tables import moves_table, reply_table

ONE = ItemExplanation(
    "i1", "Star Wars", 2, True, 0.75, 1.1, -0.4, 0.5, 1.0,
    [WideTerm("user.history=i2 Alien x item.id=i1 Star Wars", 0.3)], 3,
    [DeepTerm("statistics.item_rate", "0.7", 0.8)], 1, "together", 4,
)  # fmt: skip
FOUND = Explanation(
    "ann", "m", 0, 7, 1_500, 1_000, 20, 1_234, 100, [ONE], ["no_user"], {"exclude_installed": 12}, 5
)  # fmt: skip


def printed(table: Table) -> str:
    """As on a wide terminal, without line breaks' spaces."""
    text = StringIO()
    Console(file=text, width=250).print(table)
    return text.getvalue()


def test_an_item_has_all_its_terms() -> None:
    """Its place and source, its logit in parts, each term with its value, and the rest of the weights as one."""
    said = printed(item_table(FOUND))
    for text in (
        "Star Wars for user ann: 2 of 100 candidates, retrieved by together (4)",
        "logit +1.100 = -0.400 bias +0.500 wide +1.000 deep", "user.history=i2 Alien x this item", "+0.300",
        "2 more weights", "+0.200", "statistics.item_rate=0.7", "+0.800",
        "version 7 of m, 1.5 s old, of 1,234 examples", "exclude_installed 12", "vectors of version 5",
        "ranked without attributes",
    ):  # fmt: skip
        assert text in said, text


def test_a_page_has_each_item_in_a_line() -> None:
    """With its parts and its strongest terms, the strongest first."""
    said = printed(page_table(FOUND))
    (line,) = [line for line in said.splitlines() if "Star Wars" in line]
    assert [text for text in ("+1.10", "-0.40", "+0.50", "+1.00", "together (4)") if text not in line] == []
    assert line.index("statistics.item_rate=0.7 +0.80") < line.index("user.history=i2 Alien x this item +0.30")


def test_what_else_orders_the_page_adds_up() -> None:
    """Retrieval's term and boosts have a line each; the sum by which the item is ordered stands above."""
    moved = msgspec.structs.replace(FOUND, items=[msgspec.structs.replace(ONE, boosts={"bury": -1.5}, retrieval=0.41)])
    said = printed(item_table(moved))
    assert "ordered by +0.010 = +1.100 logit +0.410 retrieval -1.500 bury" in said
    lines = [line for line in said.splitlines() if "the order is by the logit and this" in line]
    assert ["together (4)" in lines[0] and "+0.410" in lines[0], "bury" in lines[1] and "-1.500" in lines[1]] == [
        True
    ] * 2
    assert "together (4) +0.41" in printed(page_table(moved))
    assert "ordered by" not in printed(item_table(FOUND))


def test_bars_are_of_the_logits_terms() -> None:
    """What the order adds to the logit has no bar, and shrinks no other's, however large it is."""
    ordered = msgspec.structs.replace(ONE, retrieval=5.7, boosts={"lift": 6.9})
    lines = printed(item_table(msgspec.structs.replace(FOUND, items=[ordered]))).splitlines()
    (deep,) = [line for line in lines if "statistics.item_rate" in line]
    assert deep.count("█") == BAR_WIDTH // 2
    assert [line for line in lines if "the order is by" in line and "█" in line] == []
    assert len([line for line in lines if "the order is by" in line]) == 2


def test_an_item_off_the_page_says_so() -> None:
    """Behind the page it has a rank; without one it is no candidate."""
    behind = msgspec.structs.replace(ONE, rank=37, on_page=False, source="")
    assert "37 of 100 candidates; not on the page" in printed(
        item_table(msgspec.structs.replace(FOUND, items=[behind]))
    )
    none = msgspec.structs.replace(behind, rank=0)
    assert "nothing retrieves it" in printed(item_table(msgspec.structs.replace(FOUND, items=[none])))
    ruled = msgspec.structs.replace(none, removed_by=["children"])
    assert "by the rule children" in printed(item_table(msgspec.structs.replace(FOUND, items=[ruled])))


def test_names_in_brackets_are_printed_as_they_are() -> None:
    """Titles and values may look like markup; what is printed has them whole."""
    odd = "[bold] A [/b]"
    one = msgspec.structs.replace(
        ONE, title=odd, wide_terms=[WideTerm(f"item.id=i1 {odd}", 0.3)], deep_terms=[DeepTerm("item.tags", odd, 0.8)]
    )
    for table in (page_table, item_table):
        said = printed(table(msgspec.structs.replace(FOUND, user="[u]", items=[one])))
        assert said.count(odd) >= 2
        assert "user [u]" in said
    weight = printed(weights_table([(1, 0.1, 0.2, 0.3)], {1: f"item.id=i1 {odd}"}))
    assert f"item.id=i1 {odd}" in weight
    reply = RankReply("r", "[u]", ["i1"], [0.5], 1)
    for said in (
        printed(reply_table(reply, {"i1": odd})), printed(moves_table(reply, reply, "i1", {"i1": odd})),
    ):  # fmt: skip
        assert odd in said
        assert "user [u]" in said


def test_a_narrow_terminal_has_whole_names() -> None:
    """On 80 columns the logit's parts are left out, and no term is cut."""
    text = StringIO()
    Console(file=text, width=80).print(page_table(FOUND, 80))
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert not [line for line in lines if "…" in line or "= bias" in line]
    last = "".join(line.split("│")[-2].strip() for line in lines if line.startswith("│"))
    assert "statistics.item_rate=0.7" in last


def test_a_picture_s_title_is_no_formula(tmp_path: Path) -> None:
    """A title with dollars is drawn as it is."""
    odd = msgspec.structs.replace(ONE, title="$5 and \\x $")
    write_png(tmp_path / "x.png", msgspec.structs.replace(FOUND, items=[odd]))
    assert (tmp_path / "x.png").stat().st_size > 10_000
