"""Rows are exact: the records that are made from them decode to what the log's records decode to."""

from io import BytesIO

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.events.codec import decode_training, encode_record
from stream.events.topics import EXAMPLES
from stream.events.types import Erase, Examples
from stream.log.protocol import Record
from tests.support.learner_world import records as pages_of
from tests.support.learner_world import small_spec
from tests.support.training_records import any_records, valid_records
from thalweg.exports.example_rows import RECORD_COLUMNS, SCHEMA, records_of, rows_of, without_erased

erasures = st.builds(Erase, st.sampled_from("ab"), st.integers(1, 300)).map(lambda event: encode_record([event]))


def log_of(values: list[bytes]) -> list[Record]:
    """Records with gaps between their offsets, as Kafka may have."""
    keys = None, b"0", b"31"
    return [Record(EXAMPLES.name, 0, 3 * i, 1_000 + i, keys[i % 3], value) for i, value in enumerate(values)]


def through_parquet(rows: pl.DataFrame) -> list[Record]:
    """Written, read again, and made into records."""
    file = BytesIO()
    rows.write_parquet(file)
    file.seek(0)
    return list(records_of(pl.read_parquet(file, columns=[*RECORD_COLUMNS])))


@given(st.lists(valid_records | erasures, max_size=5))
@settings(deadline=None)
def test_valid_records_keep_their_bytes(values: list[bytes]) -> None:
    """With offset, append time and key; a record without an event teaches nothing, and has no row."""
    read = log_of(values)
    rows, invalid = rows_of(read)
    assert invalid == 0
    assert dict(rows.schema) == dict(SCHEMA)
    assert through_parquet(rows) == [record for record in read if decode_training(record.value or b"")[0]]


@given(st.lists(any_records, max_size=5))
@settings(deadline=None)
def test_whatever_is_in_a_record_its_events_stay(values: list[bytes]) -> None:
    """Invalid events are left out and counted; the others of their record stay, in their order."""
    read = log_of(values)
    rows, invalid = rows_of(read)
    made = {record.offset: decode_training(record.value or b"") for record in through_parquet(rows)}
    expected = {record.offset: decode_training(record.value or b"") for record in read}
    assert made == {offset: (events, []) for offset, (events, _) in expected.items() if events}
    assert (invalid > 0) == any(bad for _, bad in expected.values())


def test_columns_say_what_an_example_is() -> None:
    """Of each event a row, of each example an element in the lists."""
    page = pages_of(small_spec(), 1)[0][0]
    row = rows_of(log_of([encode_record([page])]))[0].row(0, named=True)
    assert (row["user"], row["request_id"], row["items"]) == (page.page.user, page.page.request_id, page.page.items)
    assert (row["ids"], row["labels"], row["positions"]) == (page.ids, page.labels, page.positions)
    assert (row["weights"], row["reasons"]) == (page.weights, page.reasons)
    assert [int(time.timestamp() * 1_000) for time in row["ingest_times"]] == page.ingest_ms
    assert row["layout"] == row["features"][0] == int.from_bytes(page.page.features[:8], "little")
    assert row["before"] + page.page.features + row["after"] == encode_record([page])[1:]


def test_an_erased_users_rows_go_up_to_that_time() -> None:
    """Later ones stay, and so does that the user was erased; a record of which nothing is left is none."""
    pages = [one for record in pages_of(small_spec(), 40) for one in record]
    user, until_ms = pages[7].page.user, pages[20].page.time_ms
    read = log_of([*(encode_record([page]) for page in pages), encode_record([Erase(user, until_ms)])])
    left = [
        event
        for record in records_of(without_erased(rows_of(read)[0], {user: until_ms, "nobody": 1}))
        for event in decode_training(record.value or b"")[0]
    ]
    theirs = [one for one in pages if one.page.user == user]
    assert {one.page.time_ms <= until_ms for one in theirs} == {True, False}
    kept = [one for one in pages if one.page.user != user or one.page.time_ms > until_ms]
    assert left == [*kept, Erase(user, until_ms)]
    assert all(isinstance(event, Examples | Erase) for event in left)
