"""The audit finds what is missing or wrong, and nothing else. It shares no code with the joiner."""

import ast
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from learner.training.dedup import RecentIds
from stream.events.codec import encode_record, example_id
from stream.events.topics import EVENTS, EXAMPLES
from stream.events.types import INSTALLED, RETRACTION, WINDOW_CLOSED, Examples, Impression, Install, Organic, Tick
from stream.joiner.label_rules import LabelRules, label_rules
from stream.joiner.record_processor import JoinerOptions
from stream.log.kafka_admin import apply_topics, plan_topics
from stream.log.kafka_log import KafkaLog
from stream.log.protocol import partition_of
from stream.runtime.errors import DataError
from stream.runtime.settings import Settings
from stream.spec.parts import Label, Policy
from stream.spec.spec import Spec
from stream.spec.spec_file import load_spec
from stream.spec.values import duration_ms
from tests.support.generated_log import GeneratedLog
from tests.support.join_oracle import as_audited
from tests.support.joined_streams import RULES, Stream, T, mixed
from tests.support.organic_faults import SABOTAGE as SABOTAGE_IN_EXAMPLES
from thalweg.audit import offline_join, spill
from thalweg.audit.audit import audit, joiner_progress
from thalweg.audit.duplicates import DuplicateIds, EmissionRef
from thalweg.audit.emitted import Emitted
from thalweg.audit.findings import FAULTS, AuditReport, JoinerProgress, flat
from thalweg.audit.rules import audit_rules
from thalweg.audit.spill import bucket_of
from thalweg.cli.main import app
from thalweg.cli.options import SPEC
from thalweg.stack.stack import Stack

END = T + 1_000_000


def played(
    seed: int,
    rules: LabelRules = RULES,
    spoil: Callable[[Sequence[Examples]], Sequence[Examples]] = lambda said: said,
    spoil_organic: Callable[[Sequence[Organic]], Sequence[Organic]] = lambda emitted: emitted,
) -> Stream:
    """A stream of all kinds of events, joined to its end."""
    stream = Stream(rules, now_ms=END)
    for group in mixed(seed, 60):
        stream.send(*(event for event in group if not isinstance(event, Tick)))
    stream.tick(END)
    stream.join(spoil, spoil_organic)
    return stream


def of(stream: Stream, progress: dict[int, JoinerProgress] | None = None, since_ms: int | None = None) -> AuditReport:
    """Its audit."""
    return audit(stream.log, as_audited(stream.rules), progress, since_ms)


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
        assert found.is_clean
        assert found.figures["settled"] == found.figures["labels"] > 100
        late += found.figures["late"]
        assert found.figures["pending"] == found.figures["behind"] == 0
    assert late > 0


def only(change: Callable[[Examples], list[Examples]]) -> Callable[[Sequence[Examples]], Sequence[Examples]]:
    """Apply a change to the first examples that are emitted, and to no others."""
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
    "emitted_twice": lambda said: [said, other_ids(said)],
    "misnamed": lambda said: [msgspec.structs.replace(said, reasons=[3 - r for r in said.reasons])],
    "altered": lambda said: [msgspec.structs.replace(said, page=msgspec.structs.replace(said.page, features=b"x"))],
    "unfounded": lambda said: [msgspec.structs.replace(said, ids=[id_ + 1 for id_ in said.ids])],
    "weighed": lambda said: [msgspec.structs.replace(said, weights=[0.5] * len(said.ids))],
}


def test_every_fault_is_tried() -> None:
    """Each that an audit looks for has a joiner here that commits it."""
    tried = {*SABOTAGE, *SABOTAGE_ORGANIC, *SABOTAGE_IN_EXAMPLES, "bad_examples", "learned_twice"}
    assert tried == set(FAULTS)


@pytest.mark.parametrize("fault", SABOTAGE)
def test_each_fault_is_found(fault: str) -> None:
    """A joiner's single fault is found, with the page's request id."""
    stream = Stream(now_ms=END)
    stream.send(Impression("r1", T, "u", ["a", "b"]), Impression("r2", T, "v", ["a"]))
    stream.tick(END)
    stream.join(spoil=only(SABOTAGE[fault]))
    found = of(stream)
    assert not found.is_clean
    assert found.figures[fault] > 0
    one = next(one for one in found.differences if one.fault == fault)
    assert one.request_id in ("r1", "r2", "never shown")
    unrelated = {"missing", "surplus", "emitted_twice", "altered"} - {fault}
    assert {name: found.figures[name] for name in unrelated} == dict.fromkeys(unrelated, 0)


def test_examples_that_cannot_be_read_are_a_fault() -> None:
    """With their offset: a learner makes them dead letters, and nothing else reports them."""
    stream = played(3)
    stream.log.send(EXAMPLES.name, 0, b"\xc1")
    found = of(stream)
    assert (found.is_clean, found.figures["bad_examples"]) == (False, 1)
    (one,) = found.differences
    assert f"in {EXAMPLES.name} 0:{stream.log.ends(EXAMPLES.name)[0] - 1}: " in one.text
    assert one.about == "a record"


def test_a_correction_that_is_emitted_again_is_a_fault() -> None:
    """Under another id: whoever sums up corrects twice. Nothing may be corrected that wasn't emitted, either."""

    def twice(said: Sequence[Examples]) -> Sequence[Examples]:
        back = [one for one in said if one.reasons == [RETRACTION]]
        return [*said, *(msgspec.structs.replace(one, ids=[example_id("r", 0, RETRACTION, "j")]) for one in back)]

    def first(said: Sequence[Examples]) -> Sequence[Examples]:
        return [one for one in said if one.reasons == [RETRACTION]]

    for spoil, fault in ((twice, "emitted_twice"), (first, "misnamed")):
        stream = Stream(now_ms=END)
        stream.send(Impression("r", T, "u", ["a"]), Install("u", "a", T + 10, "i"), Install("u", "a", T - 9, "j"))
        stream.send(Install("u", "a", T + 20, "i", retracted=True))
        stream.tick(END)
        stream.join(spoil=spoil)
        assert {one.fault for one in of(stream).differences} == {fault}


SABOTAGE_ORGANIC: dict[str, Callable[[Sequence[Organic]], Sequence[Organic]]] = {
    "organic_missing": lambda emitted: emitted[1:],
    "organic_surplus": lambda emitted: [
        *emitted,
        *(msgspec.structs.replace(one, install_id="claimed") for one in emitted),
    ],
}


@pytest.mark.parametrize("fault", SABOTAGE_ORGANIC)
def test_a_fault_with_organic_installs_is_found_where_they_are_wanted(fault: str) -> None:
    """One that isn't emitted, or one that a page has claimed, is named; without the rule nothing is judged."""
    for rules in (replace(RULES, organic=True), RULES):
        right, wrong = played(1, rules), played(1, rules, spoil_organic=SABOTAGE_ORGANIC[fault])
        assert of(right).is_clean
        found = of(wrong)
        assert found.is_clean == (not rules.organic)
        if rules.organic:
            assert of(right).figures["organic"] == of(right).figures["organic_emitted"] > 0
            assert {one.fault for one in found.differences} == {fault}
            assert all("install " in one.about for one in found.differences)


def test_organic_installs_are_judged_from_when_they_are_emitted() -> None:
    """Not those that the joiner hasn't finished with, nor those within a window after it was switched on."""
    stream = Stream(replace(RULES, organic=True), now_ms=END)
    stream.send(Impression("r", T, "u", ["a"]), Install("u", "b", T, "i"))
    stream.tick(END)
    partitions = stream.log.ends(EVENTS.name)
    for progress, missing in (
        (JoinerProgress(END, unsure_ms=T - RULES.window_ms), 1),
        (JoinerProgress(END, unsure_ms=T - RULES.window_ms + 1), 0),
        (JoinerProgress(T - 1, unsure_ms=0), 0),
        (JoinerProgress(END), 0),
    ):
        assert of(stream, dict.fromkeys(partitions, progress)).figures["organic_missing"] == missing
    stream.join()
    assert of(stream, dict.fromkeys(partitions, JoinerProgress(END, unsure_ms=0))).figures["organic_missing"] == 0


def test_an_example_that_comes_again_is_a_duplicate_and_no_fault() -> None:
    """What a killed joiner emits again has the same id: it is counted, and changes nothing."""
    found = of(played(3, spoil=lambda said: [*said, *said]))
    assert found.is_clean
    assert found.figures["emitted_again"] * 2 == found.figures["emitted"] > 0


@pytest.mark.parametrize(("memory", "twice"), [(3, 4), (4, 0)])
def test_what_a_learner_has_forgotten_when_it_comes_again_is_learned_twice(memory: int, twice: int) -> None:
    """As many others as it remembers lie between: a fault, named by page; with fewer between it's learned once."""
    stream = Stream(now_ms=END)
    stream.send(Impression("r1", T, "u", ["a", "b"]), Impression("r2", T, "u", ["a", "b"]))
    stream.tick(END)
    stream.join()
    for record in stream.log.reader(EXAMPLES.name, {0: 0}).poll(0):
        stream.log.send(EXAMPLES.name, 0, record.value)
    found = audit(stream.log, as_audited(RULES), None, memory=memory)
    assert found.figures["emitted_again"] == 4
    assert (found.figures["learned_twice"], found.is_clean) == (twice, not twice)
    pages = {f"page {page}, item {item}" for page in ("r1", "r2") for item in ("a at 0", "b at 1")}
    assert {one.about for one in found.differences} == (pages if twice else set())


@pytest.mark.parametrize("begun", range(8))
@pytest.mark.parametrize("between", range(12))
def test_a_learner_drops_what_the_audit_says_it_drops(begun: int, between: int) -> None:
    """Whatever it remembered before: where the audit calls a repetition learned once, the learner knows the id."""
    ids = [*range(1, begun + 1), 99, *range(200, 200 + between), 99]
    duplicates = DuplicateIds()
    n = len(ids)
    columns = (list(range(n)), [0] * n, [1.0] * n, [1] * n)
    duplicates.add(0, [Emitted(0, 0, 0, 0, "r", "u", T, 0, ["a"] * n, ids, *columns)])
    assert duplicates.emitted_again == 1
    seen = RecentIds(ids_max=8)
    learned = [bool(seen.add(np.array([one], np.uint64))[0]) for one in ids]
    twice = duplicates.learned_twice(8, first=3)
    assert twice[0] >= learned[-1]
    assert twice == ((0, []) if between < 8 else (1, [EmissionRef(0, 0, n - 1)]))


def test_what_is_on_disk_is_judged_as_what_is_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Buckets that are flushed after every event have the same content and order; no file is left behind."""
    plain = of(played(3))
    monkeypatch.setattr(spill, "BUFFER_BYTES", 1)
    folder = Path(tempfile.gettempdir())
    before = set(folder.glob("thalweg-audit-*"))
    assert of(played(3)).figures == plain.figures
    assert not set(folder.glob("thalweg-audit-*")) - before


def test_a_further_page_under_a_request_id_is_judged_with_its_page() -> None:
    """Its examples carry its own body, with ids that go on where the page ended; another body or id is a fault."""
    first = Impression("r", T, "u", ["a", "b"])
    further = Impression("r", T + 50, "u", ["b", "c"], features=b"further")
    negatives = [example_id("r", position, WINDOW_CLOSED, "") for position in (0, 1)]
    for page, position, fault in (
        (further, 2, ""), (further, 1, "unfounded"), (first, 2, "wrong"), (replaced(further), 2, "altered"),
    ):  # fmt: skip
        emitted = [
            Examples(first, negatives, [0, 1], [0, 0], [1.0, 1.0], [WINDOW_CLOSED] * 2, [END] * 2),
            Examples(page, [example_id("r", position, INSTALLED, "i")], [1], [1], [1.0], [INSTALLED], [END]),
        ]
        stream = Stream(now_ms=END)
        stream.send(first, further, Install("u", "c", T + 60, "i"))
        stream.tick(END)
        stream.log.send(EXAMPLES.name, 0, encode_record(emitted))
        found = of(stream)
        assert {one.fault for one in found.differences} >= ({fault} if fault else set())
        assert found.is_clean == (not fault)
        assert (found.figures["extended_pages"], found.figures["positives"]) == (1, 1)


def replaced(page: Impression) -> Impression:
    """The same page with another body."""
    return msgspec.structs.replace(page, features=b"other")


def test_two_users_under_one_request_id() -> None:
    """In one partition the joiner knows the first one's page alone: the other's is a repetition."""
    stream = Stream(now_ms=END)
    users = [f"user{k}" for k in range(200) if partition_of(f"user{k}", 2) == 0]
    assert len({bucket_of(user) for user in users}) > 8
    for k, user in enumerate(users):
        stream.send(Impression(f"r{k % 7}", T + k, user, ["a"]), Install(user, "a", T + k + 1, f"i{k}"))
    stream.tick(END)
    stream.join()
    found = of(stream)
    assert found.differences == []
    assert (found.figures["labels"], found.figures["repeated_pages"]) == (7, len(users) - 7)


def test_a_request_id_that_is_used_again_is_not_judged() -> None:
    """When its page was forgotten another one has it: their examples have the same ids."""
    stream = Stream(now_ms=END)
    stream.send(Impression("r", T, "u", ["a"]), Impression("s", T, "u", ["a"]))
    stream.send(Impression("r", T + 10_000, "u", ["b"]))
    stream.tick(END)
    stream.join()
    found = of(stream)
    assert found.is_clean
    assert (found.figures["reused"], found.figures["settled"]) == (2, 1)


def test_a_log_of_any_length_is_judged() -> None:
    """Whatever the window: everything is settled and right, and what is emitted again is counted."""
    log: Any = GeneratedLog(5_000, window_ms=120_000, again=True)
    found = audit(log, log.rules, None, memory=49_000)
    assert (found.figures["settled"], found.figures["positives"]) == (50_000, 250)
    assert (found.figures["emitted_again"], found.figures["learned_twice"]) == (50_000, 50_000)
    assert audit(log, log.rules, None).is_clean


@pytest.mark.skipif(not os.environ.get("SOAK"), reason="takes minutes: SOAK=1")
@pytest.mark.timeout(3_600)
def test_ten_million_labels_need_less_than_2_gb() -> None:
    """A window of a day, everything emitted twice: resident memory stays bounded."""
    program = (
        "import resource; from tests.support.generated_log import GeneratedLog; from thalweg.audit.audit import audit; "
        "log = GeneratedLog(1_000_000, 86_400_000, again=True); found = audit(log, log.rules, None); "
        "print(found.figures['settled'], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    settled, kilobytes = map(int, ran.stdout.split())
    assert settled == 10_000_000
    assert kilobytes < 2_000_000


def test_what_the_joiner_is_not_finished_with_is_pending() -> None:
    """Labels of pages whose window or correction is open are pending; behind, where only the joiner isn't there yet."""
    stream = Stream(now_ms=T + 10_000)
    stream.send(Impression("old", T, "u", ["a", "b"]))
    stream.send(Impression("new", T + 5_000, "u", ["a"]))
    partition = next(p for p, end in stream.log.ends(EVENTS.name).items() if end)
    unread = of(stream, {0: JoinerProgress(), 1: JoinerProgress()})
    assert unread.is_clean
    assert {name: unread.figures[name] for name in ("settled", "pending", "behind")} == {
        "settled": 0, "pending": 1, "behind": 2,
    }  # fmt: skip
    lost = of(stream, {partition: JoinerProgress(T + 4_000)})
    assert lost.figures["missing"] == 2
    stream.join()
    assert of(stream, {partition: JoinerProgress(T + 4_000)}).is_clean


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
    assert recent.is_clean
    assert recent.figures["labels"] == 1


def test_since_judges_no_page_that_was_emitted_late_and_was_shown_before() -> None:
    """After an outage the joiner emits labels of pages appended long before the range: they aren't surplus."""
    stream = Stream(now_ms=T)
    stream.send(Impression("old", T, "u", ["a"]), Install("u", "a", T + 10, "i"))
    stream.now_ms = T + 7_200_000
    stream.send(Impression("new", stream.now_ms, "u", ["a"]))
    stream.now_ms += 10_000
    stream.tick(stream.now_ms)
    stream.join()
    found = of(stream, since_ms=T + 3_600_000)
    assert found.differences == []
    assert found.figures["settled"] == 1
    assert of(stream).figures["settled"] == 2


def replayed() -> Stream:
    """Old events, played twice with an hour between: those of the second time, of new ids, are rightly late."""
    stream = Stream(now_ms=T + 100_000_000)
    for name in ("a", "b"):
        for k in range(5):
            stream.send(Impression(f"{name}{k}", T + k * 1_000, "u", ["a"]))
        stream.tick(T + 100_000 if name == "a" else T + 200_000)
        stream.join()
        stream.now_ms += 3_600_000
    stream.send(Impression("c", T + 200_000, "u", ["a"]))
    stream.tick(T + 300_000)
    stream.join()
    return stream


def test_since_knows_the_watermark_of_what_was_before() -> None:
    """Where event time doesn't keep to the time of append, all of the log is read: what is late stays late."""
    stream = replayed()
    found = of(stream, since_ms=stream.now_ms - 5_400_000)
    assert found.differences == []
    assert (found.figures["late"], found.figures["settled"]) == (5, 1)


def test_what_events_that_are_gone_may_decide_is_not_judged() -> None:
    """Retention has taken what had raised the watermark: that's said, and nothing is called missing."""
    stream = replayed()
    (partition,) = [p for p, end in stream.log.ends(EVENTS.name).items() if end > 10]
    stream.log.truncate(EVENTS.name, partition, 6)
    stream.now_ms += 3_600_000
    stream.send(Impression("d", stream.now_ms, "u", ["a"]))
    stream.now_ms += 10_000
    stream.tick(stream.now_ms)
    stream.join()
    found = of(stream)
    assert found.differences == []
    assert (found.figures["unsure"], found.figures["settled"]) == (1, 1)


def test_where_nothing_could_be_judged_that_is_said() -> None:
    """It isn't called fine: a joiner that never ran would be."""
    stream = Stream(now_ms=END)
    stream.send(Impression("r", T, "u", ["a"]))
    stream.tick(END)
    found = of(stream, {})
    assert (found.is_clean, found.has_judged) == (True, False)
    assert found.verdict.startswith("nothing could be judged: of 1 labels 0 pending, 1 behind")
    stream.join()
    assert of(stream).has_judged


def test_the_command_fails_where_nothing_could_be_judged(
    stack: Stack, topic_prefix: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its exit code shows that no joiner is at work."""
    settings = Settings(kafka=stack.kafka, topic_prefix=topic_prefix, local=tmp_path, partitions=2)
    for name in ("kafka", "topic_prefix", "local", "partitions"):
        monkeypatch.setenv(f"THALWEG_{name.upper()}", str(getattr(settings, name)))
    apply_topics(settings, plan_topics(settings))
    log = KafkaLog(settings)
    log.send(EVENTS.name, 0, encode_record([Impression("r", T, "u", ["a"]), Tick(END)]))
    log.close()
    ran = CliRunner().invoke(app, ["audit", "--spec", str(SPEC)])
    assert ran.exit_code == 1
    assert "nothing could be judged: of 1 labels 0 pending, 1 behind" in ran.stdout


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
    assert found.is_clean
    assert 0 < found.figures["labels"] < 36


def test_what_was_closed_early_is_said_and_not_judged() -> None:
    """Up to the floor that full memory has raised, a label that isn't as it should be is counted apart."""
    stream = Stream(now_ms=END)
    stream.send(Impression("full", T, "u", ["a"]), Install("u", "a", T + 300, "i"))
    stream.send(Impression("right", T, "v", ["a"]))
    stream.tick(END)
    stream.join(spoil=lambda said: [one for one in said if one.page.request_id != "full"])
    partitions = stream.log.ends(EVENTS.name)
    assert of(stream, dict.fromkeys(partitions, JoinerProgress(END))).figures["missing"] == 1
    found = of(stream, dict.fromkeys(partitions, JoinerProgress(END, floor_ms=T)))
    assert found.is_clean
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
    assert found.is_clean
    assert (found.figures["bad_events"], found.figures["future_events"], found.figures["positives"]) == (1, 1, 1)


def test_the_joiner_says_up_to_where_it_is_finished() -> None:
    """Its commits' metadata is read; a commit that a tool has moved says nothing."""
    ours = '{"watermark_ms": 5, "finished_ms": 3}'
    more = '{"watermark_ms": 5, "finished_ms": 3, "floor_ms": 2, "unsure_ms": 1}'
    assert joiner_progress({0: (7, ours), 1: (7, ""), 2: (7, "moved"), 3: (1, "[1]"), 4: (7, more)}) == {
        0: JoinerProgress(3), 1: JoinerProgress(), 2: JoinerProgress(), 3: JoinerProgress(), 4: JoinerProgress(3, 2, 1),
    }  # fmt: skip


def test_the_rules_are_the_joiners() -> None:
    """Written down twice, equal: window, lateness, how long a page can be corrected, what is too far ahead."""
    other = Spec("x", label=Label("wait", "3s", "2s", known="1m", early="4s"))
    for spec in (load_spec(SPEC), load_spec(SPEC.with_name("store.toml")), Spec("x"), other):
        rules = label_rules(spec)
        assert audit_rules(spec) == replace(as_audited(rules), ahead_ms=JoinerOptions().ahead_ms_max)
        assert audit_rules(spec).window_ms == duration_ms(spec.label.window)


def test_the_audit_is_independent() -> None:
    """Nothing of the audit, its offline join in particular, imports anything of the joiner."""
    modules = sorted(Path(offline_join.__file__).parent.glob("*.py"))
    assert len(modules) > 10
    for module in modules:
        tree = ast.parse(module.read_text())
        named = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        named |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert named or module.name == "__init__.py"
        assert not {name for name in named if name.split(".")[0] == "stream"} & {
            "stream",
            "stream.joiner",
            "stream.log.dead_letters",
        }  # the joiner's rules and what its commits say are all that it shares
        assert {name for name in named if name.startswith("stream.joiner")} <= {
            "stream.joiner.label_rules",
            "stream.joiner.commit_metadata",
        }


def test_the_report_is_flat() -> None:
    """One JSON object of figures, with the rules they were judged by."""
    report = flat(of(played(1)))
    assert all(value is None or isinstance(value, int | str) for value in report.values())
    assert {"missing", "wrong", "surplus", "rule_policy", "pending", "emitted_again", "learned_twice"} <= set(report)
