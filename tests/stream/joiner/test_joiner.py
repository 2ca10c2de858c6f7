"""The joiner on real Kafka: what comes in goes out, also when it is killed or gets company."""

import json
import random
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import redis

from stream.events.codec import decode_entity, decode_examples, encode
from stream.events.topics import EVENTS, EVENTS_DLQ, EXAMPLES, HISTORIES, USERS
from stream.events.types import DeadLetter, History, Impression, Install, Organic, User
from stream.history.profiles import UserProfile, read_profiles
from stream.log.protocol import partition_of
from stream.runtime.health import run_file
from stream.spec.parts import Policy
from tests.support.join_oracle import net_of
from tests.support.kafka_joiner import QUICK, World, page, running
from tests.support.redis_histories import read_histories
from tests.support.waiting import wait_until


def test_what_comes_in_goes_out(world: World) -> None:
    """Labels, dead letters, histories, users' profiles in (wiped, too) Redis, metrics; SIGTERM ends it."""
    cache = redis.Redis.from_url(world.settings.redis)
    prefix = world.settings.topic_prefix
    now = int(time.time() * 1000)
    with running(world) as process:
        world.send(page("r", now), page("s", now, user="v"))
        world.log.send(EVENTS.name, 0, b"rubbish")
        world.log.send(EVENTS.name, 0, None, b"a tombstone")
        world.send(Install("u", "a", now, "i"), Install("v", "a", now, "j"), Install("u", "b", now + 1, "k"))
        world.send(Install("v", "a", now, "j", retracted=True))
        wait_until(lambda: len(net_of(world.examples())) == 4)
        wait_until(lambda: read_histories(cache, ["u", "v"], 10, prefix) == {"u": ["a", "b"], "v": []})
        world.log.send(USERS.name, 1, encode(User("u", {"age": 30.0})), b"u")
        profiles = {"u": UserProfile(["a", "b"], {"age": 30.0}), "v": UserProfile([], None)}
        wait_until(lambda: read_profiles(cache, ["u", "v"], prefix) == profiles)
        assert net_of(world.examples()) == world.oracle()
        assert [decode_entity(r.value or b"", DeadLetter).original for r in world.all_of(EVENTS_DLQ.name)] == [
            b"rubbish",
            b"",
        ]
        for record in world.all_of(EXAMPLES.name):
            users = {one.page.user for one in decode_examples(record.value or b"")[0]}
            assert {partition_of(user, 2) for user in users} == {int(record.key or b"-1")}
        newest = {record.key: record.value for record in world.all_of(HISTORIES.name)}
        assert newest[b"v\x00a"] is None
        assert decode_entity(newest[b"u\x00a"] or b"", History) == History("u", "a", now)
        cache.delete(*cache.keys(f"{prefix}{{thalweg}}:*"))
        wait_until(lambda: read_profiles(cache, ["u", "v"], prefix) == profiles)
        assert world.health("livez") == "ok\n"
        assert 'thalweg_joiner_dead_letters_total{reason="undecodable"} 2.0' in world.health("metrics")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert not run_file(world.settings, "joiner").exists()


def test_an_organic_install_is_written_once_it_is_forgotten(world: World) -> None:
    """Where the rules want it: with its user's partition and its own append time, though nothing comes after it; a
    joiner that is killed and starts again writes no install that a page has claimed."""
    world.rules = replace(QUICK, organic=True)
    now = int(time.time() * 1000)
    with running(world, idle_ms=100):
        world.send(page("r", now), Install("u", "a", now + 300, "claimed"), Install("v", "a", now, "i", "gone"))
        wait_until(lambda: [one.install_id for _, one in world.organic()] == ["i"])
        wait_until(lambda: "unsure_ms" in str(world.commits()))
    (sent,) = [r.time_ms for r in world.all_of(EVENTS.name) if r.partition == partition_of("v", 2) and r.offset == 0]
    assert world.organic() == [(partition_of("v", 2), Organic("v", "a", now, "i", "gone", sent))]
    with running(world, idle_ms=100):
        later = int(time.time() * 1000)
        world.send(Install("u", "z", later, "j"), Install("v", "z", later, "k"))
        wait_until(lambda: {one.install_id for _, one in world.organic()} >= {"j", "k"})
    assert {one.install_id for _, one in world.organic()} == {"i", "j", "k"}


def stream_of(seed: int, pages: int) -> Iterator[list[Impression | Install]]:
    """Small groups of pages and installs: some early, repeated, out of order, taken back."""
    rng = random.Random(seed)
    later: list[Install] = []
    for k in range(pages):
        now = int(time.time() * 1000)
        user = f"u{rng.randrange(150)}"
        shown = page(f"r{k}", now - rng.randrange(40), user, "".join(rng.sample("abcdefgh", 4)))
        group: list[Impression | Install] = [shown]
        if rng.random() < 0.3:
            install = Install(user, rng.choice(shown.items), shown.time_ms + rng.randrange(300), f"i{k}")
            if rng.random() < 0.2:
                group.insert(0, install)
            else:
                later.append(install)
            if rng.random() < 0.2:
                later.append(Install(user, install.item, install.time_ms + 5, install.install_id, retracted=True))
        if rng.random() < 0.05:
            group.append(shown)
        while later and rng.random() < 0.4:
            group.append(later.pop(rng.randrange(len(later))))
        yield group
    yield list(later)


def flow(world: World, seed: int, pages: int, per_s: int) -> Iterator[int]:
    """Send the groups of `stream_of` at an even pace; yields how many were sent."""
    started = time.monotonic()
    for sent, group in enumerate(stream_of(seed, pages)):
        world.send(*group)
        time.sleep(max(0.0, sent / per_s - (time.monotonic() - started)))
        yield sent
    world.log.flush()


def settled(world: World) -> None:
    """Labels are the oracle's, once the last corrections have come: they don't change how many labels there are."""
    expected = world.oracle()
    wait_until(lambda: net_of(world.examples()) == expected, "corrections", every_s=0.1)
    assert world.oracle() == expected


def test_killed_with_kill_9_again_and_again(world: World) -> None:
    """kill -9 in mid-stream, several times: no label is missing, none is wrong, and every commit is our own."""
    kills, rng = 4, random.Random(7)
    process = world.joiner(idle_ms=300)
    killed_at: list[int] = []
    kill_at, sent = 50, 0
    try:
        for sent in flow(world, 1, 30_000, per_s=250):
            said = world.log.ends(EXAMPLES.name)[0] if sent % 20 == 0 else 0
            if said >= kill_at and len(killed_at) < kills:  # it is at work, and has said much since the last kill
                process.kill()
                process.wait()
                killed_at.append(sent)
                process = world.joiner(idle_ms=300)
                kill_at = world.log.ends(EXAMPLES.name)[0] + rng.randrange(50, 400)
            if len(killed_at) == kills and sent >= killed_at[-1] + 300:
                break
        assert len(killed_at) == kills
        world.log.flush()
        wait_until(lambda: len(net_of(world.examples())) == 4 * (sent + 1), wait_s=60.0)
        settled(world)
        wait_until(lambda: len(world.commits()) == 2)
        assert all("finished_ms" in json.loads(stored.metadata) for stored in world.commits().values())
        assert all(stored.offset > 0 for stored in world.commits().values())
    finally:
        process.kill()
        process.wait()


def test_of_two_workers_of_one_name_one_ends(world: World) -> None:
    """They take each other's partitions; one says so and ends, the other works on."""
    with running(world, "a") as first:
        second = world.joiner("a")
        try:
            wait_until(lambda: first.poll() is not None or second.poll() is not None, wait_s=90.0)
            assert first.poll() is None or second.poll() is None
            assert "another is named a" in (world.settings.local / "joiner-a.log").read_text()
            now = int(time.time() * 1000)
            world.send(page("r", now), page("s", now, user="v"))
            world.send(Install("u", "a", now, "i"), Install("v", "a", now, "j"))
            wait_until(lambda: len(net_of(world.examples())) == 4, wait_s=60.0)
        finally:
            second.kill()
            second.wait()


@pytest.mark.parametrize("policy", ["wait", "eager"])
def test_pages_that_are_not_at_hand_are_read_again(world: World, policy: Policy) -> None:
    """With no memory for recent records: installs and windows that close find their pages in the log."""
    world.more_settings = {"joiner_bodies_mb": 0}
    world.rules = replace(world.rules, policy=policy)
    with running(world):
        pages = 900
        assert len(list(flow(world, 3, pages, per_s=400))) > pages
        wait_until(lambda: len(net_of(world.examples())) == 4 * pages, wait_s=60.0)
        settled(world)
        read_again = re.search(r"^thalweg_joiner_reread_records_total ([0-9.e+]+)", world.health("metrics"), re.M)
        assert read_again is not None
        assert float(read_again[1]) > pages / 20  # records: on a busy machine many pages come in one


def test_a_second_worker_takes_its_share(world: World) -> None:
    """A second worker joins under load: partitions change hands, labels stay right."""
    second = None
    sent = shared_at = 0
    with running(world, "a", idle_ms=300):
        try:
            for sent in flow(world, 2, 30_000, per_s=300):
                if sent == 300:
                    second = world.joiner("b", idle_ms=300)
                if sent % 50 == 0 and not shared_at and "1 partitions assigned" in world.health("readyz", "b"):
                    shared_at = sent
                if shared_at and sent >= shared_at + 600:
                    break
            assert shared_at
            world.log.flush()
            assert "1 partitions assigned" in world.health("readyz", "a")
            # Static members: who comes back has its partitions at once, and nobody waits for its session to end.
            assert world.members() == {world.settings.topic(f"joiner-{worker}") for worker in "ab"}
            wait_until(lambda: len(net_of(world.examples())) == 4 * (sent + 1), wait_s=60.0)
            settled(world)
        finally:
            if second is not None:
                second.kill()
                second.wait()


def test_no_label_is_emitted_again_by_a_restart_or_a_rebalance(world: World) -> None:
    """Pages are open, and stay so: a second worker that comes, one that is killed, one that comes back emit nothing."""
    world.rules = replace(QUICK, policy="fake_negative", window_ms=3_600_000, lateness_ms=0)
    now, pages = int(time.time() * 1000), 400

    def confirmed() -> bool:
        read = {p: json.loads(stored.metadata).get("confirmed", 0) for p, stored in world.commits().items()}
        return read == world.log.ends(EVENTS.name)

    def emitted() -> list[int]:
        return [one for said in world.examples() for one in said.ids]

    def shared() -> bool:
        return all("1 partitions assigned" in world.health("readyz", worker) for worker in "ab")

    with running(world, "a") as first:
        for k in range(pages):
            world.send(page(f"r{k}", now - k, f"u{k % 50}"))
        wait_until(lambda: len(emitted()) == 2 * pages)
        wait_until(confirmed)
        with running(world, "b"):
            wait_until(shared)
            first.kill()
            first.wait()
            with running(world, "a"):
                wait_until(shared)
                world.send(page("last", now, "u1"), page("last, too", now, "u2"))
                wait_until(lambda: len(emitted()) >= 2 * pages + 4)
                wait_until(confirmed)
    with running(world, "a"):
        world.send(page("the end", now, "u1"))
        wait_until(lambda: len(emitted()) >= 2 * pages + 6, wait_s=60.0)
    assert len(emitted()) == len(set(emitted())) == 2 * pages + 6
