"""What every Log must keep. Each check takes a Bench: a log with the topics `one` and `three` (named by partitions)."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import pytest

from stream.log.protocol import END, START, GroupReader, Log, Reader, Record
from stream.runtime.errors import LogError, LogGap, LogReset, LogUnavailable


@dataclass(frozen=True)
class Bench:
    """A fresh log; how to make its gaps; and the same log as another process would open it."""

    log: Log
    truncate: Callable[[str, int, int], None]  # topic, partition, before_offset
    again: Callable[[], Log]


def fill(log: Log, topic: str, partition: int, n: int) -> None:
    """Send n records whose values say their partition and number."""
    for i in range(n):
        log.send(topic, partition, b"%d/%d" % (partition, i))
    log.flush()


def read(reader: Reader, n: int, records_max: int = 500) -> list[Record]:
    """At least n records, or what came within 20 s."""
    records: list[Record] = []
    give_up_s = time.monotonic() + 20
    while len(records) < n and time.monotonic() < give_up_s:
        records += reader.poll(0.2, records_max)
    return records


def join(*readers: GroupReader, partitions: int = 3) -> None:
    """Poll, as processes of their own would, until all partitions of an empty topic are shared out."""
    give_up_s = time.monotonic() + 20
    shared = threading.Event()

    def keep_polling(reader: GroupReader) -> None:
        while not shared.is_set() and time.monotonic() < give_up_s:
            assert reader.poll(0.1) == []
            shares[reader] = set(reader.positions())
            taken = sorted(p for share in shares.values() for p in share)
            if taken == list(range(partitions)) and all(shares.values()):
                shared.set()

    shares: dict[GroupReader, set[int]] = {reader: set() for reader in readers}
    threads = [threading.Thread(target=keep_polling, args=(reader,)) for reader in readers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shared.is_set(), "the partitions were never shared out"


def check_what_is_sent_is_read(bench: Bench) -> None:
    """A record comes back with its topic, partition, key and value; a tombstone has no value; offsets count from 0."""
    bench.log.send("three", 2, b"value", b"key")
    bench.log.send("three", 2, None, b"key")
    bench.log.send("three", 2, b"")
    bench.log.flush()
    reader = bench.log.reader("three", {2: 0})
    records = read(reader, 3)
    assert [(r.topic, r.partition, r.offset, r.key, r.value) for r in records] == [
        ("three", 2, 0, b"key", b"value"),
        ("three", 2, 1, b"key", None),
        ("three", 2, 2, None, b""),
    ]
    assert 0 < records[0].time_ms <= records[1].time_ms <= records[2].time_ms
    reader.close()


def check_order_and_ends(bench: Bench) -> None:
    """Each partition keeps its own order and its own ends."""
    for p in range(3):
        fill(bench.log, "three", p, 40 + p)
    assert bench.log.partitions("three") == 3
    assert bench.log.partitions("one") == 1
    assert bench.log.starts("three") == {0: 0, 1: 0, 2: 0}
    assert bench.log.ends("three") == {0: 40, 1: 41, 2: 42}
    reader = bench.log.reader("three", {0: START, 1: START, 2: START})
    records = read(reader, 123)
    for p in range(3):
        assert [r.value for r in records if r.partition == p] == [b"%d/%d" % (p, i) for i in range(40 + p)]
    assert reader.positions() == {0: 40, 1: 41, 2: 42}
    assert reader.poll(0.05) == []
    reader.close()


def check_positions(bench: Bench) -> None:
    """A reader starts exactly where it is told, reads only its partitions, and END means: as of now."""
    fill(bench.log, "three", 0, 5)
    fill(bench.log, "three", 1, 5)
    reader = bench.log.reader("three", {0: 3, 2: END, 1: END})
    assert reader.positions() == {0: 3, 1: 5, 2: 0}
    fill(bench.log, "three", 1, 1)
    records = read(reader, 3)
    assert sorted((r.partition, r.offset) for r in records) == [(0, 3), (0, 4), (1, 5)]
    reader.close()
    only = bench.log.reader("three", {1: START})
    assert {r.partition for r in read(only, 6)} == {1}
    only.close()


def check_offsets_at(bench: Bench) -> None:
    """A time finds the first record appended then or later; before all it is the start, after all the end."""
    fill(bench.log, "three", 0, 3)
    time.sleep(0.01)
    fill(bench.log, "three", 0, 2)
    fill(bench.log, "three", 1, 1)
    reader = bench.log.reader("three", {0: START})
    records = read(reader, 5)
    reader.close()
    for record in records:
        first = min(r.offset for r in records if r.time_ms >= record.time_ms)
        assert bench.log.offsets_at("three", record.time_ms)[0] == first
    assert records[3].time_ms > records[0].time_ms
    assert bench.log.offsets_at("three", records[0].time_ms - 1_000) == {0: 0, 1: 0, 2: 0}
    assert bench.log.offsets_at("three", records[4].time_ms + 60_000) == {0: 5, 1: 1, 2: 0}


def check_records_max(bench: Bench) -> None:
    """A poll gives at most `records_max`, and none is skipped between polls."""
    fill(bench.log, "three", 0, 7)
    fill(bench.log, "three", 1, 7)
    reader = bench.log.reader("three", {0: 0, 1: 0})
    records: list[Record] = []
    for _ in range(200):
        polled = reader.poll(0.2, 3)
        assert len(polled) <= 3
        records += polled
        if len(records) >= 14:
            break
    assert sorted((r.partition, r.offset) for r in records) == [(p, i) for p in (0, 1) for i in range(7)]
    reader.close()


def check_seek(bench: Bench) -> None:
    """After a seek the reader goes on from there, back or forth."""
    fill(bench.log, "one", 0, 10)
    reader = bench.log.reader("one", {0: 8})
    assert [r.offset for r in read(reader, 2)] == [8, 9]
    reader.seek(0, 4)
    assert [r.offset for r in read(reader, 6)] == [4, 5, 6, 7, 8, 9]
    reader.seek(0, START)
    assert read(reader, 1)[0].offset == 0
    reader.seek(0, END)
    assert reader.poll(0.05) == []
    assert reader.positions() == {0: 10}
    reader.close()


def check_gap(bench: Bench) -> None:
    """A position older than the log's start is a LogGap that names the gap; the reader can go on from START."""
    fill(bench.log, "one", 0, 10)
    bench.truncate("one", 0, 6)
    assert bench.log.starts("one") == {0: 6}
    reader = bench.log.reader("one", {0: 2})
    for _ in range(2):
        with pytest.raises(LogGap, match=r"offset 2 was wanted.* starts at 6: 4 records are gone.*--accept-gap") as gap:
            read(reader, 1)
        assert (gap.value.topic, gap.value.partition, gap.value.wanted, gap.value.start) == ("one", 0, 2, 6)
    reader.seek(0, START)
    assert [r.offset for r in read(reader, 4)] == [6, 7, 8, 9]
    reader.close()


def check_behind_the_end(bench: Bench) -> None:
    """A position after the log's end is an error, not a gap: it isn't the log that was read before."""
    fill(bench.log, "one", 0, 3)
    reader = bench.log.reader("one", {0: 9})
    for _ in range(2):
        with pytest.raises(LogReset, match=r"offset 9 .* after the log's end 3") as wrong:
            read(reader, 1)
        assert (wrong.value.topic, wrong.value.partition, wrong.value.wanted, wrong.value.end) == ("one", 0, 9, 3)
    reader.seek(0, START)
    assert [r.offset for r in read(reader, 3)] == [0, 1, 2]
    reader.close()


def check_unknown_topic(bench: Bench) -> None:
    """Whoever names a topic that isn't there is told of `thalweg apply-topics`."""
    doings: list[Callable[[], object]] = [
        lambda: bench.log.send("nope", 0, b""),
        lambda: bench.log.partitions("nope"),
        lambda: bench.log.starts("nope"),
        lambda: bench.log.ends("nope"),
        lambda: bench.log.reader("nope", {0: 0}),
        lambda: bench.log.group_reader("nope", "g", "m"),
    ]
    for doing in doings:
        with pytest.raises(LogError, match="nope doesn't exist: run `thalweg apply-topics`"):
            doing()


def check_threads(bench: Bench) -> None:
    """Several threads send at once: all arrives, in each thread's own order."""
    threads = [threading.Thread(target=fill, args=(bench.log, "three", i % 3, 200)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reader = bench.log.reader("three", {0: 0, 1: 0, 2: 0})
    records = read(reader, 1200)
    assert len(records) == 1200
    for p in range(3):
        values = [int(r.value.split(b"/")[1]) for r in records if r.partition == p and r.value]
        assert sorted(values) == sorted([*range(200), *range(200)])
        seen: set[int] = set()
        firsts = [v for v in values if not (v in seen or seen.add(v))]  # type: ignore[func-returns-value]
        assert firsts == list(range(200))
    reader.close()


def check_group_resumes(bench: Bench) -> None:
    """A member reads on from the group's commits, else from the start; what wasn't committed comes again."""
    for p in range(3):
        fill(bench.log, "three", p, 4)
    first = bench.log.group_reader("three", "group", "a")
    assert len(read(first, 12)) == 12
    assert first.positions() == {0: 4, 1: 4, 2: 4}
    first.commit({0: 4, 1: 2})
    first.close()
    second = bench.again().group_reader("three", "group", "a")
    records = read(second, 6)
    assert sorted((r.partition, r.offset) for r in records) == [(1, 2), (1, 3), (2, 0), (2, 1), (2, 2), (2, 3)]
    second.close()
    other = bench.again().group_reader("three", "other", "a")
    assert len(read(other, 12)) == 12
    other.close()


def check_group_shares(bench: Bench) -> None:
    """Two members share all partitions; each record is read by one of them."""
    a = bench.log.group_reader("three", "group", "a")
    b = bench.again().group_reader("three", "group", "b")
    join(a, b)
    for p in range(3):
        fill(bench.log, "three", p, 10)
    records: list[Record] = []
    give_up_s = time.monotonic() + 20
    while len(records) < 30 and time.monotonic() < give_up_s:
        records += a.poll(0.1) + b.poll(0.1)
    assert sorted((r.partition, r.offset) for r in records) == [(p, i) for p in range(3) for i in range(10)]
    a.close()
    b.close()


def check_group_commits_its_own(bench: Bench) -> None:
    """A member's commit touches only partitions that are its own."""
    a, b = (bench.again().group_reader("three", "group", member) for member in "ab")
    join(a, b)
    for p in range(3):
        fill(bench.log, "three", p, 3)
    share = set(a.positions())
    a.commit({0: 3, 1: 3, 2: 3})
    a.close()
    b.close()
    a, b = (bench.again().group_reader("three", "group", member) for member in "ab")
    records: list[Record] = []
    give_up_s = time.monotonic() + 20
    while len(records) < 3 * (3 - len(share)) and time.monotonic() < give_up_s:
        records += a.poll(0.1) + b.poll(0.1)
    assert {r.partition for r in records} == {0, 1, 2} - share
    a.close()
    b.close()


def check_group_commits_without_waiting(bench: Bench) -> None:
    """A commit that isn't waited for is stored, the newest positions at last; a revoked partition's isn't."""
    for p in range(3):
        fill(bench.log, "three", p, 4)
    first = bench.log.group_reader("three", "group", "a")
    assert len(read(first, 12)) == 12
    assert first.assigned() == {0, 1, 2}
    for positions in ({0: 1, 1: 1}, {0: 2, 1: 1, 7: 9}, {0: 3, 1: 1}):
        first.commit_async(positions)
    for _ in range(3):  # while one is pending others don't begin: the newest positions are given again
        time.sleep(0.3)
        first.poll(0.1)
        first.commit_async({0: 3, 1: 1})
    first.close()
    second = bench.again().group_reader("three", "group", "a")
    records = read(second, 8)
    assert sorted((r.partition, r.offset) for r in records) == [
        (0, 3), (1, 1), (1, 2), (1, 3), (2, 0), (2, 1), (2, 2), (2, 3),
    ]  # fmt: skip
    second.close()


def check_group_is_left(bench: Bench) -> None:
    """What a member that closes had, others read from its commit on; with what they had they just go on."""
    a, b = bench.log.group_reader("three", "group", "a"), bench.again().group_reader("three", "group", "b")
    join(a, b)
    for p in range(3):
        fill(bench.log, "three", p, 5)
    kept, left = sorted(b.assigned()), sorted(a.assigned())
    assert len(read(a, 5 * len(left))) == 5 * len(left)
    assert len(read(b, 5 * len(kept))) == 5 * len(kept)
    a.commit(dict.fromkeys(left, 2))
    a.close()
    records = read(b, 3 * len(left))
    assert sorted((r.partition, r.offset) for r in records) == [(p, i) for p in left for i in range(2, 5)]
    b.close()


def check_sender(bench: Bench) -> None:
    """Whoever sends learns when a record is acknowledged, or that it has failed; later ones are taken."""
    sender = bench.log.sender("1")
    outcomes: list[tuple[str, LogError | None]] = []
    sender.send("three", 2, b"value", lambda failure: outcomes.append(("good", failure)))
    sender.send("nope", 0, b"value", lambda failure: outcomes.append(("bad", failure)))
    sender.send("three", 2, b"later", lambda failure: outcomes.append(("good", failure)))
    assert sender.flush(20.0)
    assert sorted((name, failure is None) for name, failure in outcomes) == [
        ("bad", False), ("good", True), ("good", True),
    ]  # fmt: skip
    reader = bench.log.reader("three", {2: START})
    assert [r.value for r in read(reader, 2)] == [b"value", b"later"]
    reader.close()
    sender.close()
    sender.close()


def check_group_name_twice(bench: Bench) -> None:
    """Of two members of one name the older can't commit any more, and is told why."""
    old = bench.log.group_reader("one", "group", "a")
    join(old, partitions=1)
    fill(bench.log, "one", 0, 1)
    new = bench.again().group_reader("one", "group", "a")
    assert len(read(new, 1)) == 1
    with pytest.raises(LogError, match="another process reads as member 'a'"):
        old.commit({0: 1})
    old.close()
    new.close()


def check_group_gap(bench: Bench) -> None:
    """A commit older than the log's start is a gap for the group too, and START goes on."""
    fill(bench.log, "one", 0, 10)
    first = bench.log.group_reader("one", "group", "a")
    read(first, 10)
    first.commit({0: 2})
    first.close()
    bench.truncate("one", 0, 5)
    second = bench.again().group_reader("one", "group", "a")
    with pytest.raises(LogGap, match="offset 2 was wanted"):
        read(second, 1)
    second.seek(0, START)
    assert [r.offset for r in read(second, 5)] == [5, 6, 7, 8, 9]
    second.close()


def check_commit_without_members(bench: Bench) -> None:
    """A group's offsets are stored by whoever isn't its member; a member that comes later reads from there."""
    for p in range(3):
        fill(bench.log, "three", p, 4)
    committed: list[int] = []
    give_up_s = time.monotonic() + 20
    while len(committed) < 2 and time.monotonic() < give_up_s:
        with suppress(LogUnavailable):  # a broker that has just started elects the group's coordinator
            bench.log.commit("three", "group", {0: 1 + 2 * len(committed), 2: 4})
            committed.append(0)
    member = bench.again().group_reader("three", "group", "a")
    records = read(member, 5)
    assert sorted((r.partition, r.offset) for r in records) == [(0, 3), (1, 0), (1, 1), (1, 2), (1, 3)]
    member.close()


def check_ends_as_of_the_last_poll(bench: Bench) -> None:
    """A reader knows where the log ended when it last polled, however far it has read."""
    fill(bench.log, "one", 0, 6)
    reader = bench.log.reader("one", {0: 1})
    assert len(read(reader, 2, records_max=2)) == 2
    assert reader.ends() == {0: 6}
    reader.close()


def check_close_twice(bench: Bench) -> None:
    """Closing twice is as good as closing once, for readers and for the log."""
    reader, member = bench.log.reader("one", {0: 0}), bench.log.group_reader("one", "group", "a")
    member.poll(0.2)
    log = bench.again()
    log.send("one", 0, b"last")
    for leaving in (reader, member, log):
        leaving.close()
        leaving.close()
    again = bench.again().reader("one", {0: 0})
    assert [r.value for r in read(again, 1)] == [b"last"]
    again.close()


CHECKS = [check for name, check in sorted(globals().items()) if name.startswith("check_")]
