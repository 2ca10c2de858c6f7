"""The joiner's loop: the rules of commits, rebalances and outages one by one, with Kafka clients of paper."""

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import (
    CommitFailedError,
    IllegalGenerationError,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    UnknownMemberIdError,
)
from aiokafka.structs import OffsetAndMetadata
from prometheus_client import REGISTRY

from stream.events.codec import decode_entity, decode_events, decode_examples, encode
from stream.events.topics import EVENTS_DLQ
from stream.events.types import DeadLetter, Install, SourceEvent, Tick
from stream.joiner.assigned_partitions import MemoryBudget
from stream.joiner.commit_metadata import JOIN_VERSION, Progress, decode_commit, encode_metadata
from stream.joiner.consumer_loop import ConsumerLoop
from stream.joiner.join import FIRED_MAX, RestartPoint
from stream.joiner.label_rules import LabelRules
from stream.joiner.labels import LabelBatch
from stream.joiner.progress_display import ProgressDisplay
from stream.joiner.record_processor import RUN_BYTES
from stream.log.memory_log import MemoryLog
from stream.runtime.errors import LogError, LogGap, LogTruncated, SettingsError
from stream.runtime.formats import RELEASES
from tests.support.fake_kafka_clients import (
    CAME,
    RULES,
    Paper,
    T,
    assign,
    assigned_loop,
    loop_on,
    message,
    page,
    reads_again,
    revoke,
    take,
)

AT = TopicPartition("events", 0)


def committed(paper: Paper, partition: int = 0) -> tuple[int, int, dict[str, int]] | None:
    """(offset, confirmed, restart point's other fields) of the group's commit."""
    found = paper.stored.get(TopicPartition("events", partition))
    if found is None:
        return None
    metadata = json.loads(found.metadata)
    assert metadata.pop("version") == JOIN_VERSION
    assert metadata.pop("release") == RELEASES[-1]
    assert metadata.pop("rules")["policy"] == "eager"
    metadata.pop("read_ms", None)
    metadata.pop("uncommitted_max", None), metadata.pop("emitted_max", None)
    return found.offset, metadata.pop("confirmed", 0), metadata


def labels_of(paper: Paper) -> list[str]:
    """Request ids of the labels emitted so far, in order."""
    sent = [value or b"" for topic, value in paper.sent if topic == "examples"]
    return [one.page.request_id for value in sent for one in decode_examples(value)[0]]


def ticks_of(paper: Paper) -> list[int]:
    """Times of the ticks written so far."""
    sent = [value or b"" for topic, value in paper.sent if topic == "events"]
    return [tick.time_ms for value in sent for tick in decode_events(value)[0]]


# --- commits ----------------------------------------------------------------------------------------------


def test_a_commit_waits_until_the_broker_has_confirmed(tmp_path: Path) -> None:
    """Nothing is committed while an example that came of an earlier record is on its way."""

    async def story() -> None:
        paper = Paper(confirming=False)
        loop = await assigned_loop(paper, tmp_path, 0)
        events: list[SourceEvent] = [page("r"), Install("w2", "a", T, "i"), Tick(T + 5_000)]
        for offset, event in enumerate(events):
            await take(loop, message(offset, event))
        task = asyncio.create_task(loop.commit())
        for future in paper.futures:
            await asyncio.sleep(0)
            assert committed(paper) is None
            future.set_result(None)
        await task
        assert committed(paper) == (3, 3, {"watermark_ms": T + 5_000, "finished_ms": T + 3_000})

    asyncio.run(story())


def test_a_record_that_the_broker_refused_ends_the_loop_uncommitted(tmp_path: Path) -> None:
    """If what came of a record can't be written, its offset isn't committed and the loop ends."""

    async def story() -> None:
        paper = Paper(confirming=False)
        loop = await assigned_loop(paper, tmp_path, 0)
        await take(loop, message(0, page("r"), Tick(T + 5_000)))
        paper.futures[0].set_exception(OSError("refused"))
        await loop.commit()
        assert committed(paper) is None
        assert isinstance(loop.failure, LogError)

    asyncio.run(story())


def test_a_commit_covers_only_what_came_before_it_was_asked_for(tmp_path: Path) -> None:
    """What comes while confirmations are waited for isn't committed with them: its own aren't there yet."""

    async def story() -> None:
        paper = Paper(confirming=False)
        loop = await assigned_loop(paper, tmp_path, 0)
        await take(loop, message(0, page("r"), Tick(T + 5_000)))
        task = asyncio.create_task(loop.commit())
        await asyncio.sleep(0)
        await take(loop, message(1, page("s", T + 5_000), Tick(T + 10_000)))
        told, later = paper.futures
        told.set_result(None)
        await task
        assert not later.done()
        assert committed(paper) == (1, 1, {"watermark_ms": T + 5_000, "finished_ms": T + 3_000})

    asyncio.run(story())


def test_after_a_failure_nothing_more_is_read(tmp_path: Path) -> None:
    """Until the process has ended, records that still come are left for the restart."""

    async def story() -> None:
        paper = Paper()
        loop = loop_on(paper, tmp_path)
        await loop.on_partitions_assigned([AT])
        paper.batches = [{0: [message(0, page("r"))]}, LogError("broken"), {0: [message(1, Tick(T + 5_000))]}]
        await asyncio.wait_for(loop.run(), 30.0)
        assert str(loop.failure) == "broken"
        assert (labels_of(paper), loop.assigned.partitions[0].next_offset) == ([], 1)

    asyncio.run(story())


def test_a_commit_stays_behind_open_pages_in_strict_order(tmp_path: Path) -> None:
    """Its offset is the oldest record that is needed; confirmed is all that was read."""

    async def story() -> None:
        paper = Paper()
        loop = await assigned_loop(paper, tmp_path, 0)
        events: list[SourceEvent] = [Tick(T - 5_000), page("late", T), page("early", T - 1_900), Tick(T + 1_500)]
        for offset, event in enumerate(events):
            await take(loop, message(offset, event))
        await loop.commit()
        assert committed(paper) == (1, 4, {"watermark_ms": T - 5_000, "finished_ms": T - 500})

    asyncio.run(story())


@pytest.mark.parametrize("lost", [False, True])
def test_a_burst_goes_out_in_parts_and_is_committed_when_all_of_it_is_out(tmp_path: Path, lost: bool) -> None:
    """Before all that a batch led to is emitted, no commit passes it; a partition that goes meanwhile emits no more."""

    async def story() -> None:
        paper = Paper()
        loop = await assigned_loop(paper, tmp_path, 0)
        pages = [page(f"r{k}", T + k % 7) for k in range(6 * FIRED_MAX + 1)]
        for k in range(0, len(pages), FIRED_MAX):
            await take(loop, message(k // FIRED_MAX, *pages[k : k + FIRED_MAX]))
        await loop.commit()
        before = paper.stored[AT]
        burst = asyncio.create_task(take(loop, message(7, Tick(T + 5_000))))
        commit = asyncio.create_task(loop.commit())
        seen = set()
        while not burst.done():
            seen.add(len(labels_of(paper)))
            assert paper.stored[AT] == before or burst.done()
            if lost and len(seen) > 1:
                loop.assigned.drop([0])
            await asyncio.sleep(0)
        await commit
        await loop.commit()
        if lost:
            await loop.outbox.flush()
            assert max(seen) <= len(labels_of(paper)) < len(pages)
            assert paper.stored[AT] == before
            return
        assert len(seen) > 3
        assert committed(paper) == (8, 8, {"watermark_ms": T + 5_000, "finished_ms": T + 3_000})
        assert labels_of(paper) == [one.request_id for one in sorted(pages, key=lambda one: one.time_ms)]

    asyncio.run(story())


def test_no_more_is_emitted_without_a_commit_than_a_learner_remembers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the midst of a batch a commit is stored: what a kill leaves to be emitted again is bounded."""
    monkeypatch.setattr("stream.joiner.record_processor.RUN_RECORDS", 1)

    async def story() -> None:
        paper = Paper()
        loop = await assigned_loop(paper, tmp_path, 0, uncommitted_max=4)
        await take(loop, *(message(k, page(f"r{k}", T + 4_000 * k)) for k in range(10)))
        await loop.outbox.flush()
        assert len(labels_of(paper)) == 9, "of two examples each"
        stored = committed(paper)
        assert stored is not None
        assert stored[1] == 10, "the third commit"

    asyncio.run(story())


@pytest.mark.parametrize("spoiled", ["late", "undecodable"])
def test_the_bound_holds_where_every_run_has_something_bad(tmp_path: Path, spoiled: str) -> None:
    """A trickle of late or undecodable events doesn't keep commits away."""

    async def story() -> None:
        paper = Paper()
        loop = await assigned_loop(paper, tmp_path, 0, uncommitted_max=600)
        worst, add = 0, loop.tally.add_labels

        def noted(labels: LabelBatch) -> None:
            nonlocal worst
            add(labels)
            worst = max(worst, loop._commits.uncommitted)

        loop.tally.add_labels = noted  # type: ignore[method-assign]
        late, unknown = page("late", T - 500_000), b"\x92\x63\x01"
        for k in range(0, 5_000, 1_000):
            pages = [page(f"r{n}", T + 50 * n) for n in range(k, k + 1_000)]
            some = [
                message(n, one, late) if spoiled == "late" and not n % 100
                else message(n, raw=b"\x92" + encode(one) + unknown) if spoiled == "undecodable" and not n % 100
                else message(n, one, came_ms=one.time_ms)
                for n, one in enumerate(pages, k)
            ]  # fmt: skip
            await take(loop, *some)
        assert loop.tally.emitted > 5_000
        assert worst <= 600 + 2 * 512, "the bound, and what records at work lead to"

    asyncio.run(story())


@pytest.mark.parametrize("rebuilding", [False, True])
def test_records_at_hand_are_bounded_while_nothing_is_emitted(tmp_path: Path, rebuilding: bool) -> None:
    """While a state is rebuilt in silence, or windows are open, no more bytes of records are kept than allowed."""

    async def story() -> None:
        paper = Paper()
        rules = LabelRules("wait", window_ms=3_600_000, known_ms=1_000)
        if rebuilding:
            progress = Progress(1_000_000)
            paper.stored[AT] = OffsetAndMetadata(0, encode_metadata(RestartPoint(0, 0, 0), rules, "", progress))
            paper.ends[0] = 2_000_000
        loop = await assigned_loop(paper, tmp_path, 0, rules=rules)
        owned = loop.assigned.partitions[0]
        owned.cache.bytes_max = 20_000
        await take(loop, *(message(k, page(f"r{k}", T + k)) for k in range(2_000)))
        assert loop.tally.emitted == 0
        assert owned.cache.bytes <= 20_000 + RUN_BYTES

    asyncio.run(story())


def test_a_commit_can_be_taken_in_the_batch_that_ends_a_rebuild(tmp_path: Path) -> None:
    """What is emitted behind the confirmed offset counts from its first record on."""

    async def story() -> None:
        paper = Paper()
        metadata = encode_metadata(RestartPoint(0, 0, 0), RULES, "", Progress(3))
        paper.stored[AT] = OffsetAndMetadata(0, metadata)
        paper.ends[0] = 1_000
        loop = await assigned_loop(paper, tmp_path, 0, uncommitted_max=100)
        await take(loop, *(message(k, page(f"r{k}", T + 40 * k)) for k in range(1_000)))
        assert loop.tally.emitted > 1_500
        stored = committed(paper)
        assert stored is not None
        assert stored[1] > 500

    asyncio.run(story())


def test_nothing_more_is_emitted_while_commits_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the bound the join waits until a commit is stored."""
    monkeypatch.setattr("stream.joiner.record_processor.RUN_RECORDS", 1)
    monkeypatch.setattr("stream.joiner.consumer_loop.RETRY_S", 0.001)

    async def story() -> None:
        paper = Paper()
        loop = await assigned_loop(paper, tmp_path, 0, uncommitted_max=4)
        paper.refusal = KafkaError("not now")
        taking = asyncio.create_task(take(loop, *(message(k, page(f"r{k}", T + 4_000 * k)) for k in range(10))))
        for _ in range(50):
            await asyncio.sleep(0.001)
        assert (taking.done(), loop.tally.emitted) == (False, 6)
        paper.refusal = None
        await taking
        assert loop.tally.emitted == 18
        await loop.commit()
        assert decode_commit(*paper.stored[AT]).progress.emitted_max == 6, "the learner checks what it remembers"

    asyncio.run(story())


def test_what_a_commit_on_its_way_covers_may_be_emitted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as it isn't stored, its examples count among those without a commit: no more are emitted than allowed."""
    monkeypatch.setattr("stream.joiner.record_processor.RUN_RECORDS", 1)

    async def story() -> None:
        paper = Paper(confirming=False)
        loop = await assigned_loop(paper, tmp_path, 0, uncommitted_max=5)
        await take(loop, *(message(k, page(f"r{k}", T + 4_000 * k)) for k in range(3)))
        commit = asyncio.create_task(loop.commit())
        await asyncio.sleep(0)
        batch = asyncio.create_task(take(loop, *(message(k, page(f"r{k}", T + 4_000 * k)) for k in range(3, 9))))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not batch.done()
        assert labels_of(paper) == ["r0", "r1", "r2"], "of two examples each; five may be uncommitted"
        while not batch.done():
            for future in paper.futures:
                if not future.done():
                    future.set_result(None)
            await asyncio.sleep(0)
        await commit
        await loop.outbox.flush()
        assert len(labels_of(paper)) == 8

    asyncio.run(story())


def test_records_of_one_commit_may_need_many_batches(tmp_path: Path) -> None:
    """What doesn't fit into a batch goes into the next, in order; the commit waits for all of them."""

    async def story() -> None:
        paper = Paper(confirming=False)
        loop = await assigned_loop(paper, tmp_path, 0)
        await take(loop, *(message(k, page(f"r{k}", T + 2_000 * k)) for k in range(8)))
        assert labels_of(paper) == [f"r{k}" for k in range(7)]
        assert len(paper.futures) == 3
        task = asyncio.create_task(loop.commit())
        for future in paper.futures:
            await asyncio.sleep(0)
            assert committed(paper) is None
            future.set_result(None)
        await task
        assert committed(paper) is not None

    asyncio.run(story())


# --- starts -----------------------------------------------------------------------------------------------


def test_a_restart_rebuilds_what_is_confirmed_in_silence(tmp_path: Path) -> None:
    """Open pages are known again, and nothing that was emitted comes again; what follows is as if never stopped."""

    async def story() -> None:
        paper, rules = Paper(), replace(RULES, policy="fake_negative")
        records = [message(k, page(f"r{k}", T + k)) for k in range(5)]
        first = await assigned_loop(paper, tmp_path, 0, rules=rules)
        await take(first, *records[:4])
        paper_commit = first.assigned.due_commits()[0][1]
        paper.stored[AT] = OffsetAndMetadata(*paper_commit)
        assert labels_of(paper) == ["r0", "r1", "r2", "r3"]
        second = await assigned_loop(paper, tmp_path, 0, rules=rules)
        assert paper.positions[0] == 0
        await take(second, *records)
        assert labels_of(paper) == ["r0", "r1", "r2", "r3", "r4"]
        assert second.assigned.partitions[0].joiner.open_pages == 5

    asyncio.run(story())


def test_a_rebuild_that_ends_early_commits_nothing(tmp_path: Path) -> None:
    """Until the state is that of the commit, the commit stays: a revocation meanwhile leaves it to the next owner."""

    async def story() -> None:
        paper = Paper()
        first = await assigned_loop(paper, tmp_path, 0)
        await take(first, *(message(k, page(f"r{k}")) for k in range(4)))
        await first.commit()
        stored = paper.stored[AT]
        second = await assigned_loop(paper, tmp_path, 0)
        await take(second, message(0, page("r0")))
        await second.commit()
        await revoke(second, 0)
        assert paper.stored[AT] == stored
        await assign(second, 0)
        assert paper.positions[0] == 0

    asyncio.run(story())


def test_memory_is_bounded_once_the_state_is_rebuilt(tmp_path: Path) -> None:
    """Less memory than the owner before had would close pages in silence, whose labels nobody has emitted."""

    async def story() -> None:
        paper, little = Paper(), replace(RULES, bytes_max=350)
        records = [message(k, page(f"r{k}", T + k)) for k in range(6)]
        first = await assigned_loop(paper, tmp_path, 0)
        await take(first, *records[:5])
        await first.commit()
        second = await assigned_loop(paper, tmp_path, 0, rules=little)
        await take(second, *records[:5])
        assert (labels_of(paper), second.assigned.partitions[0].joiner.open_pages) == ([], 5)
        await take(second, records[5])
        emitted = labels_of(paper)
        assert 0 < len(emitted) == 6 - second.assigned.partitions[0].joiner.open_pages

    asyncio.run(story())


def test_a_worker_with_fewer_partitions_remembers_more_of_each(tmp_path: Path) -> None:
    """Its memory is shared by the partitions that it has now: more workers help."""

    async def story() -> None:
        loop = loop_on(Paper(), tmp_path)
        loop.assigned._budget = MemoryBudget(1_000, 100)
        await assign(loop, 0, 1)
        assert [owned.joiner.bytes_max for owned in loop.assigned.partitions.values()] == [500, 500]
        await revoke(loop, 0, 1)
        await assign(loop, 1)
        assert [owned.joiner.bytes_max for owned in loop.assigned.partitions.values()] == [1_000]

    asyncio.run(story())


@pytest.mark.parametrize("commit", [(5, ""), None], ids=["commit", "no commit"])
def test_a_gap_before_the_logs_start_ends_the_loop(tmp_path: Path, commit: tuple[int, str] | None) -> None:
    """What retention took between a commit and the log's start is said; so is a commit that was lost meanwhile."""

    async def story() -> None:
        paper = Paper()
        paper.starts[0] = 7
        if commit is not None:
            paper.stored[AT] = OffsetAndMetadata(*commit)
        wanted = 5 if commit else 0
        with pytest.raises(LogGap, match=f"offset {wanted} was wanted, but the log now starts at 7.*--accept-gap"):
            await assigned_loop(paper, tmp_path, 0)
        loop = await assigned_loop(paper, tmp_path, 0, accept_gap=True)
        assert (loop.assigned.partitions[0].next_offset, paper.positions[0]) == (7, 7)

    asyncio.run(story())


@pytest.mark.parametrize(
    ("start", "end", "new_from", "reads_from", "emits_from"),
    [(0, 3, 0, 0, 0), (0, 7, 6, 6, 6), (0, 9, 9, 8, 9)],
    ids=["topic made again", "tail lost", "only what was confirmed lost"],
)
def test_a_commit_behind_the_logs_end_ends_the_loop(
    tmp_path: Path, start: int, end: int, new_from: int, reads_from: int, emits_from: int
) -> None:
    """New records would be taken for old ones. --accept-gap goes on with what was appended since."""

    async def story() -> None:
        paper = Paper()
        first = await assigned_loop(paper, tmp_path, 0)
        await take(first, message(7, Tick(T)), message(8, page("r")), message(9, page("s")))
        await first.commit()
        assert committed(paper) == (8, 10, {"watermark_ms": T, "finished_ms": T - 2_000})
        paper.starts[0], paper.ends[0], paper.new_from[0] = start, end, new_from
        with pytest.raises(LogTruncated, match=f"offset 10 was wanted, but the log now starts at {start} and ends at "
                                               f"{end}.*--accept-gap"):  # fmt: skip
            await assigned_loop(paper, tmp_path, 0)
        loop = await assigned_loop(paper, tmp_path, 0, accept_gap=True)
        assert (loop.assigned.partitions[0].next_offset, loop.assigned.partitions[0].emit_from) == (
            reads_from,
            emits_from,
        )

    asyncio.run(story())


def test_a_position_out_of_range_while_running_ends_the_loop(tmp_path: Path) -> None:
    """Retention overtook it, or the log's tail was lost: which, and where the log is, is said."""

    async def story() -> None:
        paper = Paper()
        loop = await assigned_loop(paper, tmp_path, 0)
        await take(loop, message(0, page("r")))
        paper.starts[0] = 5
        paper.batches = [OffsetOutOfRangeError({AT: 1})]
        with pytest.raises(LogGap, match="offset 1 was wanted, but the log now starts at 5"):
            await loop._poll()
        paper.starts[0], paper.ends[0] = 0, 0
        paper.batches = [OffsetOutOfRangeError({AT: 1})]
        with pytest.raises(LogTruncated, match="offset 1 was wanted, but the log now starts at 0 and ends at 0"):
            await loop._poll()

    asyncio.run(story())


@pytest.mark.parametrize("guess", [NoOffsetForPartitionError(AT), OffsetOutOfRangeError({AT: 3})], ids=["none", "3"])
def test_a_position_that_is_not_ours_yet_is_no_error(tmp_path: Path, guess: BaseException) -> None:
    """Before a partition is begun, aiokafka fetches from where it thinks best: what comes of it is thrown away."""

    async def story() -> None:
        paper = Paper()
        loop = loop_on(paper, tmp_path)
        paper.batches = [guess, {0: [message(0, page("r"))]}]
        await loop._poll()
        await loop._poll()
        await assign(loop, 0)
        assert paper.positions[0] == loop.assigned.partitions[0].next_offset == 0

    asyncio.run(story())


def test_topics_that_producers_stamp_are_refused(tmp_path: Path) -> None:
    """One producer's clock could make everybody's events late: the message has the command that mends it."""

    async def story() -> None:
        paper = Paper()
        paper.timestamp_type = "CreateTime"
        with pytest.raises(SettingsError, match=r"message.timestamp.type=CreateTime.*thalweg apply-topics"):
            await assigned_loop(paper, tmp_path, 0)
        paper.timestamp_type = "LogAppendTime"
        loop = await assigned_loop(paper, tmp_path, 0)
        stamped = SimpleNamespace(**{**vars(message(0, page("r"))), "timestamp_type": 0})
        paper.timestamp_type = "CreateTime"
        with pytest.raises(SettingsError, match="CreateTime"):
            await take(loop, stamped)
        paper.timestamp_type = "LogAppendTime"  # it was mended, the record is from before
        await take(loop, stamped)
        assert loop.assigned.partitions[0].joiner.open_pages == 1

    asyncio.run(story())


def test_a_newer_joiners_commit_is_refused(tmp_path: Path) -> None:
    """Older code would rebuild another state; older commits are read."""

    async def story() -> None:
        paper = Paper()
        for version, refused in ((JOIN_VERSION + 1, True), (JOIN_VERSION, False), (0, False)):
            metadata = json.dumps({"watermark_ms": T, "finished_ms": T, "version": version})
            paper.stored[AT] = OffsetAndMetadata(5, metadata)
            for accepting in (False, True):
                loop = loop_on(paper, tmp_path, accept_rules=accepting)
                if refused:
                    with pytest.raises(SettingsError, match="made by a newer joiner"):
                        await assign(loop, 0)
                else:
                    await assign(loop, 0)
                    assert loop.assigned.partitions[0].joiner.watermark_ms == T

    asyncio.run(story())


def test_commits_of_other_rules_or_another_model_need_consent(tmp_path: Path) -> None:
    """What differs is named. With --accept-rules records from the commit's offset on are judged and emitted again."""

    async def story() -> None:
        paper = Paper()
        first = await assigned_loop(paper, tmp_path, 0, model="a")
        await take(first, message(0, page("r")), message(1, page("s")))
        await first.commit()
        same = await assigned_loop(paper, tmp_path, 0, model="a")
        assert same.assigned.partitions[0].emit_from == 2
        other = replace(RULES, window_ms=3_000)
        for rules, model, says in (
            (other, "a", "window_ms was 1000 and is 3000"),
            (RULES, "b", "the model was a and is b"),
        ):
            with pytest.raises(SettingsError, match=f"{says}.*--accept-rules"):
                await assigned_loop(paper, tmp_path, 0, rules=rules, model=model)
            loop = await assigned_loop(paper, tmp_path, 0, rules=rules, model=model, accept_rules=True)
            assert (loop.assigned.partitions[0].next_offset, loop.assigned.partitions[0].emit_from) == (0, 0)

    asyncio.run(story())


def test_the_count_of_late_events_survives_a_change_of_owner(tmp_path: Path) -> None:
    """It stands in the commit; what is read again isn't counted again."""

    async def story() -> None:
        paper = Paper()
        first = await assigned_loop(paper, tmp_path, 0)
        await take(first, message(0, page("open", T + 9_000)), message(1, Tick(T + 9_000)), message(2, page("late")))
        await first.commit()
        second = await assigned_loop(paper, tmp_path, 0)
        await take(second, message(0, page("open", T + 9_000)), message(1, Tick(T + 9_000)), message(2, page("late")))
        assert second.assigned.partitions[0].late == 1
        await take(second, message(3, page("late, too")))
        assert second.assigned.partitions[0].late == 2
        letters = [decode_entity(value or b"", DeadLetter) for topic, value in paper.sent if topic == EVENTS_DLQ.name]
        assert [(letter.error, letter.offset) for letter in letters] == [("Late", 2), ("Late", 3)]

    asyncio.run(story())


def test_a_restart_reads_on_with_the_floor_of_the_commit(tmp_path: Path) -> None:
    """What was forgotten early, because memory was full, is late after a restart as it was before."""

    async def story() -> None:
        paper, rules = Paper(), replace(RULES, bytes_max=100)
        first = await assigned_loop(paper, tmp_path, 0, rules=rules)
        await take(first, message(0, page("r", T)), message(1, page("s", T + 1)))
        await first.commit()
        assert committed(paper) == (1, 2, {"watermark_ms": T, "finished_ms": T, "floor_ms": T})
        second = await assigned_loop(paper, tmp_path, 0)
        await take(second, message(1, page("s", T + 1)), message(2, page("r", T)))
        owned = second.assigned.partitions[0]
        assert (owned.late, owned.joiner.open_pages) == (1, 1)

    asyncio.run(story())


# --- rebalances -------------------------------------------------------------------------------------------


def test_a_rebalance_keeps_the_state_of_partitions_that_come_back(tmp_path: Path) -> None:
    """It goes on where it was: nothing is read again, nothing is emitted again."""

    async def story() -> None:
        paper = Paper()
        loop = await assigned_loop(paper, tmp_path, 0, 1)
        await take(loop, message(0, page("r")), message(1, page("s")))
        joiner = loop.assigned.partitions[0].joiner
        await revoke(loop, 0, 1)
        assert loop.assigned.partitions == {}
        assert committed(paper) == (0, 2, {"watermark_ms": 0, "finished_ms": T - 2_000})
        await assign(loop, 0)
        assert loop.assigned.partitions[0].joiner is joiner
        assert paper.positions[0] == 2
        await take(loop, message(2, Tick(T + 5_000)))
        assert labels_of(paper) == ["r", "s"]

    asyncio.run(story())


def test_a_state_is_not_kept_once_another_has_committed(tmp_path: Path) -> None:
    """The other has gone on from the commit: this worker begins again from where that one was."""

    async def story() -> None:
        paper = Paper()
        loop = await assigned_loop(paper, tmp_path, 0, 1)
        await take(loop, message(0, page("r")), message(1, page("s")))
        await revoke(loop, 0, 1)
        await assign(loop, 1)
        await revoke(loop, 1)
        await assign(loop, 0, 1)
        assert loop.assigned.partitions[0].rebuild_from == 0, "it was another's meanwhile"
        await take(loop, message(0, page("r")), message(1, page("s")), message(2, page("t")))
        await revoke(loop, 0, 1)
        stored = paper.stored[AT]
        paper.stored[AT] = OffsetAndMetadata(1, stored.metadata)
        await assign(loop, 0, 1)
        assert (loop.assigned.partitions[0].rebuild_from, paper.positions[0]) == (1, 1)

    asyncio.run(story())


def test_a_revocation_waits_for_the_batch_at_work(tmp_path: Path) -> None:
    """What a record led to is put out to its end; the rest of the batch is left, and read again."""

    async def story() -> None:
        paper = Paper()
        loop = await assigned_loop(paper, tmp_path, 0, 1)
        first = message(0, page("r"), Tick(T + 5_000))
        going = reads_again(loop, first)
        paper.batches = [{0: [first], 1: [message(0, page("s", partition=1))]}]
        reading = asyncio.create_task(loop._poll())
        await asyncio.sleep(0.01)
        revoking = asyncio.create_task(revoke(loop, 0, 1))
        await asyncio.sleep(0.01)
        assert not revoking.done()
        going.set()
        await asyncio.gather(reading, revoking)
        assert committed(paper) == (1, 1, {"watermark_ms": T + 5_000, "finished_ms": T + 3_000})
        assert labels_of(paper) == ["r"]
        await assign(loop, 0, 1)
        assert (paper.positions[0], paper.positions[1]) == (1, 0)

    asyncio.run(story())


def test_a_record_that_takes_too_long_is_given_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The group doesn't wait for it: its state is dropped, not kept, and nothing of it is committed."""
    monkeypatch.setattr("stream.joiner.consumer_loop.REVOKE_S", 0.01)

    async def story() -> None:
        paper = Paper()
        loop = await assigned_loop(paper, tmp_path, 0)
        first = message(0, page("r"), Tick(T + 5_000))
        going = reads_again(loop, first)
        paper.batches = [{0: [first]}]
        reading = asyncio.create_task(loop._poll())
        await asyncio.sleep(0.01)
        await revoke(loop, 0)
        going.set()
        await reading
        assert (labels_of(paper), committed(paper)) == ([], None)
        await assign(loop, 0)
        assert paper.positions[0] == 0

    asyncio.run(story())


def test_a_commit_for_a_partition_that_went_is_not_stored(tmp_path: Path) -> None:
    """One that was on its way when the partition went: what stays is stored."""

    async def story() -> None:
        paper = Paper(confirming=False)
        loop = await assigned_loop(paper, tmp_path, 0, 1)
        await take(loop, message(0, page("r"), Tick(T + 5_000)))
        await take(loop, message(0, page("s", partition=1), Tick(T + 5_000)), partition=1)
        task = asyncio.create_task(loop.commit())
        await asyncio.sleep(0)
        loop.assigned.drop([0])
        for future in paper.futures:
            future.set_result(None)
        await task
        assert committed(paper) is None
        assert committed(paper, 1) is not None

    asyncio.run(story())


def test_an_assignment_that_is_overtaken_by_another_begins_nothing(tmp_path: Path) -> None:
    """What was asked for the first says nothing of the second."""

    async def story() -> None:
        paper = Paper()
        loop = loop_on(paper, tmp_path)
        ask = paper.end_offsets

        async def slow(wanted: list[Any]) -> dict[Any, int]:
            await revoke(loop)
            await loop.on_partitions_assigned([TopicPartition("events", 1)])
            paper.end_offsets = ask  # type: ignore[method-assign]
            return await ask(wanted)

        paper.end_offsets = slow  # type: ignore[method-assign]
        await assign(loop, 0)
        assert loop.assigned.partitions == {}
        assert loop._new_assignment == {1}

    asyncio.run(story())


@pytest.mark.parametrize(
    ("cause", "pause_s", "ends"),
    [(UnknownMemberIdError(), 5, True), (UnknownMemberIdError(), 50, False), (IllegalGenerationError(), 1, False)],
)
def test_two_joiners_of_one_name_do_not_fight_for_ever(
    tmp_path: Path, cause: BaseException, pause_s: float, ends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is expelled again and again ends, and says why; now and then that happens, and rebalances are nothing."""
    now = [1_000.0]
    monkeypatch.setattr("stream.joiner.commit_writer.time", SimpleNamespace(monotonic=lambda: now[0]))

    async def story() -> BaseException | None:
        paper = Paper()
        loop = await assigned_loop(paper, tmp_path, 0)
        refusal = CommitFailedError()
        refusal.__cause__ = cause
        paper.refusal = refusal
        for _ in range(5):
            revoking = asyncio.ensure_future(revoke(loop, 0))
            done, _ = await asyncio.wait([revoking], timeout=0.2)
            if not done:  # it must not rejoin
                revoking.cancel()
                return loop.failure
            await assign(loop, 0)
            now[0] += pause_s
        return loop.failure

    failure = asyncio.run(story())
    assert ("another is named 0" in str(failure)) if ends else failure is None


# --- silence ----------------------------------------------------------------------------------------------


async def take_at(loop: ConsumerLoop, monkeypatch: pytest.MonkeyPatch, now: float, record: Any) -> None:
    """A record of partition 0, read at a moment."""
    with monkeypatch.context() as patched:
        patched.setattr("stream.joiner.consumer_loop.time", SimpleNamespace(monotonic=lambda: now, time=time.time))
        await take(loop, record)


async def watch_at(loop: ConsumerLoop, monkeypatch: pytest.MonkeyPatch, now: float) -> None:
    """The watch as of a moment."""
    with monkeypatch.context() as patched:
        patched.setattr("stream.joiner.tick_writer.time", SimpleNamespace(monotonic=lambda: now, time=time.time))
        await loop.write_ticks()


def test_ticks_are_written_into_silent_partitions_that_are_read_to_their_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Tick needs silence, something remembered, and no lag; its time is the last event's plus the silence."""

    async def story() -> None:
        paper = Paper()
        loop = await assigned_loop(paper, tmp_path, 0, idle_ms=500)
        await take(loop, message(0, page("r")))
        heard = loop.assigned.partitions[0].idleness.active_at
        paper.ends[0] = 1
        await watch_at(loop, monkeypatch, heard + 0.4)
        assert ticks_of(paper) == []
        paper.ends[0] = 2
        await watch_at(loop, monkeypatch, heard + 0.6)
        assert ticks_of(paper) == []
        paper.ends[0] = 1
        await watch_at(loop, monkeypatch, heard + 0.6)
        assert ticks_of(paper) == [T + 600]

    asyncio.run(story())


def test_an_idle_partitions_commit_catches_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is ticked until nothing is remembered, and no longer: else retention would take what the commit points to."""

    async def story() -> None:
        paper = Paper()
        loop = await assigned_loop(paper, tmp_path, 0, idle_ms=500)
        await take(loop, message(0, page("r")))
        now = loop.assigned.partitions[0].idleness.active_at
        for offset in range(1, 20):
            paper.ends[0] = offset
            now += 1.0
            before = len(ticks_of(paper))
            await watch_at(loop, monkeypatch, now)
            if len(ticks_of(paper)) == before:
                break
            await take_at(loop, monkeypatch, now, message(offset, Tick(ticks_of(paper)[-1])))
        await loop.commit()
        assert labels_of(paper) == ["r"]
        assert committed(paper) == (offset, offset, {"watermark_ms": T + 2_000, "finished_ms": T})
        await watch_at(loop, monkeypatch, now + 1_000.0)
        assert len(ticks_of(paper)) == offset - 1

    asyncio.run(story())


def test_after_an_outage_a_partition_is_ticked_when_events_come_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Silence while no broker answers says nothing; nor does it until producers are back, or a grace has passed."""

    async def story() -> None:
        paper = Paper()
        loop = await assigned_loop(paper, tmp_path, 0, 1, idle_ms=500, outage_grace_s=30.0)
        for partition in (0, 1):
            await take(loop, message(0, page(f"r{partition}", partition=partition)), partition=partition)
            paper.ends[partition] = 1
        now = loop.assigned.partitions[1].idleness.active_at
        paper.away = True
        await watch_at(loop, monkeypatch, now + 1.0)
        await watch_at(loop, monkeypatch, now + 1.5)
        paper.away = False
        await watch_at(loop, monkeypatch, now + 20.0)  # the first answer
        await watch_at(loop, monkeypatch, now + 25.0)
        assert ticks_of(paper) == []
        heard = now + 25.0
        await take_at(loop, monkeypatch, heard, message(1, page("held back", T + 400)))
        paper.ends[0] = 2
        await watch_at(loop, monkeypatch, heard + 0.4)
        assert ticks_of(paper) == []
        await watch_at(loop, monkeypatch, heard + 0.6)
        assert ticks_of(paper) == [T + 400 + 600], "of the partition whose producers are back"
        await watch_at(loop, monkeypatch, now + 50.1)
        assert len(ticks_of(paper)) == 3
        assert T + 50_100 in [round(time_ms, -1) for time_ms in ticks_of(paper)], "the grace is over for the other"

    asyncio.run(story())


def test_nothing_is_ticked_while_a_batch_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The consumer's position is behind it, but it isn't joined yet: what it holds would be late."""

    async def story() -> None:
        paper = Paper()
        loop = await assigned_loop(paper, tmp_path, 0, idle_ms=500)
        await take(loop, message(0, page("r")))
        paper.ends[0] = 2
        heard = loop.assigned.partitions[0].idleness.active_at
        paper.batches = [{0: [message(1, page("s"))]}]
        async with loop._batch_lock:
            reading = asyncio.create_task(loop._poll())
            await asyncio.sleep(0.01)
            assert paper.positions[0] == 2
            await watch_at(loop, monkeypatch, heard + 9.0)
            assert ticks_of(paper) == []
        await reading

    asyncio.run(story())


def test_an_event_from_the_future_becomes_a_dead_letter(tmp_path: Path) -> None:
    """An event far ahead of its own arrival moves no watermark; what came with it is taken in."""

    async def story() -> None:
        paper = Paper()
        loop = await assigned_loop(paper, tmp_path, 0, ahead_ms_max=60_000)
        await take(loop, message(0, page("r"), Tick(CAME + 60_001)))
        assert loop.assigned.partitions[0].joiner.watermark_ms == T
        assert loop.assigned.partitions[0].joiner.open_pages == 1
        ((topic, value),) = paper.sent
        letter = decode_entity(value or b"", DeadLetter)
        assert (topic, letter.error, letter.offset) == (EVENTS_DLQ.name, "FromTheFuture", 0)

    asyncio.run(story())


def test_a_rebalance_after_an_outage_does_not_end_the_grace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever gets a partition then waits for its producers, too."""

    async def story() -> None:
        paper = Paper()
        loop = await assigned_loop(paper, tmp_path, 0, idle_ms=500, outage_grace_s=30.0)
        await take(loop, message(0, page("r")))
        paper.ends[0] = 1
        now = loop.assigned.partitions[0].idleness.active_at
        paper.away = True
        await watch_at(loop, monkeypatch, now + 1.0)
        paper.away = False
        await revoke(loop, 0)
        await assign(loop, 0)
        await watch_at(loop, monkeypatch, now + 20.0)
        assert ticks_of(paper) == []

    asyncio.run(story())


def test_the_lag_of_a_partition_is_known(tmp_path: Path) -> None:
    """Records that aren't joined yet, and how old the oldest of them is at most; none once it is revoked."""

    def values() -> tuple[float | None, float | None]:
        records, seconds = (
            REGISTRY.get_sample_value(f"thalweg_joiner_consumer_lag_{unit}", {"partition": "0"})
            for unit in ("records", "seconds")
        )
        return records, seconds

    async def story() -> None:
        loop = await assigned_loop(Paper(), tmp_path, 0)

        def lag(end: int, now_ms: int) -> tuple[float | None, float | None]:
            loop.assigned.set_gauges(0, end, now_ms / 1_000)
            return values()

        await take(loop, message(0, page("r")))
        assert lag(3, CAME + 5_000) == (2, 5)
        assert lag(1, CAME + 3_600_000) == (0, 0)
        assert lag(3, CAME + 3_601_000) == (2, 1), "not since the record before, an hour ago"
        loop.assigned.drop([0])
        assert values() == (None, None)

    asyncio.run(story())


def test_a_group_shows_how_far_joining_is(tmp_path: Path) -> None:
    """What is joined and confirmed, though the joiner's own commit stays at its open page; nothing before a commit."""
    shown: list[tuple[str, dict[int, int]]] = []

    class ShowingLog(MemoryLog):
        def commit(self, topic: str, group: str, positions: Mapping[int, int]) -> None:
            shown.append((group, dict(positions)))

    async def story() -> None:
        paper = Paper()
        loop = await assigned_loop(paper, tmp_path, 0)
        display = ProgressDisplay(lambda: ShowingLog({}, lambda: 1), lambda: loop.assigned.partitions)
        display.commit()
        assert shown == []
        await take(loop, message(0, page("r")), message(1, Tick(T + 10)), message(2, Tick(T + 20)))
        await loop.commit()
        display.commit()
        found = committed(paper)
        assert found is not None
        assert (found[0], shown) == (0, [("joiner-progress", {0: 3})])
        display.close()

    asyncio.run(story())
