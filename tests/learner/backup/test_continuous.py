"""Backups beside the learner: for each new checkpoint, and never in its way."""

import threading
from functools import partial
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from learner.backup import continuous
from learner.backup.backup import Written
from learner.backup.continuous import ContinuousBackup, back_up_with_topics, continuous_backup
from stream.runtime.errors import BackupError, LogUnavailable, SettingsError
from stream.runtime.settings import Settings
from tests.support.backed_up import DESCRIBED, NAME, Machine
from tests.support.waiting import wait_until


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A learner with a checkpoint; Kafka is in memory."""
    monkeypatch.setattr(continuous, "LOOK_S", 0.01)
    made = Machine(tmp_path)
    monkeypatch.setattr(continuous, "KafkaLog", lambda settings: made.log)
    monkeypatch.setattr(continuous, "stored_topics", lambda settings: DESCRIBED)
    made.learn_until(20)
    made.life.finish()
    return made


def is_backed_up(machine: Machine, offset: int) -> bool:
    """Whether the newest backup is of this offset."""
    newest = machine.backups.newest()
    return newest is not None and newest.offset == offset


def failures() -> float:
    """As the metric says."""
    return REGISTRY.get_sample_value("thalweg_learner_backup_failures_total") or 0.0


def test_each_new_checkpoint_is_backed_up_and_old_backups_go(machine: Machine, tmp_path: Path) -> None:
    """As the settings say, until the learner stops."""
    target, stopping = tmp_path / "backups", threading.Event()
    settings = Settings(local=machine.local, backup=str(target), backup_keep=2, backup_every_s=1)
    thread = continuous_backup(settings, NAME, stopping)
    assert thread is not None
    thread.start()
    try:
        for offset in (20, 30, 40):
            if offset > 20:
                machine.learn_until(offset)
                machine.life.finish()
            wait_until(partial(is_backed_up, machine, offset))
        wait_until(lambda: len(machine.backups.ids()) == 2, "the first to be removed")
        written = REGISTRY.get_sample_value("thalweg_learner_backup_timestamp_seconds")
        assert written is not None
        assert written > 1_700_000_000
    finally:
        stopping.set()
        thread.join(10)
    assert not thread.is_alive()


def test_a_failure_is_counted_and_tried_again(machine: Machine) -> None:
    """The thread goes on, and the checkpoint that has no backup gets one."""
    stopping, before = threading.Event(), failures()
    answers: list[Exception | Written] = [BackupError("full"), ValueError("of a library"), machine.back_up()]

    def write() -> Written:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        stopping.set()
        return answer

    thread = ContinuousBackup(lambda: "one", write, 0.0, stopping)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert (failures() - before, answers) == (2, [])


def test_the_same_checkpoint_is_backed_up_once(machine: Machine) -> None:
    """Nor before there is one."""
    stopping, names, written = threading.Event(), ["", "a", "a", "a", "b", "b"], list[str]()

    def newest() -> str:
        if len(names) == 1:
            stopping.set()
        return names.pop(0)

    def write() -> Written:
        written.append("once")
        return machine.back_up()

    ContinuousBackup(newest, write, 0.0, stopping).run()
    assert len(written) == 2


def test_while_kafka_is_down_the_checkpoint_is_backed_up(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """With topics as they were."""
    settings = Settings(local=machine.local)
    first = back_up_with_topics(machine.backups, machine.folders, settings, NAME)
    assert first.manifest.topics == DESCRIBED

    def down(settings: Settings) -> None:
        raise LogUnavailable("no broker answers")

    monkeypatch.setattr(continuous, "KafkaLog", down)
    machine.learn_until(30)
    machine.life.finish()
    second = back_up_with_topics(machine.backups, machine.folders, settings, NAME)
    assert (second.manifest.offset, second.manifest.topics) == (30, DESCRIBED)


def test_without_the_setting_there_is_no_thread_and_a_bad_one_is_refused(tmp_path: Path) -> None:
    """A bad target ends the learner's start; one that doesn't answer doesn't."""
    assert continuous_backup(Settings(local=tmp_path), NAME, threading.Event()) is None
    for target in ("gs://bucket/a", str(tmp_path / "x")):
        with pytest.raises(SettingsError):
            continuous_backup(Settings(local=tmp_path, backup=target), NAME, threading.Event())
    (tmp_path / "file").touch()
    assert continuous_backup(Settings(local=tmp_path / "local", backup=str(tmp_path / "file")), NAME, threading.Event())
