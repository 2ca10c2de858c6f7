"""What the joiner doesn't take in, on real Kafka: it is a dead letter, and can be sent back."""

import json
import time
from collections import Counter

import pytest
from typer.testing import CliRunner

from stream.events.codec import decode_entity, encode_record
from stream.events.topics import EVENTS, EVENTS_DLQ
from stream.events.types import DeadLetter
from stream.log.protocol import partition_of
from tests.support.join_oracle import net_of
from tests.support.kafka_joiner import World, page, running
from tests.support.waiting import wait_until
from thalweg.cli.main import app


def dead_letters(world: World) -> list[tuple[str, int]]:
    """Error and partition of all dead letters of `events`."""
    found = [decode_entity(record.value or b"", DeadLetter) for record in world.all_of(EVENTS_DLQ.name)]
    return [(letter.error, letter.partition) for letter in found]


def test_what_came_too_late_or_too_early_can_be_sent_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """`thalweg dlq replay`: what was early is taken when its time has come; what was late is a dead letter again."""
    now, partition = int(time.time() * 1000), partition_of("u", 2)
    with running(world, ahead_ms_max=1_000):
        world.send(page("r", now))
        world.send(page("late", now - 10_000))
        world.send(page("early", int(time.time() * 1000) + 4_000))
        wait_until(lambda: dead_letters(world) == [("Late", partition), ("FromTheFuture", partition)])
        wait_until(lambda: time.time() * 1000 > now + 4_000)
        for name in ("kafka", "topic_prefix", "local"):
            monkeypatch.setenv(f"THALWEG_{name.upper()}", str(getattr(world.settings, name)))
        report = world.settings.local / "report.json"
        sent = CliRunner().invoke(app, ["dlq", "replay", "--json", str(report)])
        assert (sent.exit_code, json.loads(report.read_text())["sent"]) == (0, 2), sent.output
        wait_until(lambda: {request for request, _ in net_of(world.examples())} == {"r", "early"})
        wait_until(lambda: Counter(error for error, _ in dead_letters(world))["Late"] == 2)


def test_an_event_in_another_partition_than_its_users_is_not_joined(world: World) -> None:
    """Its user's other events are elsewhere: it would be joined without them."""
    now, partition = int(time.time() * 1000), partition_of("u", 2)
    with running(world):
        world.log.send(EVENTS.name, 1 - partition, encode_record([page("misplaced", now)]))
        world.send(page("r", now))
        wait_until(lambda: dead_letters(world) == [("WrongPartition", 1 - partition)])
        wait_until(lambda: set(net_of(world.examples())) == {("r", "a"), ("r", "b")})


def test_a_partition_that_gets_nothing_good_any_more_ends_the_joiner(world: World) -> None:
    """Though good events come in the other: a producer that broke mustn't drain into dead letters."""
    bad = 1 - partition_of("u", 2)
    with running(world, poison_s=1.0) as process:
        sent = 0
        while process.poll() is None:
            world.log.send(EVENTS.name, bad, b"\xc1 poison %d" % sent)
            world.log.send(EVENTS.name, 1 - bad, encode_record([page(f"r{sent}", int(time.time() * 1000))]))
            sent += 1
            assert sent < 600, "the joiner works on"
            time.sleep(0.05)
    assert "every event was rejected for" in (world.settings.local / "joiner-0.log").read_text()
    assert {partition for error, partition in dead_letters(world)} == {bad}
