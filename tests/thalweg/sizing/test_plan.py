"""What a plan says of a load."""

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from producers.source import SourceElement
from stream.events.types import Impression, Item
from stream.runtime.settings import Settings
from stream.spec.spec_file import load_spec
from thalweg.cli.main import app
from thalweg.sizing.keys import bounded, keys_of, possible_of
from thalweg.sizing.load import Load
from thalweg.sizing.observed import observe
from thalweg.sizing.plan import Plan, Room, pages_s_of_learner, plan_for
from thalweg.sizing.report import GB, Machine, findings, machines

STORE = Path("specs/store.toml")
SPEC = load_spec(STORE)
LOAD = Load(1_000, 4_000_000, 50_000)


def room(plan: Plan, name: str) -> Room:
    """The room of this name."""
    return next(one for one in plan.rooms if one.name == name)


@pytest.mark.parametrize("file", sorted(Path("specs").glob("*.toml")), ids=lambda file: file.stem)
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
    fitting = bounded(SPEC, keys)
    assert fitting.wide.max_keys == SPEC.wide.max_keys
    assert fitting.deep.max_rows == keys["deep.max_rows"].made
    assert fitting.retrieval.kept.max_items == SPEC.retrieval.kept.max_items


def test_columns_of_one_user_have_no_more_combinations_than_users() -> None:
    """A user has one country: user and country together are as many as users; those of user and item multiply."""
    assert possible_of(SPEC, LOAD, ["user.id", "user.country"]) == LOAD.users
    assert possible_of(SPEC, LOAD, ["user.id", "item.category"]) == LOAD.users * 100
    assert possible_of(SPEC, LOAD, ["user.age_band", "context.hour"]) == 5 * 100


def test_more_than_one_learner_can_learn_needs_more_models() -> None:
    """Where a learner is too slow, the users are split, and the plan says so; sampled negatives raise the limit."""
    most = pages_s_of_learner(SPEC, LOAD)
    fits, split = (
        plan_for(SPEC, replace(LOAD, pages_s=share * most), Settings()) for share in (0.9, 2.5)
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
    """THALWEG_REPLICATION = 3 is three brokers, each with everything; so is none that is set."""
    one, three, unset = (room(plan_for(SPEC, LOAD, Settings(replication=n)), "Kafka") for n in (1, 3, 0))
    assert (one.processes, three.processes) == (1, 3)
    assert three.disk == pytest.approx(3 * one.disk)
    assert three == unset
    assert one.disk > 0


def test_the_disk_of_kafka_grows_with_retention() -> None:
    """THALWEG_EVENTS_DAYS and THALWEG_EXAMPLES_DAYS."""
    week, both, year = (
        room(plan_for(SPEC, LOAD, Settings(events_days=events, examples_days=examples)), "Kafka").disk
        for events, examples in ((7, 7), (14, 14), (7, 365))
    )
    assert both == pytest.approx(2 * week)
    assert year > 20 * week


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
    assert "first limit" in said.output


def test_values_that_are_no_numbers_are_refused(local: Path) -> None:
    """With one line that says how to write them."""
    said = CliRunner().invoke(
        app, ["size", "--spec", str(STORE), "--pages-per-second", "1", "--values", "item.category"]
    )
    assert said.exit_code == 1
    assert "COLUMN=N" in said.output
