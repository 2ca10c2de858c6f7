"""What a plan says of a load."""

import json
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from learner.memory import learner_needs
from producers.source import SourceElement
from ranker.memory import ranker_needs
from stream.events.types import Impression, Item
from stream.runtime.errors import SettingsError
from stream.runtime.memory import with_joiner_memory
from stream.runtime.settings import Settings
from stream.spec.bounds import check_bounds
from stream.spec.parts import Deep
from stream.spec.spec_file import load_spec
from thalweg.cli.main import app
from thalweg.sizing.keys import bounded, keys_of, possible_of
from thalweg.sizing.load import Load
from thalweg.sizing.observed import observe
from thalweg.sizing.plan import Room, SizePlan, pages_s_of_learner, plan_for
from thalweg.sizing.report import GB, Machine, findings, machines

STORE = Path("specs/store.toml")
SPECS = sorted(Path("specs").glob("*.toml"))
SPEC = load_spec(STORE)
LOAD = Load(1_000, 4_000_000, 50_000)


def room(plan: SizePlan, name: str) -> Room:
    """The room of this name."""
    return next(one for one in plan.rooms if one.name == name)


@pytest.mark.parametrize("file", SPECS, ids=lambda file: file.stem)
def test_every_spec_has_a_plan_that_grows_with_its_load(file: Path) -> None:
    """Ten times the pages and users need no fewer cores, no less memory and no less disk in any room."""
    spec = load_spec(file)
    small, large = (plan_for(spec, Load(100 * n, 400_000 * n, 50_000), Settings()) for n in (1, 10))
    for before, after in zip(small.rooms, large.rooms, strict=True):
        assert before.cores <= after.cores
        assert before.memory <= after.memory
        assert before.disk <= after.disk


def test_bounds_cap_what_is_kept() -> None:
    """However many keys there may be, a model's tables are at most as large as the spec allows."""
    keys = keys_of(SPEC, LOAD, LOAD.seconds)
    assert keys["wide.max_keys"].made > keys["wide.max_keys"].kept == SPEC.wide.max_keys
    assert keys["deep.max_rows"].made == keys["deep.max_rows"].kept < SPEC.deep.max_rows
    assert bounded(SPEC, keys) == SPEC
    defaults = msgspec.structs.replace(SPEC, deep=msgspec.structs.replace(SPEC.deep, max_rows=Deep().max_rows))
    assert bounded(defaults, keys).deep.max_rows == keys["deep.max_rows"].made
    said = findings(defaults, LOAD, plan_for(defaults, LOAD, Settings()), Machine(8, 32 * GB))
    assert any(f"name deep.max_rows = {keys['deep.max_rows'].made:_}" in line for line in said)


@pytest.mark.parametrize("file", SPECS, ids=lambda file: file.stem)
def test_rooms_start_with_the_memory_that_is_planned(file: Path) -> None:
    """Of a small load, too: what a spec's named bounds need isn't refused. With a fifth less, rooms say so."""
    spec = load_spec(file)
    plan = plan_for(spec, Load(1, 4_320, 1_000), Settings())
    for name, needs in (("learner", partial(learner_needs, settings=Settings())), ("ranker", ranker_needs)):
        memory = room(plan, name).memory_each
        check_bounds(name, spec, needs, memory)
        with suppress(SettingsError):
            assert check_bounds(name, spec, needs, int(0.8 * memory))
    assert with_joiner_memory(Settings(), room(plan, "joiner").memory_each).joiner_memory_mb


@pytest.mark.parametrize("file", SPECS, ids=lambda file: file.stem)
@given(
    pages_s=st.floats(0.01, 1e6),
    times=st.floats(1, 10),
    items=st.integers(1, 1_000_000),
    page_items=st.integers(1, 100),
    grows=st.booleans(),
)
@settings(max_examples=10, deadline=None)  # of each of four specs
def test_more_pages_never_need_less(
    file: Path, pages_s: float, times: float, items: int, page_items: int, grows: bool
) -> None:
    """Neither machines nor models, nor cores, whether there are more users or as many."""
    spec, machine = load_spec(file), Machine(8, 32 * GB)
    few, many = (
        plan_for(spec, Load(rate, max(1, round(4_320 * rate)) if grows else 50_000, items, page_items), Settings())
        for rate in (pages_s, times * pages_s)
    )
    assert machines(few, machine) <= machines(many, machine)
    assert few.models <= many.models
    for before, after in zip(few.rooms, many.rooms, strict=True):
        assert before.processes <= after.processes
        assert before.cores <= after.cores * (1 + 1e-9)


def test_one_redis_has_one_thread() -> None:
    """Where versions to a model's rankers are more than half of it can send, users are split further."""
    load = Load(0.99 * pages_s_of_learner(SPEC, LOAD), 20_000_000, 100_000)
    plan = plan_for(SPEC, load, Settings())
    assert plan.models > 1
    assert room(plan, "Redis").cores <= plan.models
    assert any("one Redis serves" in line for line in findings(SPEC, load, plan, Machine(8, 32 * GB)))


def test_a_window_beyond_retention_takes_disk_and_is_said() -> None:
    """Kafka keeps pages for seven days, but a joiner that starts needs those of two windows."""
    label = msgspec.structs.replace(SPEC.label, window="35d")
    long = msgspec.structs.replace(SPEC, label=label)
    plan = plan_for(long, LOAD, Settings())
    assert room(plan, "Kafka").disk > 3 * room(plan_for(SPEC, LOAD, Settings()), "Kafka").disk
    assert any("THALWEG_EVENTS_DAYS" in line for line in findings(long, LOAD, plan, Machine(8, 32 * GB)))


def test_nobody_has_more_items_than_there_are() -> None:
    """However much a user installs."""
    assert Load(1_000, 1, 3).history == 3


def test_columns_of_one_user_have_no_more_combinations_than_users() -> None:
    """A user has one country: user and country together are as many as users; those of user and item multiply."""
    assert possible_of(SPEC, LOAD, ["user.id", "user.country"]) == LOAD.users
    assert possible_of(SPEC, LOAD, ["user.id", "item.category"]) == LOAD.users * 100
    assert possible_of(SPEC, LOAD, ["user.age_band", "context.hour"]) == 5 * 100


def test_more_than_one_learner_can_learn_needs_more_models() -> None:
    """Where a learner is too slow, the users are split, and the plan says so; sampled negatives raise the limit."""
    rare = msgspec.structs.replace(SPEC, publish=msgspec.structs.replace(SPEC.publish, every="30s", deep_every="30s"))
    most = pages_s_of_learner(SPEC, LOAD)
    fits, split = (
        plan_for(rare, replace(LOAD, pages_s=share * most), Settings()) for share in (0.9, 2.5)
    )  # fmt: skip
    assert (fits.models, split.models) == (1, 3)
    assert room(split, "learner").processes == 3
    said = findings(SPEC, replace(LOAD, pages_s=2.5 * most), split, Machine(8, 32 * GB))
    assert any("3 models" in line for line in said)
    sampled = msgspec.structs.replace(SPEC, label=msgspec.structs.replace(SPEC.label, sample_negatives=0.1))
    assert pages_s_of_learner(sampled, LOAD) > 2 * most


def test_a_longer_window_takes_memory_of_joiners_alone() -> None:
    """Pages of a day are open at once; no other room keeps them."""
    label = msgspec.structs.replace(SPEC.label, window="1d")
    short, long = (plan_for(spec, LOAD, Settings()) for spec in (SPEC, msgspec.structs.replace(SPEC, label=label)))
    assert long.open_pages > 86_400 * LOAD.pages_s
    assert room(long, "joiner").memory > 86_400 * LOAD.pages_s * 100
    for name in ("learner", "ranker", "Redis", "Kafka"):
        assert room(long, name) == room(short, name)


def test_replicas_are_further_brokers_with_the_same_disk() -> None:
    """THALWEG_REPLICATION = 3 is three brokers, each with everything; by default there are three."""
    one, three = (room(plan_for(SPEC, LOAD, Settings(replication=n)), "Kafka") for n in (1, 3))
    assert (one.processes, three.processes) == (1, 3)
    assert three.disk == pytest.approx(3 * one.disk)
    assert room(plan_for(SPEC, LOAD, Settings()), "Kafka") == three


def test_days_that_kafka_keeps_are_those_of_the_settings() -> None:
    """THALWEG_EVENTS_DAYS and THALWEG_EXAMPLES_DAYS."""
    short, long = (room(plan_for(SPEC, LOAD, Settings(events_days=n, examples_days=n)), "Kafka").disk for n in (7, 14))
    assert long == pytest.approx(2 * short)


def test_machines_are_as_many_as_cores_or_memory_need() -> None:
    """Whichever is more."""
    plan = plan_for(SPEC, LOAD, Settings())
    cores, memory = sum(one.cores for one in plan.rooms), sum(one.memory for one in plan.rooms)
    assert machines(plan, Machine(1, 10 * memory)) == -int(-cores // 1)
    assert machines(plan, Machine(1_000, memory // 2 - 1)) == 3


def test_a_file_of_events_says_how_values_grow() -> None:
    """Categories that are all there soon don't grow; items that come one a page grow as pages do."""
    events: list[SourceElement] = []
    for n in range(2_048):
        events += [Item(f"i{n}", {"category": f"c{n % 7}", "tags": ["a", "b", "c", "d"]})]
        events += [Impression(f"r{n}", n + 1, f"u{n % 50}", [f"i{n}", "shown to all"])]
    observed = observe(enumerate(events, 1))
    found = observed.values(1_000_000)
    assert (found["item.category"], found["user.id"]) == (7, 50)
    assert found["item.id"] == pytest.approx(1_000_000, rel=0.01)
    assert observed.lengths == {"item.tags": 4.0}
    assert observed.page_items == 2


def test_the_command_writes_what_it_prints(local: Path, tmp_path: Path) -> None:
    """One flat object of figures, all of them numbers."""
    file = tmp_path / "size.json"
    words = ["size", "--spec", str(STORE), "--pages-per-second", "1000", "--values", "item.category=40", "--json"]
    said = CliRunner().invoke(app, [*words, str(file)])
    assert said.exit_code == 0, said.output
    figures = json.loads(file.read_text())
    assert all(isinstance(value, int | float) for value in figures.values())
    assert f"{figures['wide.max_keys_kept']:,}" in said.output
    assert "one learner learns" in said.output


def run_size(*words: str) -> Result:
    """The command for the store."""
    return CliRunner().invoke(app, ["size", "--spec", str(STORE), *words])


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--values", "item.category"], 1, "COLUMN=N"),
        (["--values", f"item.category={10**400}"], 1, "COLUMN=N"),
        (["--values", "item.categori=5"], 1, "did you mean 'item.category'"),
        (["--values", "item.price=5"], 1, "no such category or list"),
        (["--values", "item.id=5"], 1, "--items"),
        (["--window", "0s"], 1, "label.window"),
        (["--window", "soon"], 1, "duration"),
        (["--page-items", "0"], 2, "page-items"),
        (["--users", "0"], 2, "users"),
        (["--days", "inf"], 2, "days"),
    ],
)
def test_silly_options_are_refused(words: list[str], code: int, message: str, local: Path) -> None:
    """With one line that says how to write them."""
    said = run_size("--pages-per-second", "1", *words)
    assert (said.exit_code, message in said.output) == (code, True), said.output


@pytest.mark.parametrize("rate", ["0", "-1", "nan", "inf", "1e300"])
def test_impossible_rates_are_refused(rate: str, local: Path) -> None:
    """None of them ends with a traceback."""
    assert run_size("--pages-per-second", rate).exit_code == 2


def test_no_installs_are_no_installs(local: Path, tmp_path: Path) -> None:
    """A share of 0 isn't the default."""
    file = tmp_path / "size.json"
    assert run_size("--pages-per-second", "1000", "--installs-share", "0", "--json", str(file)).exit_code == 0
    assert json.loads(file.read_text())["retrieval.kept.max_users_made"] == 0


def test_a_file_of_events_that_says_little_is_named(local: Path, tmp_path: Path) -> None:
    """Without a page it's refused; lines that can't be read, and few pages, are warned of."""
    file = tmp_path / "events.jsonl"
    file.write_text("")
    said = run_size("--pages-per-second", "1", "--events", str(file))
    assert (said.exit_code, "has no page" in said.output) == (1, True)
    page = {"type": "impression", "request_id": "r", "time": "2026-01-05T08:00:00Z", "user": "ann", "items": ["chess"]}
    file.write_text(f"no JSON\n{json.dumps(page)}\n")
    said = run_size("--pages-per-second", "1", "--events", str(file))
    assert said.exit_code == 0, said.output
    assert "1 lines can't be read: line 1" in said.output
    assert "has 1 pages" in said.output


def test_long_histories_take_redis_memory_but_not_network() -> None:
    """A profile's reply is its items, however Redis keeps them."""
    load = Load(1_000, 100_000, 100_000)
    plan = plan_for(SPEC, load, Settings())
    assert load.history == 1_000
    assert room(plan, "Redis").memory > 100 * 1_000 * load.users
    assert room(plan, "Redis").out_bytes_s - room(plan, "ranker").in_bytes_s < 30 * 1_000 * load.pages_s


@pytest.mark.parametrize("pages_s", [1_000, 10_000, 100_000])
def test_the_documented_machines_are_those_that_are_planned(pages_s: int) -> None:
    """docs/sizing.md has a row for each rate."""
    spec = msgspec.structs.replace(SPEC, label=msgspec.structs.replace(SPEC.label, window="6h"))
    plan = plan_for(spec, Load(pages_s, 4_320 * pages_s, 100_000), Settings(replication=3))
    cores, memory = sum(one.cores for one in plan.rooms), sum(one.memory for one in plan.rooms)
    processes = " | ".join(str(one.processes) for one in plan.rooms)
    row = f"| {pages_s:,} | {plan.models} | {processes} | {cores:,.0f} | {memory / GB:,.0f} | "
    row += f"{room(plan, 'Kafka').disk / 1e12:,.0f} | {machines(plan, Machine(8, 32 * GB))} |"
    assert row in Path("docs/sizing.md").read_text()
