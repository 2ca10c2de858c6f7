"""Reads and validates spec files and published specs; errors name line and remedy."""

import re
import tomllib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NoReturn, get_args

import msgspec

from stream.runtime.errors import SpecError
from stream.spec.columns import Column, Cross, PageTime, Statistic
from stream.spec.explore import Explore, ExploreKind
from stream.spec.parts import Deep, Gate, Label, OrganicTo, Policy, Publish, WarmStart, Wide
from stream.spec.retrieval import Retrieval
from stream.spec.retrieval_rules import check_retrieval
from stream.spec.rule_checks import type_error
from stream.spec.rules import AnyRule
from stream.spec.spec import Spec
from stream.spec.spec_rules import check_rules
from stream.spec.statistic_kinds import Measure
from stream.spec.suggestions import near
from stream.spec.values import ColumnType, PartName


def load_spec(path: Path, base: Spec | None = None) -> Spec:
    """The spec in a TOML file; tables that it lacks are those of `base`. Raises SpecError naming line and remedy."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        remedy = "name a file that is there" if base else "name a spec with --spec, such as specs/movielens.toml"
        raise SpecError(f"{path} can't be read: {error.strerror}; {remedy}") from None
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: not UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8") from None
    return parse_spec(text, str(path), base)


def parse_spec(text: str, source: str = "spec", base: Spec | None = None) -> Spec:
    """As `load_spec`, of a TOML text; `source` names it in errors."""
    try:
        raw = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise SpecError(f"{source}: not TOML: {error}") from None
    return checked_spec({**msgspec.to_builtins(base), **raw} if base else raw, source, text)


def checked_spec(raw: dict[str, Any], source: str, text: str = "") -> Spec:
    """The spec of plain values; `source` names it in errors, `text` is their TOML. Raises SpecError."""
    try:
        spec = msgspec.convert(raw, Spec)
    except msgspec.ValidationError as error:
        raise SpecError(_explain(str(error), raw, text, source)) from None
    _check(spec, text, source)
    return spec


def decode_spec(raw: bytes) -> Spec:
    """A spec from its bytes in manifests. Raises SpecError."""
    try:
        spec = msgspec.json.decode(raw, type=Spec)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise SpecError(f"a published spec can't be read: {error}") from None
    _check(spec, "", "published spec")
    return spec


def encode_spec(spec: Spec) -> bytes:
    """A spec's bytes in manifests."""
    return msgspec.json.encode(spec)


def json_schema() -> dict[str, Any]:
    """JSON schema of a spec file, for editors."""
    return msgspec.json.schema(Spec)


def _check(spec: Spec, text: str, source: str) -> None:
    """Raises SpecError, with its line in `text`, when a rule that types can't express is broken."""

    def reject(path: Sequence[str], why: str) -> NoReturn:
        raise SpecError(f"{source}{_line_of(path, text)}: {why}")

    check_rules(spec, reject)
    check_retrieval(spec, reject)


def _line_of(path: Sequence[str], text: str) -> str:
    """` (line 12)`: the line of the last of these names, inside the table that the others name; else nothing.

    A number after `crosses` is the index of a cross.
    """
    lines = [line.split("#")[0] for line in text.splitlines()]
    heads = {i: found.group(1) for i, line in enumerate(lines) if (found := re.fullmatch(r"\s*\[([\w.-]+)\]\s*", line))}
    for k in range(len(path), -1, -1):
        first = next((i for i, name in heads.items() if name == ".".join(path[:k])), 0 if k == 0 else None)
        if first is not None:
            break
    assert first is not None, "the top level is always there"
    last = next((i for i in heads if i > first or (i == first and k == 0)), len(lines))
    line = first if k else None
    for before, word in pairwise(["", *path[k:]]):
        if before == "crosses" and word.isdigit():
            line = _entry_line(lines, line, int(word)) if line is not None else line
            continue
        named = re.compile(rf"(?<![\w.]){re.escape(word)}(?!\w)")
        line = next((i for i in range(line or first, last) if named.search(lines[i])), line)
    return "" if line is None else f" (line {line + 1})"


def _entry_line(lines: list[str], first: int, index: int) -> int:
    """The line where this entry of the list that begins on line `first` ends; `first` when it isn't found."""
    for last in range(first, len(lines)):
        for end in ("", "]"):
            try:
                parsed = tomllib.loads("\n".join(lines[first : last + 1]) + end)
            except tomllib.TOMLDecodeError:
                continue
            if isinstance(entries := next(iter(parsed.values()), None), list) and len(entries) > index:
                return last
    return first


_TABLES: Final = {
    "wide": Wide,
    "deep": Deep,
    "label": Label,
    "publish": Publish,
    "page": PageTime,
    "warm_start": WarmStart,
    "gate": Gate,
    "retrieval": Retrieval,
    "explore": Explore,
    "statistics": Statistic,
    "user": Column,
    "item": Column,
    "context": Column,
    "crosses": Cross,
}


_COLUMN: Final[Any] = ColumnType | Column
_ENTRIES: Final = {
    "user": _COLUMN,
    "item": _COLUMN,
    "context": _COLUMN,
    "statistics": Statistic,
    "slices": list[str],
    "rules": AnyRule,
}
_EXPECTED: Final = {
    "`object | array`": 'a cross is a list of columns, such as ["user.id", "item.id"], or a table with it as `of`',
    "`str | object`": 'a column is "category", "categories", "number" or "date", or a table with that as `type`',
    "`bool | str`": 'it is true or false, or where they are emitted: "topic" or "examples"',
}
_CHOICES: Final = {"kind": get_args(Measure), "parts": get_args(PartName), "policy": get_args(Policy),
                   "organic": get_args(OrganicTo), "explore.kind": get_args(ExploreKind)}  # fmt: skip


def _explain(message: str, raw: dict[str, Any], text: str, source: str) -> str:
    """msgspec's message with line and remedy."""
    found = re.search(r" - at `\$\.?(.*)`$", message)
    words = re.findall(r"[A-Za-z_]\w*|\.\.\.|(?<=crosses\[)\d+", found.group(1)) if found else []
    what = message[: found.start()] if found else message
    path = [_entry(words[0], raw) if word == "..." else word for word in words]
    if words[:2] == ["rules", "..."]:
        name = path[1]
        word, why = type_error(raw["rules"][name])
        return f"{source}{_line_of(['rules', name, word], text)}: rules.{name}: {why}"
    at = re.sub(r"(crosses)\.\d+", r"\1", ".".join(path))
    if unknown := re.fullmatch(r"Object contains unknown field `(.+)`", what):
        key = unknown.group(1)
        holder = next((_TABLES[word] for word in reversed(words) if word in _TABLES), Spec)
        why = f"unknown key {key!r} {f'in [{at}]' if at else 'at the top level'}; "
        return f"{source}{_line_of([*path, key], text)}: {why}{near(key, list(holder.__struct_fields__))}"
    if value := re.fullmatch(r"Invalid enum value '(.*)'", what):
        choices = list(_CHOICES.get(at) or _CHOICES.get(words[-1], get_args(ColumnType)))
        why = f"{at} can't be {value.group(1)!r}; {near(value.group(1), choices)}"
        return f"{source}{_line_of([*path, value.group(1)], text)}: {why}"
    if "matching regex" in what:
        patterns = {"name": "letters, digits, . _ -, at most 64", "page.utc_offset": "an offset, such as +02:00"}
        what = patterns.get(at, "a duration, such as 250ms, 2s, 10m, 1h, 30d")
        what = f"Expected {what}"
    if either := re.match("Expected (`.*?`), got", what):
        what = _EXPECTED.get(either.group(1), what)
    return f"{source}{_line_of(path, text)}: {f'{at}: ' if at else ''}{what}"


def _entry(table: str, raw: dict[str, Any]) -> str:
    """The name of the table's first invalid entry: msgspec's message says `...`."""
    for name, value in raw[table].items():
        try:
            msgspec.convert(value, _ENTRIES[table])
        except msgspec.ValidationError:
            return str(name)
    return "..."
