"""The format level: what a deployment writes, until its upgrade is finalized."""

from collections.abc import Mapping

import pytest

from stream.events.topics import ERASED, EVENTS, FORMATS, TOPICS
from stream.log.format_level import KEY, raise_level, read_level
from stream.log.kafka_admin import apply_topics, plan_topics
from stream.log.kafka_log import KafkaLog
from stream.log.memory_log import MemoryLog
from stream.runtime.errors import SettingsError
from stream.runtime.formats import FORMATS as ALL_FORMATS
from stream.runtime.formats import LEVEL, RELEASES
from stream.runtime.settings import Settings
from thalweg.cli.format_level import format_level_line
from thalweg.stack.stack import Stack


def log_of(topics: Mapping[str, int]) -> MemoryLog:
    """A log of these topics."""
    return MemoryLog(topics, lambda: 7)


def test_it_is_the_first_one_until_it_is_raised() -> None:
    """Without the topic, too: release 0.2 had none."""
    assert read_level(log_of({EVENTS.name: 1})) == 1
    log = log_of({FORMATS.name: 1})
    assert read_level(log) == 1
    raise_level(log)
    assert read_level(log) == LEVEL > 1


def test_the_newest_record_counts() -> None:
    """Whatever compaction has left; fields that this build doesn't know are skipped."""
    log = log_of({FORMATS.name: 1})
    raise_level(log)
    log.send(FORMATS.name, 0, b'{"level": 1, "release": "0.2", "more": 5}', KEY)
    log.send(FORMATS.name, 0, b'{"level": 9, "release": "0.9"}', b"another key")
    assert read_level(log) == 1


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (b'{"level": 99, "release": "0.9"}', r"raised to those of release 0\.9 .*start release 0\.9 or a later one"),
        (b'{"level": "two"}', "can't be read .*start the newest one that ran here"),
    ],
)
def test_a_level_that_this_build_doesnt_know_is_refused(record: bytes, said: str) -> None:
    """It would write what others have given up. The message says what to start."""
    log = log_of({FORMATS.name: 1})
    log.send(FORMATS.name, 0, record, KEY)
    with pytest.raises(SettingsError, match=said):
        read_level(log)


def test_every_format_has_a_version_at_each_level() -> None:
    """Versions never fall, and some format rises with each level: else the level would say nothing."""
    for level in range(1, LEVEL):
        before, now = ([one.at(at) for one in ALL_FORMATS] for at in (level, level + 1))
        assert all(a <= b for a, b in zip(before, now, strict=True))
        assert before != now
    assert [one.at(LEVEL) for one in ALL_FORMATS] == [one.version for one in ALL_FORMATS]


def test_a_new_deployment_writes_this_releases_formats(stack: Stack, topic_prefix: str) -> None:
    """Nobody runs an earlier release there."""
    settings = Settings(kafka=stack.kafka, topic_prefix=topic_prefix)
    apply_topics(settings, plan_topics(settings))
    assert format_level_line(settings, finalize=False) == f"formats: those of release {RELEASES[-1]}"


def test_an_upgraded_deployment_does_once_it_is_finalized(stack: Stack, topic_prefix: str) -> None:
    """The topics of release 0.2 are there: applying makes the topic of the level, and leaves the level."""
    settings = Settings(kafka=stack.kafka, topic_prefix=topic_prefix)
    earlier = tuple(topic for topic in TOPICS if topic != FORMATS and topic.level == 1)
    apply_topics(settings, plan_topics(settings, earlier))
    assert "release 0.2, until `thalweg apply-topics --finalize`" in format_level_line(settings, finalize=False)
    apply_topics(settings, [change for change in plan_topics(settings) if change.action == "create"])
    left = [change for change in plan_topics(settings) if change.action == "leave"]
    assert [change.topic for change in left] == [settings.topic(ERASED.name)], "whose records 0.2 doesn't know"
    assert "release 0.2, until `thalweg apply-topics --finalize`" in format_level_line(settings, finalize=False)
    said = format_level_line(settings, finalize=True)
    assert "from now on (record 1 → 2, checkpoint 1 → 2): restart learners" in said
    assert format_level_line(settings, finalize=True) == f"formats: those of release {RELEASES[-1]}"
    assert [change.action for change in plan_topics(settings)] == ["create"]
    log = KafkaLog(settings)
    assert read_level(log) == LEVEL
    log.close()
