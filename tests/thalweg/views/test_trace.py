"""A page's life, as `thalweg trace` tells it."""

import json
import re
from dataclasses import replace as replace_rules
from pathlib import Path

import msgspec
import pytest
from kafka import KafkaAdminClient
from kafka.structs import OffsetAndMetadata, TopicPartition
from msgspec.structs import replace
from typer.testing import CliRunner

from stream.events.codec import encode_record
from stream.events.topics import EVENTS, EXAMPLES
from stream.events.types import EVENT_BYTES_MAX, Impression, Install, Tick
from stream.joiner.commit_metadata import encode_metadata
from stream.joiner.join import RestartPoint
from stream.joiner.label_rules import LabelRules
from stream.log.kafka_admin import apply_topics, plan_topics
from stream.log.kafka_log import KafkaLog
from stream.log.protocol import partition_of
from stream.runtime.errors import DataError
from stream.runtime.settings import Settings
from stream.snapshots.memory_store import MemoryStore
from stream.snapshots.redis_store import RedisStore
from stream.snapshots.store import SnapshotStore
from stream.spec.parts import Policy
from tests.support.joined_streams import RULES, Stream, T, mixed
from tests.support.small_versions import put, version_of
from thalweg.audit.rules import AuditRules
from thalweg.cli.main import app
from thalweg.cli.options import SPEC
from thalweg.stack.stack import Stack
from thalweg.views.trace import PageTrace, figures, trace

AUDITED = AuditRules(RULES.policy, RULES.window_ms, RULES.lateness_ms, RULES.known_ms)
P = partition_of("ann", 2)


def lived() -> Stream:
    """A page with an install of its own and one that belongs to a newer page; all told; a minute and more of others."""
    stream = Stream(now_ms=T)
    for k in range(5):
        stream.send(Impression(f"before{k}", T, "bob", ["x"]))
    stream.send(Impression("r", T, "ann", ["chess", "go", "tea"], version=7))
    stream.now_ms = T + 100
    stream.send(Install("ann", "go", T + 100, "i1", "r"))
    stream.join()
    stream.now_ms = T + 150
    stream.send(Impression("newer", T + 150, "ann", ["tea"]), Install("ann", "tea", T + 160, "i2"))
    stream.now_ms = T + 900
    stream.send(Install("ann", "go", T + 170, "i1", retracted=True), Install("ann", "chess", T + 900, "i3"))
    stream.now_ms = T + 2_000
    stream.tick(T + 2_000)
    stream.join()
    return stream


def of(stream: Stream, request_id: str = "r", *, later_ms: int = 5_000, user: str = "",
       store: SnapshotStore | None = None) -> PageTrace:  # fmt: skip
    """Its life, asked for some time later."""
    return trace(stream.log, AUDITED, request_id, now_ms=T + later_ms, since_ms=T - 86_400_000, user=user, store=store)


def committed(rules: LabelRules, model: str = "") -> str:
    """The metadata of a joiner's commit."""
    return encode_metadata(RestartPoint(0, 0, 0), rules, model)


def said(life: PageTrace, what: str) -> list[str]:
    """What steps of a kind say."""
    return [step.text for step in life.steps if step.kind == what]


@pytest.mark.parametrize("later_ms", [5_000, 300_000, 3 * 3_600_000, 23 * 3_600_000])
@pytest.mark.parametrize("user", ["", "ann"])
def test_a_life_is_told_in_order_with_places_and_reasons(later_ms: int, user: str) -> None:
    """Page, installs and whose they are, labels and why, the window's end: however long ago it was."""
    life = of(lived(), later_ms=later_ms, user=user)
    assert life.page is not None
    assert life.page.request_id == "r"
    assert life.appended_ms == T
    assert [step.time_ms for step in life.steps] == sorted(step.time_ms for step in life.steps)
    assert life.steps[0].location == f"{EVENTS.name} {life.location}" == f"events {P}:{life.location.split(':')[1]}"
    assert "ranked by version 7" in life.steps[0].text
    mine, other, outside = said(life, "install")
    assert "it names this page" in mine
    assert "it belongs to newer" in other
    assert "outside the window of 400 ms" in outside
    assert "id i1" in said(life, "retraction")[0]
    told = said(life, "example")
    assert told[0].startswith("label 1, installed: go; 0 ms after the event that caused it")
    assert any(line.startswith("label 0, retraction: go") for line in told)
    assert any(
        line.startswith("label 0, window_closed: chess, tea; 1100 ms after the record that closed") for line in told
    )
    assert life.count("window closed") == 1
    assert life.labels == {"chess": 0, "go": 0, "tea": 0}


Sent = tuple[int, Impression | Install | None]  # when, ms after T; None: a tick


def lives(*sent: Sent, rules: LabelRules = RULES, down_ms: int = 0) -> PageTrace:
    """The life of page r after these events, each arriving when it is sent; the joiner reads them all at once."""
    stream = Stream(rules, now_ms=T)
    for at_ms, event in (*sent, (50_000, None)):
        stream.now_ms = T + at_ms
        stream.tick(stream.now_ms) if event is None else stream.send(event)
    stream.now_ms += down_ms
    stream.join()
    audited = AuditRules(rules.policy, rules.window_ms, rules.lateness_ms, rules.known_ms, rules.early_ms)
    return trace(stream.log, audited, "r", now_ms=stream.now_ms + 1_000, since_ms=0)


PAGE = Impression("r", T, "ann", ["a"])
INSTALL = Install("ann", "a", T + 10, "i")
BACK = replace(INSTALL, time_ms=T + 20, retracted=True)


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        ([(0, PAGE), (5_000, None), (5_001, INSTALL)], "too late: event time had passed"),
        ([(0, PAGE), (620, None), (621, INSTALL)], None),  # the watermark is `lateness` behind: in time by 10 ms
        ([(0, PAGE), (5, BACK), (6, INSTALL)], f"revoked by the retraction in events {P}:1"),
        ([(0, PAGE), (5, replace(INSTALL, item="b")), (6, INSTALL)], f"was read before, with item b in events {P}:1"),
        ([(0, PAGE), (10, INSTALL), (100, INSTALL)], f"was read before, with item a in events {P}:1"),
        ([(10, INSTALL), (200, None), (201, PAGE)], "waits only 60 ms"),
        ([(5_000, None), (5_001, PAGE), (5_002, INSTALL)], "this page arrived too late to be joined"),
        ([(0, PAGE), (10, INSTALL)], None),
    ],
)  # fmt: skip
def test_an_install_without_a_positive_tells_why(sent: list[Sent], reason: str | None) -> None:
    """Whatever the cause: the last install's line has it, and where there's a positive, there is none."""
    life = lives(*sent, rules=replace_rules(RULES, early_ms=60))
    line = said(life, "install")[-1]
    if reason is None:
        assert life.labels == {"a": 1}
        assert line.endswith("+10 ms of event time")
    else:
        assert reason in line
        assert 1 not in life.labels.values() or "a duplicate" in line


def test_a_page_that_came_too_late_says_so() -> None:
    """It has no labels; also where what raised the watermark is far back in the log."""
    life = lives((5_000, None), (5_001, PAGE))
    assert "it arrived too late to be joined: event time had passed" in life.steps[0].text
    assert life.labels == {}
    far = lives((5_000, None), (3_600_000, PAGE), (3_601_000, None))
    assert "it arrived too late to be joined" in far.steps[0].text
    assert "too late" not in lives((0, PAGE)).steps[0].text


@pytest.mark.parametrize("down_ms", [0, 1_200_000, 7_200_000])
def test_labels_told_after_an_outage_are_found(down_ms: int) -> None:
    """However long the joiner was down."""
    life = lives((0, PAGE), (10, INSTALL), down_ms=down_ms)
    assert life.labels == {"a": 1}
    assert "emitted yet" not in said(life, "install")[0]


def test_a_positive_that_is_not_told_yet_is_said() -> None:
    """The install is the page's, and the joiner hasn't said so, or waits."""
    for policy, why in (("eager", "the joiner isn't there yet"), ("wait", "waits for the window's end")):
        stream = Stream(now_ms=T)
        stream.send(PAGE, INSTALL)
        audited = AuditRules(policy, RULES.window_ms, RULES.lateness_ms, RULES.known_ms)  # type: ignore[arg-type]
        life = trace(stream.log, audited, "r", now_ms=T + 1_000, since_ms=0)
        assert why in said(life, "install")[0]


def test_a_page_repeated_in_its_own_record_is_told() -> None:
    """One record may hold both."""
    stream = Stream(now_ms=T)
    stream.send(PAGE, PAGE)
    assert of(stream).count("further page") == 1


@pytest.mark.parametrize("asked_ms", [700, 60_400])
def test_a_further_page_is_told_with_the_page_that_it_extends(asked_ms: int) -> None:
    """Whichever of the two is found first: of the last minute, asked later, the further page alone."""
    stream = Stream(now_ms=T)
    stream.send(PAGE)
    stream.now_ms = T + 600
    stream.send(Impression("r", T + 1, "ann", ["a", "b"]))
    life = trace(stream.log, AUDITED, "r", now_ms=T + asked_ms, since_ms=0)
    assert life.appended_ms == T
    assert said(life, "further page") == ["extends the page by b"]


@pytest.mark.parametrize("policy", ["wait", "eager", "fake_negative"])
def test_reasons_and_labels_agree(policy: Policy) -> None:
    """Of all kinds of streams: the last label of each item is 1 where an install has no reason against it, else 0."""
    checked = 0
    for seed in range(4):
        stream = Stream(replace_rules(RULES, policy=policy), now_ms=T + 1_000_000)
        for group in mixed(seed, 60):
            stream.send(*(event for event in group if not isinstance(event, Tick)))
        stream.tick(stream.now_ms)
        stream.join()
        audited = AuditRules(policy, RULES.window_ms, RULES.lateness_ms, RULES.known_ms)
        for k in range(60):
            life = trace(stream.log, audited, f"r{k}", now_ms=stream.now_ms + 1, since_ms=0)
            assert life.page is not None
            late = "arrived too late" in life.steps[0].text
            mine = {line.split()[1].rstrip(",") for line in said(life, "install") if not AGAINST.search(line)}
            wanted = {item: int(item in mine) for item in life.page.items}
            assert life.labels == ({} if late else wanted), (seed, k)
            checked += 1 in wanted.values()
    assert checked > 50


AGAINST = re.compile(r"; (it names page|outside|too late|this page arrived|a duplicate|revoked|it belongs|it arrived)")


def test_a_repetition_is_told_as_one() -> None:
    """A page that was sent again counts once, and examples told again have the same ids."""
    stream = lived()
    stream.send(Impression("r", T, "ann", ["chess", "go", "tea"], version=7))
    for record in stream.log.reader(EXAMPLES.name, {0: 0}).poll(0):
        stream.log.send(EXAMPLES.name, 0, record.value)
    stream.tick(T + 3_000)
    life = of(stream)
    again = [line for line in said(life, "example") if line.endswith("learned once")]
    assert len(again) * 2 == life.count("example")
    early = Stream(now_ms=T)
    early.send(Impression("r", T, "ann", ["a"]))
    early.send(Impression("r", T, "ann", ["a"]))
    assert of(early).count("further page") == 1


def test_the_first_version_that_has_the_examples_is_named() -> None:
    """The first manifest whose offset lies behind an example's record; where older ones are gone, that is said."""
    stream, store = lived(), MemoryStore("m")
    ends = stream.log.ends(EXAMPLES.name)[0]
    first = next(int(step.location.split(":")[1]) for step in of(stream).steps if step.kind == "example")
    token = store.take_token()
    for version in (1, 2, 3):
        offset = {0: (0, first, ends)[version - 1]}
        manifest = version_of(version, version - 1, token, put(store, version))
        store.publish(msgspec.structs.replace(manifest, offset=offset, created_ms=T + 1_000 * version))
    life = of(stream, store=store)
    assert set(life.versions) == {3}
    assert all("the first version with examples" in line for line in said(life, "version"))
    assert figures(life)["version_after_ms"] == 3_000
    store.retain(1)
    assert all("older ones aren't kept" in line for line in said(of(stream, store=store), "version"))
    assert of(stream, store=MemoryStore("m")).versions == []


def test_a_page_that_was_not_taken_in_is_told_by_its_dead_letter() -> None:
    """What is in no examples because it broke a limit is found among the dead letters, with the way to see it."""
    stream = Stream(now_ms=T)
    stream.send(Impression("large", T, "ann", ["a"], features=bytes(EVENT_BYTES_MAX)))
    stream.join()
    life = of(stream, "large")
    assert life.page is None
    assert ["dlq show 0 --topic events" in line for line in said(life, "dead letter")] == [True]


def test_a_page_that_is_not_there_is_said() -> None:
    """One line with what to do; a page older than asked for isn't there either."""
    stream = lived()
    with pytest.raises(DataError, match=r"no page nowhere .* --since"):
        of(stream, "nowhere")
    with pytest.raises(DataError, match="no page r "):
        trace(stream.log, AUDITED, "r", now_ms=T + 90_000, since_ms=T + 30_000)


def test_only_a_bounded_stretch_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of the last minute costs no read of what is older, and its life no read of what is much later."""
    stream = lived()
    place = int(of(stream).location.split(":")[1])
    stream.now_ms = T + 3_600_000
    for k in range(500):
        stream.send(Impression(f"after{k}", stream.now_ms, "ann", ["x"]))
    read: list[int] = []
    reader = stream.log.reader

    def counting(topic: str, positions: dict[int, int]) -> object:
        opened = reader(topic, positions)
        poll = opened.poll

        def counted(timeout_s: float, records_max: int = 500) -> object:
            found = poll(timeout_s, 20)
            read.extend(record.offset for record in found if topic == EVENTS.name and record.partition == P)
            return found

        opened.poll = counted  # type: ignore[method-assign,assignment]
        return opened

    monkeypatch.setattr(stream.log, "reader", counting)
    late = of(stream, "after499", later_ms=3_600_000 + 1_000)
    assert late.page is not None
    assert min(read) > place
    read.clear()
    assert of(stream, later_ms=5_000).page is not None
    assert max(read) < place + 100


def test_the_command_tells_a_life_on_kafka_and_redis(
    stack: Stack, topic_prefix: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Table and figures; the spec's rules; a page that isn't there is one line and exit code 1."""
    settings = Settings(kafka=stack.kafka, redis=stack.redis, topic_prefix=topic_prefix, local=tmp_path, partitions=2)
    for name in ("kafka", "redis", "topic_prefix", "local", "partitions"):
        monkeypatch.setenv(f"THALWEG_{name.upper()}", str(getattr(settings, name)))
    apply_topics(settings, plan_topics(settings))
    source = lived()
    log = KafkaLog(settings)
    page = Impression("r", T, "ann", ["chess", "go", "tea"])
    log.send(EVENTS.name, P, encode_record([page, Install("ann", "go", T + 100, "i1", "r")]))
    for record in source.log.reader(EXAMPLES.name, {0: 0}).poll(0):
        log.send(EXAMPLES.name, 0, record.value)
    log.close()
    store = RedisStore(settings, "movielens")
    manifest = version_of(1, 0, store.take_token(), put(store, 1), model="movielens")
    store.publish(msgspec.structs.replace(manifest, offset={0: 1_000}))
    store.close()
    report = tmp_path / "trace.json"
    ran = CliRunner().invoke(app, ["trace", "r", "--spec", str(SPEC), "--json", str(report)])
    assert ran.exit_code == 0, ran.output
    assert "label 1, installed: go" in ran.stdout
    assert "snapshot 1" in ran.stdout
    figures = json.loads(report.read_text())
    assert (figures["page"], figures["installs"], figures["first_version"]) == (f"{P}:0", 1, 1)
    untold = CliRunner().invoke(app, ["trace", "r"])
    assert untold.exit_code == 1
    assert "name the spec that it runs with --spec" in untold.stderr
    at = {TopicPartition(settings.topic(EVENTS.name), P): OffsetAndMetadata(0, committed(RULES, "movielens"), -1)}
    admin = KafkaAdminClient(bootstrap_servers=stack.kafka)
    admin.alter_group_offsets(settings.topic("joiner"), at)
    admin.close()
    ran = CliRunner().invoke(app, ["trace", "r"])
    assert ran.exit_code == 0, ran.output
    assert "snapshot 1" in ran.stdout
    wrong = CliRunner().invoke(app, ["trace", "r", "--spec", str(SPEC)])
    assert wrong.exit_code == 1
    assert "the joiner doesn't run by that spec: it has policy eager, window 400 ms" in wrong.stderr
    gone = CliRunner().invoke(app, ["trace", "nowhere", "--since", "1h", "--user", "ann"])
    assert gone.exit_code == 1
    assert "--since 7d" in gone.stderr
    assert CliRunner().invoke(app, ["trace", "r", "--since", "yesterday"]).exit_code == 1
