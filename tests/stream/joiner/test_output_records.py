"""What the joiner writes, record by record."""

from stream.events.codec import decode_entity, decode_examples, encode_record
from stream.events.types import RECORD_BYTES_MAX, DeadLetter, Examples, Impression, Tick
from stream.joiner.commit_metadata import decode_commit, encode_metadata
from stream.joiner.join import RestartPoint
from stream.joiner.label_rules import LabelRules
from stream.joiner.labels import HistoryChange
from stream.joiner.output_records import history_record
from stream.log.dead_letters import dead_letter
from stream.log.protocol import Record, partition_of
from tests.support.plain_writer import example_records, split_ahead


def said(k: int, features: int = 10) -> Examples:
    """Examples of one page."""
    page = Impression(f"r{k}", 1_000, f"u{k}", ["a"], features=bytes(features))
    return Examples(page, [k], [0], [1], [1.0], [0], [5])


def test_examples_of_one_record_stay_together_and_in_order() -> None:
    """All that came of one input record is one record of the same bytes as any other list of examples."""
    many = [said(k) for k in range(5)]
    (record,) = example_records(many, 1)
    assert (record.topic, record.partition) == ("examples", 0)
    assert record.value == encode_record(many)
    assert example_records([], 1) == []


def test_examples_are_cut_before_a_record_grows_too_large() -> None:
    """Above the limit another record begins; nothing is lost, the order stays."""
    many = [said(k, 300) for k in range(10)]
    records = example_records(many, 1, bytes_max=1_000)
    assert len(records) > 2
    assert all(len(record.value or b"") <= 1_010 for record in records)
    assert [e for record in records for e in decode_examples(record.value or b"")[0]] == many


def test_examples_go_to_their_learners_partition() -> None:
    """With several partitions a user's examples always go to the same one."""
    records = example_records([said(k) for k in range(20)], 3)
    assert len(records) == len({record.partition for record in records})
    for record in records:
        for examples in decode_examples(record.value or b"")[0]:
            assert partition_of(examples.page.user, 3) == record.partition


def test_a_retraction_is_a_tombstone_of_the_history() -> None:
    """An install and its retraction have one key, in the user's partition."""
    install = history_record(HistoryChange("u", "a", 7), 4)
    gone = history_record(HistoryChange("u", "a", None), 4)
    assert install.key == gone.key == b"u\x00a"
    assert install.partition == gone.partition == partition_of("u", 4)
    assert gone.value is None


def test_only_events_from_the_future_are_set_apart() -> None:
    """An event may be `ahead` after its arrival, not more."""
    fine, far = Tick(1_000 + 60), Tick(1_000 + 61)
    taken, ahead = split_ahead([fine, far], 1_000, 60)
    assert list(taken) == [fine]
    assert len(ahead) == 1
    assert "61 ms after its arrival" in ahead[0][1]


def test_a_dead_letter_always_fits_its_topic() -> None:
    """The original is kept whole while it fits, else cut, and the letter says so."""
    source = Record("events", 3, 9, 0, None, None)
    small = decode_entity(dead_letter(b"x", "BadEvent", "why", source).value or b"", DeadLetter)
    assert small == DeadLetter(b"x", "BadEvent", "why", "events", 3, 9)
    large = dead_letter(bytes(3 * RECORD_BYTES_MAX), "BadEvent", "too large", source).value or b""
    assert len(large) < 2 * RECORD_BYTES_MAX
    assert "are kept" in decode_entity(large, DeadLetter).message
    wordy = dead_letter(bytes(3 * RECORD_BYTES_MAX), "BadEvent", "x" * 5_000, source).value or b""
    assert len(wordy) < 2 * RECORD_BYTES_MAX
    assert decode_entity(wordy, DeadLetter).message.endswith("are kept)")


def test_copies_of_a_letter_of_a_compacted_topic_have_one_key() -> None:
    """A record of `items` that every ranker meets is one letter once compacted; letters of streams have no key."""
    of_items = Record("items", 3, 9, 0, b"a", None)
    assert [dead_letter(b"x", "BadEvent", "why", of_items)[::3] for _ in range(2)] == [("items.dlq", b"3/9")] * 2
    assert dead_letter(b"x", "BadEvent", "why", of_items._replace(topic="events"))[::3] == ("events.dlq", None)


def test_a_restart_point_travels_in_the_commits_metadata() -> None:
    """What was stored comes back; foreign metadata starts with no watermark."""
    restart_point = RestartPoint(5, 1_700_000_000_000, 1_699_999_999_000, 7, 8)
    assert decode_commit(5, encode_metadata(restart_point, LabelRules())).restart_point == restart_point
    for foreign in ("", "moved by hand", "[1]", '{"watermark_ms": "x"}'):
        assert decode_commit(5, foreign).restart_point == RestartPoint(5, 0, 0)
