"""The joiner under faults on real Kafka: killed, multiplied, without its broker, without Redis. The audit judges.

Each story has a seed, from which come the events and the moments of the faults. One that fails prints the command
that runs it again; SOAK=1 (`make soak`) makes the stories longer.
"""

import json
import random
import subprocess
import sys
import time

import msgspec
import pytest
import redis

from stream.events.codec import decode_examples, encode_record
from stream.events.topics import EXAMPLES, HISTORIES
from stream.events.types import LATE_POSITIVE, RETRACTION
from stream.history.histories import decode_changes
from stream.log.log_scan import read_range
from stream.log.protocol import START
from tests.support.event_flow import GROUPS_A_S, PARTITIONS, SEEDS, SOAK, Joiners, flowing, grown, shared_by
from tests.support.forked_services import clean_environment
from tests.support.join_oracle import net_of
from tests.support.redis_histories import read_histories
from tests.support.stack_faults import stop_server
from tests.support.system_labels import judged, labels_by_events, positive
from tests.support.waiting import wait_until
from thalweg.cli.options import SPEC
from thalweg.stack.stack import Stack, up

KILLS = 100 if SOAK else 12
WORKER_KILLS = 30 if SOAK else 2
BROKER_AWAY_S = 30.0 if SOAK else 2.0  # longer than a partition is silent until it's idle, and than lateness
PRODUCERS_LATER_S = 5.0 if SOAK else 2.0  # likewise
LATENESS = "50s"  # longer than the broker is away and comes back
REDIS_AWAY_S = 60.0 if SOAK else 0.5

pytestmark = [pytest.mark.timeout(1_800 if SOAK else 300), pytest.mark.parametrize("seed", SEEDS)]


def test_killed_again_and_again(joiners: Joiners, seed: int) -> None:
    """kill -9 at many moments in mid-stream: no label is missing, none is wrong."""
    rng = random.Random(seed)
    mid_stream = 0
    joiners.start("0")
    with flowing(joiners, seed) as flow:
        for kill in range(KILLS):
            before = grown(joiners, joiners.emitted(), f"work before kill {kill}")  # it emitted since its start
            time.sleep(rng.uniform(0.0, 0.4))  # the moment of the kill
            sent = flow.sent
            joiners.kill("0")
            joiners.start("0")
            wait_until(lambda: flow.sent > sent, "the flow to go on")  # noqa: B023  # called at once
            mid_stream += flow.running and joiners.emitted() >= before
        grown(joiners, joiners.emitted(), "work after the last kill")
        assert mid_stream == KILLS
        judged(joiners, flow)


@pytest.mark.parametrize("joiners", [{"policy": "fake_negative"}], indirect=True, ids=["fake_negative"])
def test_workers_come_and_go(joiners: Joiners, seed: int) -> None:
    """1 → 3 → 2 → 1 workers under load, one killed now and then: partitions change hands, labels stay right."""
    rng = random.Random(seed)
    joiners.start("a")
    with flowing(joiners, seed) as flow:
        shared_by(joiners, "a")
        joiners.start("b")
        joiners.start("c")
        shared_by(joiners, "a", "b", "c")
        for _ in range(WORKER_KILLS):
            time.sleep(rng.uniform(0.0, 0.5))
            victim = rng.choice("abc")
            joiners.kill(victim)
            joiners.start(victim)
            shared_by(joiners, "a", "b", "c")
        joiners.kill("b")  # for good: its partitions go to the others when its session ends
        shared_by(joiners, "a", "c")
        joiners.remove("a")
        shared_by(joiners, "c")
        judged(joiners, flow)


@pytest.mark.skipif(not SOAK, reason="a minute of waiting for the lateness; the next test has the stricter rule")
@pytest.mark.parametrize("joiners", [{"lateness": LATENESS}], indirect=True, ids=["late"])
def test_the_broker_stops(joiners: Joiners, stack: Stack, seed: int) -> None:
    """The broker is killed and stays away: joiner and producer wait, go on by themselves, and nothing is lost.

    With a lateness that is longer than the break: else events that the producer had to delay would be rightly late.
    """
    joiners.start("0")
    with flowing(joiners, seed) as flow:
        grown(joiners, joiners.emitted(), "work before the stop")
        before, sent = joiners.emitted(), flow.sent
        stop_server(stack.root, "broker", kill=True)
        time.sleep(BROKER_AWAY_S)
        up(stack.root)
        wait_until(lambda: flow.sent > sent + GROUPS_A_S, "the flow to go on")
        grown(joiners, before + 100, "work after the stop")
        judged(joiners, flow)


def test_the_broker_stops_for_longer_than_lateness(joiners: Joiners, stack: Stack, seed: int) -> None:
    """Silence counts only while a broker answers: what was read late, and sent late, isn't late. Also where producers
    come back much later than the joiner: no event is late, no positive is lost."""
    joiners.start("0")
    with flowing(joiners, seed) as flow:
        for producers_later_s in (0.0, PRODUCERS_LATER_S):
            before = grown(joiners, joiners.emitted(), "work before the stop")
            flow.is_disconnected = producers_later_s > 0
            time.sleep(0.1)
            stop_server(stack.root, "broker", kill=True)
            time.sleep(BROKER_AWAY_S)
            up(stack.root)
            wait_until(lambda: joiners.emitted() >= before, "the broker to answer", 60.0)  # noqa: B023  # likewise
            if producers_later_s:
                joiners.catch_up()  # it is back
            time.sleep(producers_later_s)
            flow.is_disconnected = False
            sent = flow.sent
            wait_until(lambda: flow.sent > sent + GROUPS_A_S, "the flow to go on")  # noqa: B023  # called at once
            grown(joiners, joiners.emitted() + 100, "work after the stop")
        found = judged(joiners, flow)
    assert found.figures["late"] == 0
    assert found.figures["positives"] == len(positive(labels_by_events(joiners)))
    assert "no broker answers" in (joiners.home / "joiner-0.log").read_text()


@pytest.mark.parametrize("joiners", [{"policy": "wait"}], indirect=True, ids=["wait"])
def test_redis_is_wiped(joiners: Joiners, stack: Stack, seed: int) -> None:
    """Redis dies and comes back empty in mid-stream: labels don't notice, histories are complete again."""
    prefix = joiners.settings.topic_prefix
    cache = redis.Redis.from_url(stack.redis)
    joiners.start("0")
    with flowing(joiners, seed) as flow:
        grown(joiners, joiners.emitted(), "work before the wipe")
        wait_until(lambda: cache.keys(f"{prefix}*history*"), "histories in Redis")
        cache.set(f"{prefix}nobody writes me again", 1)  # histories may be there again before anybody can look
        stop_server(stack.root, "cache", kill=True)
        time.sleep(REDIS_AWAY_S)
        up(stack.root)
        assert cache.get(f"{prefix}nobody writes me again") is None, "it came back empty"
        grown(joiners, joiners.emitted(), "work after the wipe")
        judged(joiners, flow)
    changes = decode_changes(list(read_range(joiners.log, HISTORIES.name, dict.fromkeys(range(PARTITIONS), START),
                                joiners.log.ends(HISTORIES.name))))  # fmt: skip
    expected: dict[str, set[str]] = {}
    for (user, item), time_ms in changes.items():
        if time_ms is not None:
            expected.setdefault(user, set()).add(item)
    users = sorted({user for user, _ in changes})
    assert len(expected) > 50

    def complete() -> bool:
        found = read_histories(cache, users, 1_000, prefix)
        return {user: set(items) for user, items in found.items() if items} == expected

    wait_until(complete, "histories to be complete again", 30.0)


def test_the_command_distinguishes_right_from_wrong(joiners: Joiners, seed: int) -> None:
    """`thalweg audit` ends with 0 after an honest joiner, with 1 and the page's id once one label was falsified.

    It goes by the rules in the joiner's commits; a spec that has others is rejected.
    """

    def audited(*arguments: str) -> tuple[int, str, dict[str, int]]:
        report = joiners.home / "audit.json"
        settings = joiners.settings
        given = {"kafka": settings.kafka, "topic_prefix": settings.topic_prefix, "local": joiners.home}
        env = {f"THALWEG_{name.upper()}": str(value) for name, value in given.items()}
        command = [sys.executable, "-m", "thalweg.cli.main", "audit", *arguments, "--json", str(report)]
        ran = subprocess.run(command, env={**clean_environment(), **env}, capture_output=True, text=True)
        return ran.returncode, ran.stdout + ran.stderr, json.loads(report.read_text())

    joiners.start("0")
    with flowing(joiners, seed) as flow:
        wait_until(lambda: flow.poison > 1 and flow.pages > 100, "poison")
        judged(joiners, flow)
    code, output, figures = audited()
    assert code == 0, output
    assert "nothing is missing, nothing is wrong" in output
    assert figures["settled"] == 4 * flow.pages
    code, output, figures = audited("--spec", str(SPEC))
    assert code == 1
    assert "the joiner doesn't run by that spec" in output
    code, output, figures = audited("--spec", str(joiners.spec_file))
    assert (code, figures["settled"]) == (0, 4 * flow.pages), output
    ends = joiners.log.ends(EXAMPLES.name)
    emitted = [one for record in read_range(joiners.log, EXAMPLES.name, {0: START}, ends)
               for one in decode_examples(record.value or b"")[0]]  # fmt: skip
    one, position = emitted[0], emitted[0].positions[0]
    label = 1 - net_of(emitted)[one.page.request_id, one.page.items[position]]
    reason = LATE_POSITIVE if label else RETRACTION
    false = msgspec.structs.replace(one, ids=[7], positions=[position], labels=[label], weights=[1.0],
                                    reasons=[reason], ingest_ms=one.ingest_ms[:1])  # fmt: skip
    joiners.log.send(EXAMPLES.name, 0, encode_record([false]))
    joiners.log.flush()
    code, output, figures = audited()
    assert code == 1, output
    assert f"wrong: page {one.page.request_id}" in output
    assert (figures["wrong"], figures["missing"]) == (1, 0)
