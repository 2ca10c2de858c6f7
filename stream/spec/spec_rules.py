"""Rules that a spec's types can't express, each with a remedy."""

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Final, NoReturn, assert_never

import msgspec

from stream.spec.columns import (
    ALL_INSTALLS,
    CROSSES_MAX,
    INSTALLS,
    NUMBERS,
    ORGANIC_INSTALLS,
    POSITION,
    Column,
    Statistic,
)
from stream.spec.parts import DELAYS_MAX, WEIGHTS_MAX
from stream.spec.rule_checks import check_rules_table
from stream.spec.spec import ATTRIBUTE, SLICE_BYTES_MAX, SLICES_MAX, Spec
from stream.spec.statistic_kinds import KINDS, kind_of
from stream.spec.suggestions import near
from stream.spec.values import DURATION_DAYS_MAX, UNIT_MS, duration_ms

Reject = Callable[[Sequence[str], str], NoReturn]
PULL_MIN, PULL_MAX = 0.01, 1e6  # of β and λ2 on the bias: its start is exact in float32
FLOAT_MAX: Final = (2 - 2**-23) * 2.0**127  # of float32: models compute in it


def _not_finite(value: Any, path: tuple[str, ...] = ()) -> tuple[str, ...] | None:
    """The path of a number that isn't finite in float32: a spec is published as JSON, which has none."""
    if isinstance(value, dict | list | tuple):
        inner = value.items() if isinstance(value, dict) else ((None, v) for v in value)
        return next((found for k, v in inner if (found := _not_finite(v, (*path, k) if k else path))), None)
    return path if isinstance(value, float) and not abs(value) <= FLOAT_MAX else None


def check_rules(spec: Spec, reject: Reject) -> None:
    """Call `reject` with path and reason at the first rule that is broken."""
    if spec.name.startswith(".") or spec.name.endswith("\n"):
        reject(("name",), "name becomes a folder and a Redis key: letters, digits, . _ -, without a dot in front")
    if not spec.parts or len(set(spec.parts)) != len(spec.parts):
        reject(("parts",), "parts must name wide, deep, or both, once each")
    if path := _not_finite(msgspec.to_builtins(spec)):
        reject(path, f"{'.'.join(path)} must be a finite number, of 3.4e38 at most")
    _check_columns(spec, reject)
    _check_statistics(spec, spec.columns(), reject)
    _check_parts(spec, spec.columns(), reject)
    _check_slices(spec, spec.columns(), reject)
    _check_durations(spec, reject)
    if spec.label.base_log_odds and not PULL_MIN <= spec.wide.bias_pull <= PULL_MAX:
        why = f"the bias starts at label.base_rate if wide.beta / alpha + wide.l2 is {PULL_MIN:g} to {PULL_MAX:g}: "
        reject(("label", "base_rate"), why + f"it is {spec.wide.bias_pull:g} (alpha: bias_alpha, where there's one)")
    _check_delays(spec, reject)
    check_rules_table(spec, lambda name, word, why: reject(("rules", name, word), f"rules.{name}: {why}"))
    if spec.explore.needs_uncertainty and not spec.explored_crosses():
        why = "needs a wide feature or cross of [item] without user.id and history: it knows by these how much was "
        remedy = 'learned of an item; add "item.id" to wide.features, or set kind = "epsilon"'
        reject(("explore", "kind"), f"[explore]: {spec.explore.kind} {why}{remedy}")


def _check_columns(spec: Spec, reject: Reject) -> None:
    columns = spec.columns()
    for name, column in spec.readable_columns().items():
        if column.type == ATTRIBUTE and column != Column(type=ATTRIBUTE):
            reject(name.split(".", 1), f"{name}: only rules read an attribute: leave out bands, serve_as, of and last")
    for name, column in columns.items():
        origin, short = name.split(".", 1)
        path = (origin, short)
        if column.of:
            if column.type or origin != "user" or column.of != "item.id":
                reject(path, f'{name}: a history is a column of [user], of = "item.id", without a type')
        elif column.type is None:
            reject(path, f"{name}: give it a type: category, categories, number or date")
        if column.type == "date" and origin != "item":
            reject(path, f"{name}: a date is a column of [item]; elsewhere give a number, such as days until now")
        if column.bands and (column.type not in NUMBERS or sorted(set(column.bands)) != column.bands):
            reject(path, f"{name}: bands cut a number, at rising values")
        if column.bands and f"{short}_band" in getattr(spec, origin):
            reject((origin, f"{short}_band"), f"{name}_band is the column of {name}'s bands: give one another name")
        if name == POSITION and (column.type != "number" or column.bands):
            reject(path, f"{name} is a number without bands: the item's position on its page, from 1")
        if name == POSITION and column.serve_as is None:
            reject(path, f"{name} isn't known at ranking time: fix its value, such as serve_as = 1")
        if column.serve_as is not None and (origin != "context" or column.type not in ("category", "number")):
            reject(path, f"{name}: serve_as is for categories and numbers of [context], which belong to the request")
        if column.serve_as is not None and isinstance(column.serve_as, str) != (column.type == "category"):
            wanted = 'a text, such as "phone"' if column.type == "category" else "a number, such as 1"
            reject(path, f"{name}: serve_as of a {column.type} is {wanted}")
    if len(histories := [name for name, column in columns.items() if column.of]) > 1:
        reject(
            ("user", histories[1].split(".", 1)[1]), f"one history is enough: {' and '.join(histories)} are the same"
        )
    for needed in ("user.id", "item.id"):
        if columns.get(needed, Column()).type != "category":
            reject(needed.split("."), f'[{needed.split(".")[0]}] needs id = "category"')


def _listed(columns: dict[str, Column]) -> list[str]:
    """Categories and histories."""
    return [n for n, c in columns.items() if c.type in ("category", "categories") or c.of]


def _check_statistics(spec: Spec, columns: dict[str, Column], reject: Reject) -> None:
    keys, suggested = _listed(columns), _listed(columns | spec.built_in_columns())
    for name, stat in spec.statistics.items():
        path = ("statistics", name)
        goes_by = kind_of(stat.kind).goes_by
        match goes_by:
            case "history":
                if stat.by or stat.of != "item.id" or not columns.get(stat.to, Column()).of:
                    why = f'{stat.kind} is of = "item.id" to a history column, such as to = "user.history"'
                    reject(path, f"statistics.{name}: {why}")
            case "fields" | "memory":
                if stat.of in INSTALLS:
                    _check_organic(spec, name, stat, reject)
                elif stat.of or stat.to or not 1 <= len(stat.by) <= 2 or len(set(stat.by)) != len(stat.by):
                    reject(path, f'statistics.{name}: {stat.kind} goes by one field or a pair: by = ["user.id"]')
            case "installs":
                if stat.of != ALL_INSTALLS or stat.to:
                    why = f'{stat.kind} is of = "installs", by = ["user.id", "item.id"]'
                    reject(path, f"statistics.{name}: {why}")
                _check_emitted(spec, name, reject)
            case _:
                assert_never(goes_by)
        for column in stat.by:
            if column not in keys:
                why = f"{column!r} is no category here; {near(column, suggested)}"
                reject((*path, column), f"statistics.{name}: {why}")
            if column in spec.served_columns():
                why = f"{column!r} has serve_as: statistics are of logged values, so they can't go by it"
                reject((*path, column), f"statistics.{name}: {why}")
        if stat.window and (stat.half_life or not kind_of(stat.kind).windowed):
            known = " and ".join(kind for kind, one in KINDS.items() if one.windowed)
            reject((*path, "window"), f"statistics.{name}: a window is for {known}, without half_life")
        late = spec.label.policy != "fake_negative" and stat.of != ORGANIC_INSTALLS
        if stat.window and late and duration_ms(stat.window) <= duration_ms(spec.label.window):
            why = f"a page's negatives are known after {spec.label.window} (label.window): give it a longer window"
            reject((*path, "window"), f"statistics.{name}: {why}")
        if goes_by in ("memory", "installs") and (
            stat.by != ["user.id", "item.id"] or stat.half_life or stat.neighbours > 1_000
        ):
            why = f'{stat.kind} is by = ["user.id", "item.id"], of at most 1,000 neighbours, without half_life'
            reject(path, f"statistics.{name}: {why}")


def _check_organic(spec: Spec, name: str, stat: Statistic, reject: Reject) -> None:
    """Rules of statistics that organic installs move: those have a user, an item and a time, but no label."""
    path = ("statistics", name)
    if not kind_of(stat.kind).organic:
        known = " and ".join(kind for kind, one in KINDS.items() if one.organic)
        why = f'organic installs have no label: of = "{stat.of}" is for {known}'
        reject((*path, "kind"), f"statistics.{name}: {why}, not {stat.kind}")
    if stat.to or not stat.by or len(set(stat.by)) != len(stat.by) or not {"user.id", "item.id"}.issuperset(stat.by):
        why = "an organic install has only a user and an item: by item.id, user.id, or both"
        reject((*path, "by"), f"statistics.{name}: {why}")
    _check_emitted(spec, name, reject)


def _check_emitted(spec: Spec, name: str, reject: Reject) -> None:
    """Rule of statistics that organic installs move: the joiner must emit them to where the learner reads."""
    if "examples" not in spec.label.organic_in:
        why = 'the learner reads organic installs from `examples` only: set organic = "examples" in [label]'
        reject(("statistics", name, "of"), f"statistics.{name}: {why}")


def _check_parts(spec: Spec, columns: dict[str, Column], reject: Reject) -> None:
    keys, suggested = _listed(columns), _listed(columns | spec.built_in_columns())
    if "wide" in spec.parts and not spec.crosses():
        reject(("wide",), "[wide] has neither features nor crosses; name some, or leave wide out of parts")
    if len(spec.crosses()) > CROSSES_MAX:
        reject(("wide", "crosses"), f"[wide]: {len(spec.crosses())} features and crosses are over {CROSSES_MAX}")
    for i, cross in enumerate(spec.crosses(), -len(spec.wide.features)):
        if len(set(cross.of)) != len(cross.of) or not 1 <= len(cross.of) <= 4:
            reject(("wide", "crosses", f"{i}"), f"[wide]: a cross has 1 to 4 different columns, not {cross.of}")
        for column in cross.of:
            if column not in keys:
                why = f"{column!r} is no category here (a number needs bands); {near(column, suggested)}"
                reject(("wide", column), f"[wide]: {why}")
    known = [*columns, *(f"statistics.{s}" for s in spec.statistics)]
    if "deep" in spec.parts and not spec.deep_features():
        reject(("deep",), "[deep] has no features; name some, or leave deep out of parts")
    for name in spec.deep_features():
        if name not in known:
            reject(("deep", name), f"[deep]: {name!r} isn't declared; {near(name, [*known, *spec.built_in_columns()])}")
    if "deep" in spec.parts and (weights := _weights(spec, keys)) > WEIGHTS_MAX:
        why = f"{weights:,} weights are over {WEIGHTS_MAX:,}: fewer hidden_units, features, or a smaller embedding_dim"
        reject(("deep", "hidden_units"), f"[deep]: {why}")
    low, high = spec.publish.gate.calibration
    if low >= high:
        reject(("publish", "gate", "calibration"), "gate.calibration is [low, high]")


def _weights(spec: Spec, keys: list[str]) -> int:
    """The number of weights of the deep part's layers."""
    lists = sum(name in keys for name in spec.deep_features())
    inputs = lists * spec.deep.embedding_dim + 2 * (len(spec.deep_features()) - lists)
    return sum((below + 1) * width for below, width in pairwise([inputs, *spec.deep.hidden_units, 1]))


def _check_slices(spec: Spec, columns: dict[str, Column], reject: Reject) -> None:
    keys, suggested = _listed(columns), _listed(columns | spec.built_in_columns())
    for name, values in spec.slices.items():
        path = ("slices", name)
        if name not in keys:
            reject(path, f"[slices]: {name!r} is no category here; {near(name, suggested)}")
        if not values or "" in values or len(set(values)) != len(values):
            reject(path, f'[slices]: {name} takes values, once each, none empty: {name!r} = ["one", "other"]')
        if long := [v for v in values if len(f"{name}={v}".encode()) > SLICE_BYTES_MAX]:
            reject(path, f"[slices]: {name}={long[0]} is over {SLICE_BYTES_MAX} bytes, too long for a metric's name")
        bands = columns.get(name.removesuffix("_band"), Column()).bands if name.endswith("_band") else []
        if bands and (unknown := [v for v in values if v not in map(str, range(len(bands) + 1))]):
            reject(path, f"[slices]: {name} has the bands 0 (below {bands[0]:g}) to {len(bands)}, not {unknown[0]!r}")
    if (count := sum(map(len, spec.slices.values()))) > SLICES_MAX:
        reject(("slices",), f"[slices]: {count} values are over {SLICES_MAX}: each has metrics of its own")


def _check_delays(spec: Spec, reject: Reject) -> None:
    label, path = spec.label, ("label", "delays")
    if label.policy == "delayed_negative" and not label.delays:
        why = "needs label.delays: quantiles of the time from a page to its installs"
        reject(("label", "policy"), f'delayed_negative {why}, such as delays = ["1s", "10s", "1m", "10m"]')
    elif len(label.delays) > DELAYS_MAX:
        reject(path, f"label.delays has {len(label.delays)} entries, {DELAYS_MAX} at most; as many quantiles suffice")
    elif any(duration_ms(delay) > duration_ms(label.window) for delay in label.delays):
        reject(path, f"label.delays: no install comes after the window ({label.window}); leave longer delays out")


def _check_durations(spec: Spec, reject: Reject) -> None:
    durations: dict[tuple[str, ...], str | None] = {
        ("statistics", n, name): getattr(s, name)
        for n, s in spec.statistics.items()
        for name in ("half_life", "window")
    }
    durations |= {
        ("label", name): getattr(spec.label, name) for name in ("window", "lateness", "known", "early", "skew")
    }
    durations |= {("label", "delays", f"{i}"): delay for i, delay in enumerate(spec.label.delays)}
    durations |= {("wide", "expire"): spec.wide.expire, ("deep", "expire"): spec.deep.expire}
    durations |= {("wide", "half_life"): spec.wide.half_life, ("deep", "half_life"): spec.deep.half_life}
    durations |= {("wide", "crosses", f"{i}"): cross.expire
             for i, cross in enumerate(spec.crosses(), -len(spec.wide.features))}  # fmt: skip
    durations |= {("publish", "every"): spec.publish.every, ("publish", "deep_every"): spec.publish.deep_every}
    durations |= {("retrieval", name): getattr(spec.retrieval, name)
             for name in ("trending_half_life", "popular_half_life")}  # fmt: skip
    durations |= {("retrieval", "kept", "half_life"): spec.retrieval.kept.half_life}
    for path, text in durations.items():
        if text is None:
            continue
        number, unit = re.findall(r"[\d.]+|[a-z]+", text)
        at_least = 0 if path[0] in ("label", "publish") and path != ("label", "window") else 1
        if text.endswith("\n") or not at_least <= float(number) * UNIT_MS[unit] <= DURATION_DAYS_MAX * UNIT_MS["d"]:
            reject(path, f"{'.'.join(path)} is {at_least} ms to a hundred years, such as 2s, 10m, 30d; not {text!r}")
