"""A plan for a person and as flat figures: rooms, tables, machines, what limits."""

import math
from collections.abc import Mapping
from typing import Final, NamedTuple

from msgspec.structs import replace
from rich.console import Group
from rich.table import Table
from rich.text import Text

from stream.events.topics import DAY_MS
from stream.joiner.label_rules import label_rules
from stream.runtime.memory import JOINER_MB_MAX, JOINER_SHARE, MB
from stream.spec.bounds import LEAST, named
from stream.spec.spec import Spec
from thalweg.sizing.costs import PACKED_ITEMS
from thalweg.sizing.load import LENGTH, VALUES, Load
from thalweg.sizing.plan import SizePlan, pages_s_of_learner
from thalweg.text.retention import needed_ms

GB: Final = 1_000_000_000
GIGABIT_S: Final = 125_000_000  # bytes: what one network card sends
SAMPLED: Final = 0.1  # of negatives, as a way out


class Machine(NamedTuple):
    """What one machine has."""

    cores: int
    memory: int


def machines(plan: SizePlan, machine: Machine) -> int:
    """How many, if processes are spread freely, but replicas of Kafka's topics on machines of their own."""
    by_cores = math.ceil(sum(room.cores for room in plan.rooms) / machine.cores)
    return max(plan.replication, by_cores, math.ceil(sum(room.memory for room in plan.rooms) / machine.memory))


def rooms_table(plan: SizePlan, title: str) -> Table:
    """A row a room, and all together."""
    heads = ("", "processes", "cores", "GB each", "GB", "disk, GB", "in, MB/s", "out, MB/s")
    table = Table(title=title, title_justify="left", show_footer=True)
    sums = [
        "all",
        f"{sum(room.processes for room in plan.rooms):,}",
        f"{sum(room.cores for room in plan.rooms):,.1f}",
        "",
        _gb(sum(room.memory for room in plan.rooms)),
        _gb(sum(room.disk for room in plan.rooms)),
    ]
    for head, foot in zip(heads, [*sums, "", ""], strict=True):
        table.add_column(head, foot, justify="right" if head else "left")
    for room in plan.rooms:
        table.add_row(
            room.name, f"{room.processes:,}", f"{room.cores:,.1f}", _gb(room.memory_each), _gb(room.memory),
            _gb(room.disk), f"{room.in_bytes_s / MB:,.1f}", f"{room.out_bytes_s / MB:,.1f}",
        )  # fmt: skip
    return table


def keys_table(plan: SizePlan) -> Table:
    """What the load makes of each table's keys, and the bound that caps them."""
    table = Table("keys and rows", title="tables of a model", title_justify="left")
    for head in ("made", "bound", "kept"):
        table.add_column(head, justify="right")
    for name, keys in plan.keys.items():
        table.add_row(name, f"{keys.made:,}", f"{keys.bound:,}", f"{keys.kept:,}")
    return table


def findings(spec: Spec, load: Load, plan: SizePlan, machine: Machine) -> list[str]:
    """What limits, what is assumed, and what to do about it."""
    sampled = replace(spec, label=replace(spec.label, sample_negatives=SAMPLED))
    way_out = pages_s_of_learner(sampled, load)
    of = {room.name: room for room in plan.rooms}
    found = [
        f"one learner learns a model, here {plan.learner_pages_s:,.0f} pages/s at half of a core "
        f"({plan.example_us:.1f} µs an example); {way_out:,.0f} with label.sample_negatives = {SAMPLED}"
    ]
    if plan.models > 1:
        found.append(
            f"{load.pages_s:,.0f} pages/s are more than {_limit(load, plan)}: the rooms are those of {plan.models} "
            "models, each of a part of the users (by country, say), with a Redis and a THALWEG_TOPIC_PREFIX of its own"
        )
    found += [
        f"{name}: {keys.made:,} keys come up in {load.days:g} days, of which the {keys.bound:,} last seen are kept"
        for name, keys in plan.keys.items()
        if keys.made > keys.bound
    ]
    if of["Redis"].out_bytes_s > GIGABIT_S * plan.models:
        found.append(
            "versions to rankers are more than a gigabit a second from one Redis: fewer crosses with lists touch fewer "
            "keys; publishing less often (publish.every) helps as far as the same keys come again"
        )
    if load.history > PACKED_ITEMS:
        found.append(
            f"histories of {load.history:,.0f} items: Redis packs up to {PACKED_ITEMS}, and longer ones take "
            "four times as much; raise its zset-max-listpack-entries to 1024"
        )
    unnamed = {name: keys for name, keys in plan.keys.items() if name not in named(spec) and keys.kept < keys.bound}
    if unnamed:
        names = ", ".join(f"{name} = {max(LEAST, keys.kept):_}" for name, keys in unnamed.items())
        found.append(f"memory is counted for these bounds, not for defaults, of which rooms warn: name {names}")
    joiner_mb = math.floor(of["joiner"].memory_each * JOINER_SHARE / MB)
    if joiner_mb > JOINER_MB_MAX:
        found.append(f"a joiner takes more than by default: set THALWEG_JOINER_MEMORY_MB={joiner_mb}")
    if needed_ms(label_rules(spec)) >= (plan.events_days - 1) * DAY_MS:
        found.append(
            f"joiners need pages for {plan.events_days} days by label.window: set THALWEG_EVENTS_DAYS so, at least"
        )
    found += [
        f"a process of {room.name} takes {_gb(room.memory_each)} GB, and a machine has {machine.memory // GB}: take a "
        f"larger one for it{', or more joiners' if room.name == 'joiner' else ''}"
        for room in plan.rooms
        if room.memory_each > machine.memory
    ]
    if unknown := load.unknown(spec):
        found.append(
            f"assumed: {VALUES} values each of {', '.join(unknown)} (--values COLUMN=N, or --events FILE counts them), "
            f"and {LENGTH:g} in a list"
        )
    return found


def _limit(load: Load, plan: SizePlan) -> str:
    if plan.models > math.ceil(load.pages_s / plan.learner_pages_s):
        return "one Redis serves by half of its one thread, versions to each ranker most of all"
    return "that; or sample negatives, or make the tower smaller"


def report(spec: Spec, load: Load, plan: SizePlan, machine: Machine) -> Group:
    """Tables and findings."""
    title = (
        f"{spec.name}: {load.pages_s:,.0f} pages/s of {load.page_items} items, {load.users:,} users, "
        f"{load.items:,} items, {100 * load.installs_share:g} % of shown items installed"
    )
    summary = (
        f"{machines(plan, machine)} machines of {machine.cores} cores and {machine.memory // GB} GB; "
        f"THALWEG_PARTITIONS={plan.partitions}; {plan.open_pages:,} open pages; a page is "
        f"{plan.event_bytes:,.0f} bytes in `events`; a request takes {plan.request_us / 1_000:.2f} ms of a core"
    )
    lines = [summary, *findings(spec, load, plan, machine)]
    return Group(rooms_table(plan, title), keys_table(plan), *(Text(f"* {line}") for line in lines))


def figures(load: Load, plan: SizePlan, machine: Machine) -> Mapping[str, float]:
    """For `--json`."""
    found: dict[str, float] = {
        "pages_s": load.pages_s, "users": load.users, "items": load.items, "machines": machines(plan, machine),
        "models": plan.models, "partitions": plan.partitions, "learner_pages_s": plan.learner_pages_s,
        "example_us": plan.example_us, "request_us": plan.request_us, "event_bytes": plan.event_bytes,
        "open_pages": plan.open_pages,
    }  # fmt: skip
    for room in plan.rooms:
        for name in ("processes", "cores", "memory", "memory_each", "disk", "in_bytes_s", "out_bytes_s"):
            found[f"{room.name.lower()}_{name}"] = getattr(room, name)
    for name, keys in plan.keys.items():
        found |= {f"{name}_made": keys.made, f"{name}_kept": keys.kept}
    return found


def _gb(size: int) -> str:
    """Rounded up: less may be refused."""
    return f"{math.ceil(10 * size / GB) / 10:,.1f}"
