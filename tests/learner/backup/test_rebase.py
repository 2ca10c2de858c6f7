"""Kafka was lost: topics and their records come back, and the learner goes on at the new log's start."""

from itertools import count
from pathlib import Path

import pytest
from msgspec.structs import replace

from learner.backup.backup_manifest import StoredTopic
from learner.backup.restore import check_empty, forget_start, missing_topics, restore_files, restore_records
from learner.backup.topic_records import COMPACTED
from learner.checkpoints.checkpoint_files import PASSED, CheckpointFiles
from learner.checkpoints.checkpointer import Checkpointer
from stream.events.codec import encode, encode_record
from stream.events.topics import ERASED, EXAMPLES, FORMATS, HISTORIES, ITEMS, USERS
from stream.events.types import Erase, Item, User
from stream.history.erasing import read_erased
from stream.log.memory_log import MemoryLog
from stream.runtime.errors import BackupError
from tests.support.backed_up import Machine, folders_in, new_log
from tests.support.checkpointed_life import LOG, Life, learn
from tests.support.learned_models import state_of

Contents = dict[str, list[tuple[int, bytes | None, bytes | None]]]


def contents(log: MemoryLog) -> Contents:
    """The records of compacted topics, of a key the newest."""
    found: Contents = {}
    for topic in COMPACTED:
        reader = log.reader(topic.name, log.starts(topic.name))
        newest = {(one.partition, one.key): one.value for one in reader.poll(0, 100_000)}
        found[topic.name] = sorted((p, key, value) for (p, key), value in newest.items() if value is not None)
    return found


def fill(log: MemoryLog, first: int = 0, last: int = 20) -> None:
    """Items, users, histories, the ledger; some are replaced, some are deleted."""
    for n in range(first, last):
        log.send(ITEMS.name, n % 2, encode(Item(f"i{n}", {"price": float(n)})), f"i{n}".encode())
        log.send(USERS.name, n % 2, encode(User(f"u{n}", {"age": float(n)})), f"u{n}".encode())
        log.send(HISTORIES.name, n % 2, b"history", f"u{n}\x00i{n}".encode())
        if n % 5 == 0:
            log.send(USERS.name, n % 2, None, f"u{n}".encode())
            log.send(ERASED.name, 0, encode(Erase(f"u{n}", 1_000 + n)), f"u{n}/{n}".encode())
    log.send(FORMATS.name, 0, b'{"level":1,"release":"0.2"}', b"level")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A learner with a checkpoint at offset 60, and topics."""
    made = Machine(tmp_path)
    fill(made.log)
    made.learn_until(60)
    made.life.finish()
    return made


def restored(machine: Machine, local: Path, new: MemoryLog, backup: int = -1) -> Life:
    """On a new machine, with a new log."""
    backups, folders = machine.backups, folders_in(local)
    manifest = backups.read(backups.ids()[backup])
    restore_records(backups, manifest, folders, new, lambda topic: None)
    restore_files(backups, manifest, folders, machine.clock, new)
    forget_start(folders)
    life = Life(folders.checkpoints)
    life.restart()
    return life


def test_topics_have_their_records_again(machine: Machine, tmp_path: Path) -> None:
    """Of each key the newest, in its partition; deleted ones stay deleted."""
    machine.back_up(machine.log)
    new = new_log()
    restored(machine, tmp_path / "new", new)
    assert contents(new) == contents(machine.log)
    assert len(contents(new)[USERS.name]) == 16
    assert not (tmp_path / "new/checkpoints/small.restoring.json").exists()


def test_a_later_backup_writes_what_was_appended(machine: Machine, tmp_path: Path) -> None:
    """Records that an earlier one has aren't written again, unless more came since than there were."""
    first = machine.back_up(machine.log)
    fill(machine.log, 15, 22)
    second = machine.back_up(machine.log)
    of_users = [next(one for one in done.manifest.records if one.topic == USERS.name) for done in (first, second)]
    assert of_users[1].blobs[:1] == of_users[0].blobs
    assert (of_users[1].first, of_users[1].later) == (24, 9)
    assert second.blobs == 4, "feature.names has no records, and formats the same as before"
    new = new_log()
    restored(machine, tmp_path / "new", new)
    assert contents(new) == contents(machine.log)


def test_a_topic_that_grew_much_is_read_again(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """So a backup has what compaction left, not all that ever was."""
    monkeypatch.setattr("learner.backup.topic_records.LATER_MIN", 0)
    machine.back_up(machine.log)
    for _ in range(2):
        fill(machine.log)
    machine.back_up(machine.log)
    for topic in (USERS, ITEMS, HISTORIES):
        for partition, end in machine.log.ends(topic.name).items():
            machine.log.truncate(topic.name, partition, end - 10)  # as compaction removes replaced records
    users = next(one for one in machine.back_up(machine.log).manifest.records if one.topic == USERS.name)
    assert (users.first, users.later, len(users.blobs)) == (20, 0, 1)


def test_a_log_that_was_recreated_is_read_from_its_start(machine: Machine) -> None:
    """Its offsets are lower than those of the backup before."""
    machine.back_up(machine.log)
    new = new_log()
    fill(new, 0, 3)
    users = next(one for one in machine.back_up(new).manifest.records if one.topic == USERS.name)
    assert (users.first, users.later) == (4, 0)


def test_without_kafka_topics_are_those_of_the_backup_before(machine: Machine) -> None:
    """The learner's disk may be lost while Kafka is down, too."""
    first = machine.back_up(machine.log).manifest
    machine.learn_until(70)
    machine.life.finish()
    second = machine.back_up(None, []).manifest
    assert (second.records, second.topics, second.offset) == (first.records, first.topics, 70)


def test_the_learner_goes_on_at_the_new_logs_start_and_learns_nothing_twice(machine: Machine, tmp_path: Path) -> None:
    """What producers send again is emitted again, with the same ids; only what is new is learned."""
    machine.back_up(machine.log)
    new = new_log()
    for n in range(3):
        new.send(EXAMPLES.name, 0, encode_record([]), b"0")
        new.truncate(EXAMPLES.name, 0, n)
    life = restored(machine, tmp_path / "new", new)
    assert life.offset == new.starts(EXAMPLES.name)[0] == 2
    examples, state = life.model.examples, state_of(life.model)
    learn(life.model, 58)
    learn(life.model, 59)
    assert life.model.examples == examples
    assert life.model.duplicates == machine.life.model.duplicates + 21, "18 examples, 3 organic installs"
    assert state_of(life.model)["wide_rows"] == state["wide_rows"]
    learn(life.model, 60)
    assert life.model.examples == examples + 9


def test_the_checkpoint_says_which_log_it_is_of(machine: Machine, tmp_path: Path) -> None:
    """Its next ones, too; and backups of them know that their topics are others."""
    machine.back_up(machine.log)
    new = new_log()
    life = restored(machine, tmp_path / "new", new)
    found = life.files.newest()
    assert found is not None
    assert found.meta.log_ms > 1_700_000_000_000
    assert found.meta.examples == machine.life.model.examples
    fill(new, 0, 60)
    machine.folders, machine.life = folders_in(tmp_path / "new"), life
    manifest = machine.back_up(new).manifest
    assert manifest.log_ms == found.meta.log_ms
    assert next(one for one in manifest.records if one.topic == USERS.name).later == 0


def test_pinned_checkpoints_are_of_the_new_log_too(machine: Machine, tmp_path: Path) -> None:
    """And those of the old log are gone: a learner that reads one would look for its offset in the new log."""
    files = machine.life.files
    files.pin(files.paths()[0].name, PASSED)
    machine.learn_until(80)
    machine.life.writer = Checkpointer(machine.life.model, files, 80)
    machine.life.finish()
    machine.back_up(machine.log)
    back = restored(machine, tmp_path / "new", new_log()).files
    pinned = back.pinned(PASSED)
    assert pinned is not None
    metas = [back.named(path.name).meta for path in back.paths()]
    assert [meta.offset for meta in metas] == [0, 0]
    assert metas[0].log_ms == metas[1].log_ms > 0
    assert back.named(pinned).meta.examples == files.named(files.pinned(PASSED) or "").meta.examples


def test_the_ledger_is_that_of_the_newest_backup(machine: Machine, tmp_path: Path) -> None:
    """Who was erased after the backup that is restored stays erased."""
    machine.back_up(machine.log)
    machine.log.send(ERASED.name, 0, encode(Erase("u7", 5_000)), b"u7/5000")
    machine.back_up(machine.log)
    new = new_log()
    restored(machine, tmp_path / "new", new, 0)
    assert read_erased(new) == {"u0": 1_000, "u5": 1_005, "u7": 5_000, "u10": 1_010, "u15": 1_015}


def test_erasures_of_every_backup_count_whatever_the_new_ledger_has(machine: Machine, tmp_path: Path) -> None:
    """Somebody was erased on the new Kafka before the restore; the newest backup was written with an empty Kafka."""
    machine.back_up(machine.log)
    machine.back_up(new_log())
    new = new_log()
    new.send(ERASED.name, 0, encode(Erase("u3", 9_000)), b"u3/9000")
    restored(machine, tmp_path / "new", new, 0)
    assert read_erased(new) == {"u0": 1_000, "u3": 9_000, "u5": 1_005, "u10": 1_010, "u15": 1_015}


def test_a_log_is_newer_than_the_one_before_whatever_the_clock_says(machine: Machine, tmp_path: Path) -> None:
    """Rankers would refuse its versions otherwise."""
    machine.back_up(machine.log)
    first = restored(machine, tmp_path / "new", new_log()).files.newest()
    assert first is not None
    machine.folders = folders_in(tmp_path / "new")
    machine.back_up(new_log())
    machine.clock.ms -= 3_600_000
    second = restored(machine, tmp_path / "newer", new_log()).files.newest()
    assert second is not None
    assert second.meta.log_ms > first.meta.log_ms


def test_a_kafka_that_is_not_lost_is_refused(machine: Machine) -> None:
    """Its examples would be learned again from the start."""
    topic = StoredTopic(EXAMPLES.name, 1, 1, {}, "a")
    manifest = machine.back_up(machine.log, [topic]).manifest
    with pytest.raises(BackupError, match="restore without --rebase"):
        missing_topics(manifest, [topic])
    assert missing_topics(manifest, [replace(topic, id="b")]) == []
    assert missing_topics(manifest, []) == [topic]


def test_topics_with_records_stay_as_they_are(machine: Machine, tmp_path: Path) -> None:
    """What a producer has sent to the new log is newer than the backup."""
    machine.back_up(machine.log)
    new = new_log()
    new.send(ITEMS.name, 0, encode(Item("i0", {"price": 99.0})), b"i0")
    restored(machine, tmp_path / "new", new)
    assert len(contents(new)[ITEMS.name]) == 1
    assert contents(new)[USERS.name] == contents(machine.log)[USERS.name]


def test_a_restore_that_is_killed_between_records_is_begun_again(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It knows which topics were empty when it first began."""
    machine.back_up(machine.log)
    new, folders = new_log(), folders_in(tmp_path / "new")
    calls, real = count(), new.send

    def dying(*arguments: object) -> None:
        if next(calls) == 30:
            raise KeyboardInterrupt
        real(*arguments)  # type: ignore[arg-type]  # as they came

    monkeypatch.setattr(new, "send", dying)
    with pytest.raises(KeyboardInterrupt):
        restored(machine, tmp_path / "new", new)
    check_empty(folders)
    restored(machine, tmp_path / "new", new)
    assert contents(new) == contents(machine.log)


def test_topics_of_other_partitions_are_refused(machine: Machine, tmp_path: Path) -> None:
    """A user's records would be looked for in another partition."""
    manifest = machine.back_up(machine.log).manifest
    events = manifest.topics[0]
    assert missing_topics(manifest, []) == [events]
    assert missing_topics(manifest, [StoredTopic("events", 2, 3, {})]) == []
    with pytest.raises(BackupError, match="has 7 partitions, and 2"):
        missing_topics(manifest, [StoredTopic("events", 7, 1, {})])
    wider = MemoryLog({topic.name: 3 for topic in COMPACTED} | {EXAMPLES.name: 1}, lambda: 1)
    with pytest.raises(BackupError, match="has 3 partitions, and 2"):
        restored(machine, tmp_path / "new", wider)
    assert not CheckpointFiles(folders_in(tmp_path / "new").checkpoints, owned=False).paths()
    assert len(LOG) > 60
