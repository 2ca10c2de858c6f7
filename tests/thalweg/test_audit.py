"""The audit finds what is missing or wrong, and nothing else. It shares no code with the joiner."""

import ast
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from stream.errors import DataError
from stream.events import Examples, Impression, Install, SourceEvent, Tick, encode_record, example_id
from stream.join import LabelRules, label_rules
from stream.log import Record
from stream.spec import Policy, Spec, duration_ms
from stream.spec_file import load_spec
from stream.topics import EVENTS, EXAMPLES
from stream.turn import ShellRules
from tests.stream.join_oracle import Net, offline
from tests.thalweg.streams import RULES, Stream, T, mixed
from thalweg import audit as audit_module
from thalweg import offline as offline_module
from thalweg import rules as rules_module
from thalweg.audit import FAULTS, Audit, Progress, audit, flat, progress_of
from thalweg.offline import Events, expected
from thalweg.options import SPEC
from thalweg.rules import AuditRules, audit_rules

END = T + 1_000_000


def as_audited(rules: LabelRules) -> AuditRules:
    """The same rules in the audit's words."""
    return AuditRules(rules.policy, rules.window_ms, rules.lateness_ms, rules.known_ms, rules.early_ms)


def played(
    seed: int, rules: LabelRules = RULES, **spoiled: Callable[[Sequence[Examples]], Sequence[Examples]]
) -> Stream:
    """A stream of all kinds of events, joined to its end."""
    stream = Stream(rules, now_ms=END)
    for group in mixed(seed, 60):
        stream.send(*(event for event in group if not isinstance(event, Tick)))
    stream.tick(END)
    stream.join(**spoiled)
    return stream


def of(stream: Stream, progress: dict[int, Progress] | None = None, since_ms: int | None = None) -> Audit:
    """Its audit."""
    return audit(stream.log, as_audited(stream.rules), progress, since_ms)


@pytest.mark.parametrize("seed", range(80))
def test_the_offline_join_is_right(seed: int) -> None:
    """Sorted and joined with Polars, the labels are those of the definition, applied by brute force."""
    rules = replace(RULES, lateness_ms=(0, 30, 200)[seed % 3])
    log: list[SourceEvent] = [event for group in mixed(seed, 40) for event in group]
    log.append(Tick(END))
    events = Events(as_audited(rules))
    events.take(Record(EVENTS.name, 0, k, END, None, encode_record([event])) for k, event in enumerate(log))
    labels = expected(events).labels
    net: Net = {(r, p): label for r, p, label in labels.select("request_id", "position", "label").iter_rows()}
    assert net == offline(log, rules)
    assert sum(net.values()) > 0


@pytest.mark.parametrize("policy", ["wait", "eager", "fake_negative"])
def test_installs_that_wait_only_so_long_are_right(policy: Policy) -> None:
    """With a limit on how long an install waits for its page, joiner and audit agree too; and it makes a difference."""
    positives = 0
    for seed in range(12):
        limited = of(played(seed, replace(RULES, policy=policy, early_ms=60)))
        assert limited.differences == []
        positives += of(played(seed, replace(RULES, policy=policy))).figures["positives"] - limited.figures["positives"]
    assert positives != 0


@pytest.mark.parametrize("policy", ["wait", "eager", "fake_negative"])
def test_a_right_join_is_fine(policy: Policy) -> None:
    """Of each policy's examples none is missing, surplus or wrong; what was late or repeated is counted."""
    late = 0
    for seed in range(12):
        found = of(played(seed, replace(RULES, policy=policy)))
        assert found.differences == []
        assert found.fine
        assert found.figures["settled"] == found.figures["labels"] > 100
        late += found.figures["late"]
        assert found.figures["pending"] == found.figures["behind"] == 0
    assert late > 0


def only(change: Callable[[Examples], list[Examples]]) -> Callable[[Sequence[Examples]], Sequence[Examples]]:
    """Apply a change to the first examples that are told, and to no others."""
    done: list[bool] = []

    def spoil(said: Sequence[Examples]) -> Sequence[Examples]:
        if not said or done:
            return said
        done.append(True)
        return [*change(said[0]), *said[1:]]

    return spoil


def other_ids(said: Examples) -> Examples:
    """The same rows as if another install had caused them."""
    ids = [example_id(said.page.request_id, p, r, "other") for p, r in zip(said.positions, said.reasons, strict=True)]
    return msgspec.structs.replace(said, ids=ids)


SABOTAGE: dict[str, Callable[[Examples], list[Examples]]] = {
    "missing": lambda said: [],
    "surplus": lambda said: [
        said,
        other_ids(msgspec.structs.replace(said, page=msgspec.structs.replace(said.page, request_id="never shown"))),
    ],
    "wrong": lambda said: [msgspec.structs.replace(said, labels=[1 - label for label in said.labels])],
    "told_twice": lambda said: [said, other_ids(said)],
    "misnamed": lambda said: [msgspec.structs.replace(said, reasons=[3 - r for r in said.reasons])],
    "altered": lambda said: [msgspec.structs.replace(said, page=msgspec.structs.replace(said.page, features=b"x"))],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found(fault: str) -> None:
    """A joiner that does one thing wrong is told so, with the page's request id."""
    stream = Stream(now_ms=END)
    stream.send(Impression("r1", T, "u", ["a", "b"]), Impression("r2", T, "v", ["a"]))
    stream.tick(END)
    stream.join(spoil=only(SABOTAGE[fault]))
    found = of(stream)
    assert not found.fine
    assert found.figures[fault] > 0
    one = next(one for one in found.differences if one.fault == fault)
    assert one.request_id in ("r1", "r2", "never shown")
    unrelated = {"missing", "surplus", "told_twice", "altered"} - {fault}
    assert {name: found.figures[name] for name in unrelated} == dict.fromkeys(unrelated, 0)


def test_an_example_that_comes_again_is_a_duplicate_and_no_fault() -> None:
    """What a killed joiner tells again has the same id: it is counted, and changes nothing."""
    found = of(played(3, spoil=lambda said: [*said, *said]))
    assert found.fine
    assert found.figures["duplicates"] * 2 == found.figures["told"] > 0


def test_what_the_joiner_is_not_finished_with_is_pending() -> None:
    """Labels of pages whose window or correction is open are pending; behind, where only the joiner isn't there yet."""
    stream = Stream(now_ms=T + 10_000)
    stream.send(Impression("old", T, "u", ["a", "b"]))
    stream.send(Impression("new", T + 5_000, "u", ["a"]))
    partition = next(p for p, end in stream.log.ends(EVENTS.name).items() if end)
    unread = of(stream, {0: Progress(), 1: Progress()})
    assert unread.fine
    assert {name: unread.figures[name] for name in ("settled", "pending", "behind")} == {
        "settled": 0, "pending": 1, "behind": 2,
    }  # fmt: skip
    lost = of(stream, {partition: Progress(T + 4_000)})
    assert lost.figures["missing"] == 2
    stream.join()
    assert of(stream, {partition: Progress(T + 4_000)}).fine


def test_a_retraction_counts_while_its_page_is_known() -> None:
    """Told as positive and taken back: a joiner that keeps the positive is wrong."""
    stream = Stream(now_ms=END)
    stream.send(Impression("r", T, "u", ["a"]), Install("u", "a", T + 10, "i"))
    stream.send(Install("u", "a", T + 20, "i", retracted=True))
    stream.tick(END)
    stream.join(spoil=lambda said: [one for one in said if one.labels != [0]])
    found = of(stream)
    assert (found.figures["wrong"], found.figures["missing"]) == (1, 0)
    assert found.differences[0].expected.startswith("label 0")


def test_since_judges_the_newest_only() -> None:
    """Pages appended before are read for what they mean to later ones, and are not judged."""
    stream = Stream(now_ms=T)
    stream.send(Impression("lost", T, "u", ["a"]))
    stream.join(spoil=lambda said: [])
    stream.now_ms = T + 3_600_000
    stream.send(Impression("later", stream.now_ms, "u", ["a"]))
    stream.tick(stream.now_ms + 10_000)
    stream.join(spoil=lambda said: [one for one in said if one.page.request_id != "lost"])
    assert of(stream).figures["missing"] == 1
    recent = of(stream, since_ms=T + 1_800_000)
    assert recent.fine
    assert recent.figures["labels"] == 1


def test_what_retention_has_taken_is_not_missing() -> None:
    """Where the beginning of a topic is gone, only pages are judged whose whole life is still there."""
    stream = Stream(now_ms=T)
    for k in range(40):
        stream.now_ms = T + 20_000 * k
        stream.send(Impression(f"r{k}", stream.now_ms, "u", ["a"]))
        stream.join()
    stream.tick(stream.now_ms + 10_000)
    stream.join()
    (partition,) = [p for p, end in stream.log.ends(EVENTS.name).items() if end > 10]
    stream.log.truncate(EVENTS.name, partition, 5)
    stream.log.truncate(EXAMPLES.name, 0, 3)
    found = of(stream)
    assert found.fine
    assert 0 < found.figures["labels"] < 36


def test_what_was_closed_early_is_said_and_not_judged() -> None:
    """Up to the floor that full memory has raised, a label that isn't as it should be is counted apart."""
    stream = Stream(now_ms=END)
    stream.send(Impression("full", T, "u", ["a"]), Install("u", "a", T + 300, "i"))
    stream.send(Impression("right", T, "v", ["a"]))
    stream.tick(END)
    stream.join(spoil=lambda said: [one for one in said if one.page.request_id != "full"])
    partitions = stream.log.ends(EVENTS.name)
    assert of(stream, dict.fromkeys(partitions, Progress(END))).figures["missing"] == 1
    found = of(stream, dict.fromkeys(partitions, Progress(END, floor_ms=T)))
    assert found.fine
    assert (found.figures["shed"], found.figures["settled"]) == (1, 1)


def test_without_a_page_there_is_nothing_to_judge() -> None:
    """An empty stretch is said, not called fine."""
    with pytest.raises(DataError, match="--since"):
        of(Stream())


def test_bad_events_and_those_from_the_future_count_for_nothing() -> None:
    """They are the dead letters' business: no label is expected of them, and no watermark is moved by them."""
    stream = Stream(now_ms=T)
    stream.send(Impression("r", T, "u", ["a"]))
    partition = next(p for p, end in stream.log.ends(EVENTS.name).items() if end)
    stream.log.send(EVENTS.name, partition, b"\xc1")
    stream.log.send(EVENTS.name, partition, encode_record([Tick(T + 100_000)]))
    stream.send(Install("u", "a", T + 10, "i"))
    stream.tick(T + 50_000)
    stream.join()
    found = of(stream)
    assert found.fine
    assert (found.figures["bad_events"], found.figures["future_events"], found.figures["positives"]) == (1, 1, 1)


def test_the_joiner_says_up_to_where_it_is_finished() -> None:
    """Its commits' metadata is read; a commit that a tool has moved says nothing."""
    ours = '{"watermark_ms": 5, "finished_ms": 3}'
    assert progress_of({0: (7, ours), 1: (7, ""), 2: (7, "moved"), 3: (1, "[1]")}) == {
        0: Progress(3), 1: Progress(), 2: Progress(), 3: Progress(),
    }  # fmt: skip


def test_the_rules_are_the_joiners() -> None:
    """Written down twice, equal: window, lateness, how long a page can be corrected, what is too far ahead."""
    for spec in (load_spec(SPEC), load_spec(SPEC.with_name("store.toml")), Spec("x")):
        rules = label_rules(spec)
        assert audit_rules(spec) == replace(as_audited(rules), ahead_ms=ShellRules().ahead_ms_max)
        assert audit_rules(spec).window_ms == duration_ms(spec.label.window)


def test_the_audit_is_independent() -> None:
    """Neither the audit nor its offline join imports anything of the joiner."""
    for module in (audit_module, offline_module, rules_module):
        tree = ast.parse(Path(str(module.__file__)).read_text())
        named = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        named |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert named
        assert not {name for name in named if name.split(".")[0] == "stream"} & {
            "stream.join", "stream.app", "stream.routing", "stream.meters", "stream",
        }  # fmt: skip
        assert not any(name.startswith("stream.join") for name in named)


def test_the_report_is_flat() -> None:
    """One JSON object of figures, with the rules they were judged by."""
    report = flat(of(played(1)))
    assert all(value is None or isinstance(value, int | str) for value in report.values())
    assert {"missing", "wrong", "surplus", "rule_policy", "pending", "duplicates"} <= set(report)
