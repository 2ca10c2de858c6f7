"""`thalweg init`: whatever a user's events contain, the draft is a spec that says why, and it trains."""

import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from learner.training.model import Model
from producers.features import FeatureBuilder
from producers.json_lines import numbered_lines
from producers.source import InvalidEvent, Pause
from stream.events.types import Impression, Install, Item, RetiredItem, User, Value
from stream.runtime.errors import DataError, SpecError
from stream.spec.parts import Gate
from stream.spec.spec import Spec
from stream.spec.spec_file import parse_spec
from stream.spec.values import duration_ms
from tests.support.shop_events import START_MS, store, written
from thalweg.cli.main import app
from thalweg.onboarding.columns import ObservedColumn, Origin
from thalweg.onboarding.spec_draft import SpecDraft
from thalweg.onboarding.survey import Survey
from thalweg.onboarding.type_guess import guess


def surveyed(lines: list[dict[str, Any]]) -> Survey:
    """A survey of these lines."""
    survey = Survey()
    text = "\n".join(map(json.dumps, lines)).encode()
    for line, event in numbered_lines([text], lambda: START_MS + 10**10):
        survey.add(line, event)
    survey.finish()
    return survey


def draft_of(lines: list[dict[str, Any]]) -> tuple[str, Spec]:
    """The draft for these lines, as text and as a spec."""
    text = SpecDraft(surveyed(lines), "store.jsonl", "store").text()
    return text, parse_spec(text)


@pytest.fixture(scope="module")
def lines() -> list[dict[str, Any]]:
    """The made-up store."""
    return store()


@pytest.fixture(scope="module")
def drafted(lines: list[dict[str, Any]]) -> tuple[str, Spec]:
    """Its draft."""
    return draft_of(lines)


def test_types_are_inferred(drafted: tuple[str, Spec]) -> None:
    """Texts, codes and lists are categories, amounts are numbers with bands; what carries no signal is left out."""
    columns = drafted[1].columns()
    kinds = {name: column.type for name, column in columns.items() if not column.of and not name.endswith("_band")}
    assert kinds == {
        "user.id": "category", "user.country": "category", "user.age": "number", "item.id": "category",
        "item.tags": "categories", "item.price": "number", "item.maker": "category", "context.device": "category",
        "context.hour": "number", "context.position": "number", "user.history.newest": "category",
    }  # fmt: skip
    assert len(columns["user.age"].bands) >= 5
    assert columns["context.position"].serve_as == 1
    assert columns["user.history"].of == "item.id"


def test_each_line_has_its_reason(drafted: tuple[str, Spec]) -> None:
    """Every column and statistic has a comment; what was left out is listed with the counts seen."""
    text = drafted[0]
    for line in text.splitlines():
        if (
            " = " in line
            and line.split(" = ")[0] not in ("name", "alpha", "l1", "features", "crosses")
            and line[0] != '"'
        ):
            assert "  # " in line, line
    assert '# "planet": always "Earth": carries no signal' in text
    assert '# "name": 120 different texts in 120 values: no better than an id' in text
    assert "20 different whole numbers of 5 digits each: codes" in text
    assert '# "sku": 60 different whole numbers in 60 values: no better than an id' in text
    assert "120 users on 3,000 pages" in text


def test_what_is_known_decides_what_is_learned(drafted: tuple[str, Spec]) -> None:
    """Users who come back have statistics and tastes of their own; tastes go by the finest category of items."""
    spec = drafted[1]
    assert spec.statistics["taste"].by == ["user.id", "item.maker"]
    assert spec.statistics["alike"].to == "user.history"
    assert spec.statistics["next"].by == ["user.history.newest", "item.id"]
    assert {"user.id", "item.id", "item.tags"} <= set(spec.wide.features)
    assert ["user.history", "item.id"] in spec.wide.crosses
    assert ["user.history.newest", "item.id"] in spec.wide.crosses
    assert "user.id" not in spec.deep.features
    strangers = [line | {"user": f"{line['request_id']}"} if "request_id" in line else line for line in store(300)]
    text, spec = draft_of(strangers)
    assert not any("user.id" in statistic.by for statistic in spec.statistics.values())
    assert "no statistics by user: 300 users have only 300 pages" in text
    assert spec.user.keys() & {"history"} == set()


def test_time_that_repeats_is_a_column(drafted: tuple[str, Spec]) -> None:
    """Hour and weekday are drafted where pages span some, and requests don't say them; each with its reason."""
    assert not any(name.startswith("page.") for name in drafted[1].columns())  # requests say the hour, within two days
    slow = [line | {"time_ms": START_MS + 12 * (line["time_ms"] - START_MS)} if "time_ms" in line else line
            for line in store(2_000)]  # fmt: skip
    text, spec = draft_of(slow)
    assert ["page.weekday", "item.maker"] in spec.wide.crosses
    assert "page.weekday" in spec.deep.features
    assert "# 2 weeks of pages" in text
    for line in slow:
        line.get("context", {}).pop("hour", None)
    text, spec = draft_of(slow)
    assert {"page.hour", "page.weekday"} <= set(spec.deep.features)
    assert "# 17 days of pages" in text


def test_dates_of_items_are_ages(lines: list[dict[str, Any]]) -> None:
    """Whatever way they're written, if each is one; a user's date isn't, and nothing crosses or groups by one."""
    for make in (lambda n: f"2024-{1 + n % 12:02}-{1 + n % 28:02}", lambda n: float(START_MS - n * 86_400_000)):
        dated = [line | {"attributes": line["attributes"] | {"since": make(n)}} if line["type"] in ("item", "user")
                 else line for n, line in enumerate(lines)]  # fmt: skip
        spec = draft_of(dated)[1]
        assert (spec.item["since"], "item.since" in spec.deep.features) == ("date", True)
        assert spec.user.get("since") != "date"
        assert not any("item.since" in name for cross in spec.crosses() for name in cross.of)


def test_candidates_are_retrieved_from_all_sources(drafted: tuple[str, Spec], lines: list[dict[str, Any]]) -> None:
    """Each source that the data has a use for gets a quota; without histories nothing goes by them; a small catalogue,
    all of which are candidates, needs no section."""
    assert "[retrieval]" not in drafted[0]
    more = [{"type": "item", "item": f"more{n}", "attributes": {"maker": 10_115}} for n in range(60)]
    found = draft_of([*more, *lines])[1].retrieval
    assert {source for source, quota in found.quotas().items() if not quota} == {"popular"}, "it fills up"
    assert sum(found.quotas().values()) < found.count
    assert found.same_by == ["item.maker"]
    strangers = [line | {"user": line["request_id"]} if "request_id" in line else line for line in lines]
    quotas = draft_of([*more, *strangers])[1].retrieval.quotas()
    assert {source for source, quota in quotas.items() if quota} == {"trending", "new"}


def test_rare_labels_are_learned_with_care() -> None:
    """With few installs the deep part takes small steps; predictions begin at the base rate, however low."""
    lines = [line for n, line in enumerate(store(1_000)) if line["type"] != "install" or n % 12 == 0]
    text, spec = draft_of(lines)
    found = re.search(r"# .* pages that showed\n# ([\d,]+) items, ([\d,]+) installs", text)
    assert found
    shown, installs = (int(number.replace(",", "")) for number in found.groups())
    assert spec.label.base_rate == pytest.approx(installs / shown, rel=0.1)
    assert spec.label.base_rate < 0.05
    assert spec.deep.learning_rate == 0.005


def test_the_window_takes_most_delays(drafted: tuple[str, Spec], lines: list[dict[str, Any]]) -> None:
    """The window is the 95th percentile of delays, rounded up to what people say; short ones are learned eagerly."""
    pages = {line["request_id"]: line["time_ms"] for line in lines if line["type"] == "impression"}
    delays = [line["time_ms"] - pages[line["request_id"]] for line in lines if line["type"] == "install"]
    assert 30_000 < np.quantile(delays, 0.95) < 60_000
    label = drafted[1].label
    assert (label.policy, label.window, label.lateness) == ("eager", "1m", "0s")


def test_long_delays_are_corrected_rather_than_waited_for() -> None:
    """Where installs come hours later, so do negatives; the gate's calibration is wide, with why."""
    lines = [line | {"time_ms": line["time_ms"] + 20_000_000} if line["type"] == "install" else line
             for line in store(300)]  # fmt: skip
    text, spec = draft_of(lines)
    assert (spec.label.policy, spec.label.window) == ("delayed_negative", "6h")
    delays_ms = [duration_ms(delay) for delay in spec.label.delays]
    assert len(delays_ms) == 8
    assert delays_ms == sorted(delays_ms)
    assert 20_000_000 <= delays_ms[0] <= delays_ms[-1] < duration_ms("6h")
    assert spec.publish.gate == Gate(calibration=(0.3, 3.0))
    assert "installs that come now are of older pages" in text


def test_labels_in_time_are_judged_by_the_usual_gate(drafted: tuple[str, Spec]) -> None:
    """Where installs come at once nothing of the gate is drafted."""
    assert drafted[1].publish.gate == Gate()
    assert "[publish]" not in drafted[0]


def test_stragglers_are_waited_for_a_little() -> None:
    """Lateness is what the file's disorder asks for; a file that isn't sorted at all is reported."""
    lines = store(600)
    near = [*lines]
    for n in range(200, len(near) - 1, 2):
        near[n], near[n + 1] = near[n + 1], near[n]
    assert draft_of(near)[1].label.lateness in ("1m", "2m", "5m")
    text, spec = draft_of([*lines[:180], *lines[:179:-1]])
    assert spec.label.lateness == "0s"
    assert "sort the file by time" in text


def test_a_draft_trains(drafted: tuple[str, Spec], lines: list[dict[str, Any]]) -> None:
    """The draft goes through features, join and model, and what it predicts of later pages is worth something."""
    spec = drafted[1]
    maker, model, records = FeatureBuilder(spec, 1), Model(spec), 0
    for _, event in numbered_lines(["\n".join(map(json.dumps, lines)).encode()], lambda: START_MS + 10**10):
        assert not isinstance(event, InvalidEvent | Pause | RetiredItem)
        said = maker.process(event).examples
        if said:
            model.learn(said, records)
            records += 1
    assert model.rejected == []
    assert model.finite()
    assert model.examples > 15_000
    figures = model.progress.lifetime()
    assert figures.auc > 0.7


def column_of(values: list[Value]) -> tuple[ObservedColumn, Origin]:
    """A column of these values."""
    origin = Origin()
    for line, value in enumerate(values, 1):
        origin.add({"x": value}, line)
    return origin.columns["x"], origin


numbers = random.Random(7)


@pytest.mark.parametrize(
    ("name", "values", "kind"),
    [
        ("x", [float(n % 5) for n in range(100)], "category"),  # few whole numbers
        ("x", [float(n) for n in range(5)], "number"),  # ... of which each came once
        ("x", [0.5 * (n % 5) for n in range(100)], "number"),  # fractions
        ("shop_id", [float(n % 90) for n in range(500)], "category"),  # a code by its name
        ("zip", [float(n % 90) for n in range(500)], "category"),
        ("paid", [float(n % 90) for n in range(500)], "number"),  # "id" only at the end of its name
        ("x", [10_000.0 + n % 90 for n in range(500)], "category"),  # all of five digits
        ("x", [10_000.0 + n for n in range(500)], None),  # ... of which each is another one
        ("x", [1_990.0 + n % 30 for n in range(500)], "number"),  # years
        ("since", [1_767_600_000.0 + 1_000 * n for n in range(500)], "number"),  # moments
        ("x", [f"{n % 50}" for n in range(500)], "category"),  # whole numbers in quotes
        ("x", [f"{n / 7:.2f}" for n in range(500)], "number"),  # amounts in quotes
        ("x", ["a", "b", 3.0], "category"),
        ("x", ["a", ["b", "c"]], "categories"),
        ("x", [[], ["b"], ["c"]], "categories"),
        ("x", ["a"] * 9, None),  # constant
        ("x", ["", ""], None),
        ("x", [f"session {n}" for n in range(100)], None),  # unique
        ("x", [1e308, -1e308, 5.5] * 9, "number"),
    ],
)
def test_a_column_is_taken_for_what_its_values_are(name: str, values: list[Value], kind: str | None) -> None:
    """Numbers that are names of things are categories, numbers in quotes what they would be without."""
    column, origin = column_of(values)
    found = guess(name, column, origin)
    assert found.kind == kind, found.why
    assert list(found.bands) == sorted(set(found.bands))


_names = st.sampled_from(
    ["id", "history", "position", "a b", "é\n\"'", "age", "age_band", "", "x.y", "#", "\x7f"]
) | st.text(max_size=5)
_values = st.one_of(
    st.text(max_size=6),
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(0, 30).map(float),
    st.lists(st.text(max_size=3), max_size=3),
)
_attributes = st.dictionaries(_names, _values, max_size=4)
_context = st.dictionaries(_names, st.one_of(st.text(max_size=6), st.integers(0, 30).map(float)), max_size=4)
_ids = st.sampled_from("abc")
_pages = st.builds(
    lambda n, user, items, context: Impression(f"r{n}", START_MS + n, user, items, context=context),
    st.integers(0, 50), _ids, st.lists(_ids, min_size=1, max_size=3, unique=True), _context,
)  # fmt: skip
_installs = st.builds(
    lambda n, user, item: Install(user, item, START_MS + n * n * 1_000, f"x{n}"), st.integers(0, 99), _ids, _ids
)
_worlds = st.lists(
    st.one_of(_pages, _pages, _installs, st.builds(User, _ids, _attributes), st.builds(Item, _ids, _attributes)),
    max_size=60,
)


@given(_pages, _worlds)
def test_any_world_with_a_page_gives_a_spec(page: Impression, world: list[Any]) -> None:
    """Whatever the columns' names and values, the draft can be read as a spec, and takes the world's pages."""
    survey = Survey()
    for line, event in enumerate([page, *world]):
        survey.add(line, event)
    survey.finish()
    spec = parse_spec(SpecDraft(survey, "a\nfile", "w").text())
    maker = FeatureBuilder(spec, 1)
    for event in [page, *world]:
        maker.process(event)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "none"),
        ("\x00\xff{\nPK", "2 of 2 lines can't be read"),
        ('{"type":"install","user":"u","item":"i","time_ms":1732435201000}', "none"),
    ],
)
def test_without_pages_there_is_no_draft(text: str, why: str, tmp_path: Path) -> None:
    """An empty file, one that isn't text, one with installs only: one line that says so, and nothing is written."""
    path = tmp_path / "events.jsonl"
    path.write_bytes(text.encode("latin-1"))
    ran = CliRunner().invoke(app, ["init", str(path), "--out", str(tmp_path / "out.toml")])
    assert ran.exit_code == 1
    assert f"a spec is drafted from pages (impressions): {why}" in ran.stderr
    assert not (tmp_path / "out.toml").exists()


def test_broken_lines_are_reported_and_left_out(tmp_path: Path) -> None:
    """Lines that can't be read are counted on stderr, among them one of many megabytes; the rest makes the draft."""
    path = tmp_path / "events.jsonl"
    good = "".join(json.dumps(line) + "\n" for line in store(50))
    path.write_text("{broken\n" + "x" * 20_000_000 + "\n" + good)
    ran = CliRunner().invoke(app, ["init", str(path)])
    assert ran.exit_code == 0
    assert "2 lines can't be read: line 1: JSON is malformed" in ran.stderr
    assert parse_spec(ran.stdout).name == "events"


def test_no_file_is_written_over(tmp_path: Path) -> None:
    """A file that is there stays as it is, unless --force says otherwise."""
    path, out = written(tmp_path / "store.jsonl", store(50)), tmp_path / "out.toml"
    out.write_text("mine")
    ran = CliRunner().invoke(app, ["init", str(path), "--out", str(out)])
    assert ran.exit_code == 1
    assert "--force" in ran.stderr
    assert out.read_text() == "mine"
    assert CliRunner().invoke(app, ["init", str(path), "--out", str(out), "--force"]).exit_code == 0
    assert parse_spec(out.read_text()).name == "store"


@pytest.mark.parametrize(("option", "error"), [("--name", "letters, digits"), ("--out", "can't be written")])
def test_what_can_not_be_is_one_line(option: str, error: str, tmp_path: Path) -> None:
    """A name that is no model's and a folder that isn't there are refused with the remedy."""
    path = written(tmp_path / "store.jsonl", store(50))
    value = "a/b" if option == "--name" else str(tmp_path / "none" / "out.toml")
    ran = CliRunner().invoke(app, ["init", str(path), option, value])
    assert ran.exit_code == 1
    assert error in ran.stderr


def test_a_draft_passes_its_own_check(tmp_path: Path) -> None:
    """Under the spec that was drafted from them, events have no errors and no warnings."""
    path, out = written(tmp_path / "store.jsonl", store()), tmp_path / "store.toml"
    assert CliRunner().invoke(app, ["init", str(path), "--out", str(out)]).exit_code == 0
    ran = CliRunner().invoke(app, ["check", str(path), "--spec", str(out)])
    assert ran.exit_code == 0
    assert "warning" not in ran.output


def test_errors_are_ours() -> None:
    """Without pages a DataError, with a name that is none a SpecError."""
    with pytest.raises(DataError):
        SpecDraft(Survey(), "x", "y")
    with pytest.raises(SpecError):
        parse_spec(SpecDraft(surveyed(store(20)), "x", "a b").text())
