"""`thalweg check`: what is wrong is said, with counts and first lines; what is right is left alone."""

import copy
import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from producers.json_lines import numbered_lines
from stream.events.types import Value
from stream.spec.spec import Spec
from stream.spec.spec_file import load_spec, parse_spec
from thalweg.cli.main import app
from thalweg.onboarding.attribution import NEVER_SHOWN, OTHER_PAGE, TOO_EARLY, UNKNOWN_PAGE
from thalweg.onboarding.check import Check, figures, findings_table
from thalweg.onboarding.columns import ObservedColumn, Sample
from thalweg.onboarding.findings import Finding

SPECS = Path(__file__).parents[3] / "specs"
T = 1_767_600_000_000
SPEC = """
name = "shop"
[user]
id = "category"
country = "category"
age = { type = "number", bands = [30] }
history = { of = "item.id", last = 10 }
[item]
id = "category"
tags = "categories"
[context]
device = "category"
position = { type = "number", serve_as = 1 }
[statistics]
item_rate = { kind = "rate", by = ["item.id"] }
[wide]
features = ["item.id"]
[deep]
features = ["user.age", "context.position", "statistics.*"]
[label]
window = "10s"
lateness = "2s"
"""
USERS = [
    {"type": "user", "user": f"u{n}", "attributes": {"country": "NOSE"[n % 2 :: 2], "age": 20 + 5 * n}}
    for n in range(5)
]
ITEMS = [{"type": "item", "item": f"i{n}", "attributes": {"tags": ["new", "old"][: 1 + n % 2]}} for n in range(8)]


def page(n: int, **changes: Any) -> dict[str, Any]:
    """The n-th page, a minute after the one before: three items."""
    items = [f"i{(n + k) % 8}" for k in range(3)]
    context = {"device": ["phone", "desk"][n % 2]}
    made = {"type": "impression", "request_id": f"r{n}", "time_ms": T + 60_000 * n, "user": f"u{n % 5}"}
    return made | {"items": items, "context": context} | changes


def install(n: int, **changes: Any) -> dict[str, Any]:
    """An install of the n-th page's first item, a second after it."""
    made = {"type": "install", "request_id": f"r{n}", "time_ms": T + 60_000 * n + 1_000, "user": f"u{n % 5}"}
    return made | {"item": f"i{n % 8}", "install_id": f"x{n}"} | changes


def sound(pages: int = 400) -> list[dict[str, Any]]:
    """A world with which nothing is wrong: every third page has an install, at one of its positions."""
    lines = copy.deepcopy([*USERS, *ITEMS])
    for n in range(pages):
        lines.append(page(n))
        if n % 3 == 0:
            lines.append(install(n, item=page(n)["items"][n // 3 % 3]))
    return lines


def checked(lines: Iterable[dict[str, Any] | str], spec: str | Spec = SPEC) -> Check:
    """A check that was fed these lines."""
    check = Check(parse_spec(spec) if isinstance(spec, str) else spec)
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    for line, event in numbered_lines([text.encode()], lambda: T + 10**9):
        check.add(line, event)
    return check


def findings(lines: Iterable[dict[str, Any] | str], spec: str | Spec = SPEC) -> dict[str, Finding]:
    """What is to be said of these lines, by name."""
    return {one.name: one for one in checked(lines, spec).findings()}


def test_a_sound_world_is_fine() -> None:
    """Where nothing is wrong nothing is found wrong, and counts, base rate, delays and histories are reported."""
    found = findings(sound())
    assert {one.severity for one in found.values()} == {"fine"}
    assert found["lines"].message == "400 pages of 5 users, 8 different items shown, 134 installs over 6.65 h"
    assert "134 of 1,200" in found["base_rate"].message
    assert "1 s (p95)" in found["delay"].message
    assert "97.8 %" in found["history"].message
    assert "1: 11.2 %, 2: 11.2 %, 3: 11 %" in found["position"].message


@pytest.mark.parametrize(
    ("change", "severity", "name", "times", "where"),
    [
        ([("{nonsense", 20)], "error", "broken", 1, "line 21: JSON"),
        ([(page(0), 20)], "warning", "repeated_pages", 1, "line 21: r0"),
        ([(install(0), 30)], "warning", "repeated_installs", 1, "line 31: x0"),
        ([(install(9, install_id="y", retracted=True), 99)], "warning", "nothing_retracted", 1, "line 100: y"),
        ([(page(12, propensities=[0.5, 0.0, 1.0], request_id="z"), 40)], "warning", "odd_propensities", 1, "line 41"),
        ([(install(12, install_id="y", request_id="nix"), 40)], "warning", "unmatched", 1, "line 41"),
        ([(page(12, features="AAAAAAAAAAA=", request_id="z"), 40)], "error", "foreign_features", 1, "line 41"),
    ],
)
def test_what_is_wrong_is_found_where_it_is(
    change: Sequence[tuple[Any, int]], severity: str, name: str, times: int, where: str
) -> None:
    """One wrong line in a sound world is found, counted, graded and named by its line, with what to do."""
    lines: list[Any] = sound()
    for line, at in change:
        lines.insert(at, line)
    one = findings(lines)[name]
    assert (one.severity, one.times) == (severity, times)
    assert one.lines.startswith(where)
    assert one.remedy


@pytest.mark.parametrize(
    ("behind_ms", "name", "severity"),
    [(500, "order", "fine"), (5_000, "late", "warning"), (50_000, "too_old", "error")],
)
def test_order_is_judged_by_the_lateness(behind_ms: int, name: str, severity: str) -> None:
    """Out of order within the lateness is fine, over it a warning; what the joiner would drop is an error."""
    one = findings([*sound(100), page(500, time_ms=T + 60_000 * 99 - behind_ms, user="u4")])[name]
    assert (one.times, one.severity) == (1, severity)


def test_installs_without_a_page_are_counted_by_reason() -> None:
    """Why an install finds no page is said; where half of them find none it's an error."""
    lost = [
        install(1, install_id="a", request_id="nix"),
        install(1, install_id="b", item="i7"),
        install(1, install_id="c", request_id="", item="i7"),
        install(1, install_id="d", time_ms=T),
    ]
    one = findings([*USERS, *ITEMS, page(0), page(1), *lost, install(1)])["unmatched"]
    assert one.times == 4
    assert one.severity == "error"
    assert all(f"1 {why}" in one.message for why in (UNKNOWN_PAGE, OTHER_PAGE, NEVER_SHOWN, TOO_EARLY))
    assert one.lines == "line 16, line 17, line 18, line 19"


def test_the_window_is_compared_with_the_delays() -> None:
    """Installs after the window are counted, aren't labels, and a window that takes most of them is proposed."""
    lines = sound()
    for line in lines:
        if line["type"] == "install" and line["install_id"] != "x0":
            line["time_ms"] += 14_000
    check = checked(lines)
    one = next(one for one in check.findings() if one.name == "too_late")
    assert (one.severity, one.times, check.labels) == ("warning", 133, 1)
    assert one.lines == "line 19; line 23; line 27"
    assert "label.window to 30s" in one.remedy


@pytest.mark.parametrize(
    ("old", "new", "name", "says"),
    [
        ('country = "category"', 'county = "category"', "never:user.county", "did you mean 'country'"),
        ('country = "category"', 'country = "number"', "type:user.country", "5 of 5"),
        ('tags = "categories"', 'tags = "category"', "type:item.tags", "8 of 8 values are lists"),
        ("bands = [30]", "bands = [3]", "band:user.age", "one band"),
        ('tags = "categories"', 'tags = "date"', "type:item.tags", "8 of 8 values aren't dates"),
        ('device = "category"', 'device = "number"', "type:context.device", "aren't numbers"),
    ],
)
def test_columns_are_compared_with_the_spec(old: str, new: str, name: str, says: str) -> None:
    """A column that never came, is of another type, or carries no signal is named with the remedy."""
    one = findings(sound(), SPEC.replace(old, new))[name]
    assert one.severity in ("error", "warning")
    assert says in one.message + one.remedy


def test_constant_and_missing_columns_are_named() -> None:
    """A column that is always the same, or missing nearly always, is a warning."""
    lines = sound()
    for n, line in enumerate(lines):
        if line["type"] == "impression":
            line["context"] = {"device": "phone"} if n < 40 else {}
        if line["type"] == "user":
            line["attributes"]["country"] = "NO"
    found = findings(lines)
    assert "user.country is always 'NO'" in found["constant:user.country"].message
    assert found["missing:context.device"].severity == "warning"


def test_what_the_spec_does_not_read_is_reported() -> None:
    """Attributes and context that no column names are listed, and that's fine."""
    lines = sound()
    lines[0]["attributes"] |= {"shoe": 43}
    one = findings(lines)["unread"]
    assert (one.severity, one.message) == ("fine", "the spec doesn't read user.shoe")


def test_an_attribute_for_rules_is_read() -> None:
    """It may have any values, and be always the same, but one that never came is misspelled."""
    lines = sound()
    lines[0]["attributes"] |= {"shoe": 43}
    spec = SPEC.replace("[user]\n", '[user]\nshoe = "attribute"\nshooe = "attribute"\n', 1)
    found = findings(lines, spec)
    assert not {"unread", "constant:user.shoe", "missing:user.shoe"} & found.keys()
    assert "never:user.shooe" in found


def test_items_that_nobody_described_are_counted() -> None:
    """Items shown before their line came lack their attributes: counted, with the first."""
    lines = sound()
    lines.remove(ITEMS[7])
    lines.append(ITEMS[7])
    one = findings(lines)["undescribed"]
    assert (one.severity, one.times) == ("warning", 150)
    assert "i7" in one.lines


def test_a_page_too_large_for_its_features_is_an_error() -> None:
    """A page whose features with this spec's columns are over an event's limit is found before it is refused."""
    spec = SPEC.replace(
        "[wide]", "\n".join(f's{n} = {{ kind = "count", by = ["item.id"] }}' for n in range(30)) + "\n[wide]"
    )
    lines = [*sound(), page(500, items=[f"x{n}" for n in range(900)])]
    assert findings(lines, spec)["page_size"].severity == "error"
    assert "page_size" not in findings(lines)


def test_positions_that_matter_are_proposed_as_a_column() -> None:
    """Where installs fall with the position and the spec has none, it says to add it; with pages of one, to drop it."""
    lines = [line | {"item": page(int(line["request_id"][1:]))["items"][0]} if line["type"] == "install" else line
             for line in sound()]  # fmt: skip
    without = SPEC.replace('position = { type = "number", serve_as = 1 }', "").replace('"context.position", ', "")
    assert findings(lines)["position"].severity == "fine"
    assert "add position" in findings(lines, without)["position"].remedy
    single = [line | {"items": line["items"][:1]} if line["type"] == "impression" else line for line in lines]
    assert "drop context.position" in findings(single)["position"].remedy


@pytest.mark.parametrize(
    ("lines", "name"),
    [
        ([], "empty"),
        (["\x00\x01\x02", "PK\x03\x04", "{}"], "broken"),
        ([*USERS, *ITEMS], "no_pages"),
        ([install(n) for n in range(20)], "no_pages"),
        ([install(n) for n in range(20)], "unmatched"),
        ([*USERS, *ITEMS, *map(page, range(20))], "base_rate"),
        (["{broken", page(0), "[]", install(0), "null", page(1)], "broken"),
    ],
)
def test_a_file_that_teaches_nothing_is_an_error(lines: list[Any], name: str) -> None:
    """Nothing at all, nothing readable, no pages, no installs: an error that says what to do."""
    one = findings(lines)[name]
    assert one.severity == "error"
    assert one.remedy


def test_the_public_data_sets_are_sound_under_their_specs() -> None:
    """Of MovieLens's first ten thousand events nothing is wrong under its spec."""
    from producers.movielens import fetch_movielens, read_movielens
    from stream.runtime.settings import Settings

    check = Check(load_spec(SPECS / "movielens.toml"))
    for line, event in zip(range(10_000), read_movielens(fetch_movielens(Settings().data, print)), strict=False):
        check.add(line, event)
    assert {one.severity for one in check.findings()} == {"fine"}


def test_a_sample_holds_its_quantiles() -> None:
    """Quantiles of a million numbers come from a few thousand, within a hundredth."""
    sample, numbers = Sample(), random.Random(1)
    for _ in range(200_000):
        sample.add(numbers.random())
    assert sample.count == 200_000
    for share in (0.05, 0.5, 0.95):
        assert abs(sample.quantile(share) - share) < 0.03
    assert len(sample._sample) <= 4_096


def test_a_column_counts_kinds_of_values() -> None:
    """Texts, numbers, numeric texts, lists and empty values are counted, with first lines."""
    column = ObservedColumn()
    values: list[Value] = ["red", 3.0, "4.5", ["a", "b"], "", []]
    for line, value in enumerate(values, 1):
        column.add(value, line)
    assert column.counts == {"text": 2, "number": 1, "list": 1, "empty": 2}
    assert (column.numeric, column.first_non_number, column.first["list"], column.values) == (1, 1, 4, 4)
    column.add("red", 7)
    assert column.most_common(2) == [("red", 2), (3.0, 1)]


def write(path: Path, lines: Iterable[dict[str, Any]]) -> Path:
    """These lines in a file."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_the_command_prints_and_exits(tmp_path: Path) -> None:
    """Findings are printed, the flat figures go to --json, and only errors make the exit code 1."""
    spec = tmp_path / "shop.toml"
    spec.write_text(SPEC)
    good, bad = write(tmp_path / "good.jsonl", sound()), write(tmp_path / "bad.jsonl", USERS)
    ran = CliRunner().invoke(app, ["check", str(good), "--spec", str(spec), "--json", str(tmp_path / "f.json")])
    assert ran.exit_code == 0, ran.output
    assert "400 pages" in ran.output
    counts = json.loads((tmp_path / "f.json").read_text())
    assert (counts["errors"], counts["warnings"], counts["labels"], counts["items_shown"]) == (0, 0, 134, 1_200)
    ran = CliRunner().invoke(app, ["check", str(bad), "--spec", str(spec)])
    assert ran.exit_code == 1
    assert "write an impression" in ran.output


def test_a_line_of_a_hundred_megabytes_costs_only_itself(tmp_path: Path) -> None:
    """A line that never seems to end is one broken line; those around it are taken."""
    path = tmp_path / "long.jsonl"
    with path.open("wb") as file:
        file.write(json.dumps(page(0)).encode() + b"\n")
        for _ in range(100):
            file.write(b"x" * 1_000_000)
        file.write(b"\n" + json.dumps(install(0)).encode() + b"\n")
    spec = tmp_path / "shop.toml"
    spec.write_text(SPEC)
    ran = CliRunner().invoke(app, ["check", str(path), "--spec", str(spec), "--json", str(tmp_path / "f.json")])
    counts = json.loads((tmp_path / "f.json").read_text())
    assert (ran.exit_code, counts["broken"], counts["pages"], counts["labels"]) == (1, 1, 1, 1)


@pytest.mark.parametrize(
    ("name", "remedy"), [("nowhere.jsonl", "JSON lines"), ("", "it is a folder"), ("openbandit/x", "bts")]
)
def test_what_can_not_be_read_is_one_line(name: str, remedy: str, tmp_path: Path) -> None:
    """A missing file, a folder, an unknown part of a data set: one line with the remedy and exit code 1."""
    source = name if name.startswith("openbandit") else str(tmp_path / name)
    ran = CliRunner().invoke(app, ["check", source, "--spec", str(SPECS / "store.toml")])
    assert ran.exit_code == 1
    assert remedy in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


def test_the_readme_shows_what_is_said(tmp_path: Path) -> None:
    """What README shows of `check` is what it says of README's own lines, under the spec drafted from them."""
    readme = (SPECS.parent / "README.md").read_text()
    section = readme[readme.index("## Your own data") :]
    lines, said = (section.split(f"```{kind}\n", 1)[1].split("```", 1)[0] for kind in ("json", "text"))
    events, spec = tmp_path / "events.jsonl", tmp_path / "mine.toml"
    events.write_text(lines)
    assert CliRunner().invoke(app, ["init", str(events), "--out", str(spec)]).exit_code == 0
    ran = CliRunner().invoke(app, ["check", str(events), "--spec", str(spec)])
    assert [line.rstrip() for line in ran.stdout.splitlines()] == said.splitlines()


def test_names_are_printed_as_they_are() -> None:
    """A person's names that look like markup are text."""
    lines = sound()
    lines[0]["attributes"] |= {"[red]shoe[/]": 1}
    console = Console(record=True, width=200)
    check = checked(lines)
    console.print(findings_table(check.findings()))
    assert "[red]shoe[/]" in console.export_text()


def test_a_check_counts_what_it_finds() -> None:
    """Figures have each finding that isn't fine under its name."""
    check = checked([*sound()[:14], page(0), "{broken", *sound()[14:]])
    counts = figures(check, check.findings())
    assert (counts["errors"], counts["warnings"], counts["broken"], counts["repeated_pages"]) == (1, 1, 1, 1)


def test_crosses_that_are_too_long_are_found() -> None:
    """Ten installs of a user and 500 tags of an item: more keys than are learned."""
    lines = sound()
    next(line for line in lines if line["type"] == "item")["attributes"]["tags"] = [f"t{n}" for n in range(500)]
    crossed = '[wide]\ncrosses = [["user.history", "item.tags"], ["user.country", "item.tags"]]'
    found = findings(lines, SPEC.replace("[wide]", crossed))
    long = [one for name, one in found.items() if name.startswith("long:")]
    assert [one.name for one in long] == ["long:user.history x item.tags"]
    assert "10 x 500 = 5,000 keys" in long[0].message
    assert "thalweg_learner_crosses_left_out_total" in long[0].remedy
