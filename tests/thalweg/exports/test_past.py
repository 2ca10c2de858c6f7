"""Files and log are one sequence of records without a gap, or refused with what to do."""

import shutil
from pathlib import Path

import pytest

from stream.events.codec import decode_training
from stream.events.topics import EXAMPLES
from stream.events.types import Erase, Examples
from stream.log.protocol import Record
from stream.runtime.errors import DataError
from tests.support.exported_log import PAGES, day_log, erase_in, fill, other_log, whole
from thalweg.exports.export_examples import export_examples
from thalweg.exports.past import Past, past_of


def all_of(past: Past, until: int) -> list[Record]:
    """The records in one list."""
    return [record for some in past(until) for record in some]


def test_records_come_in_order_up_to_the_offset(tmp_path: Path) -> None:
    """Those of files first; of offsets that both have, once."""
    log = day_log()
    export_examples(log, tmp_path, None, None)
    fill(log, 50, 70)
    everything = whole(log)
    log.truncate(EXAMPLES.name, 0, 30)
    past = past_of(tmp_path, log)
    for until in (0, 1, 20, 49, 50, 51, 70):
        assert all_of(past, until) == everything[:until]


def test_a_log_that_begins_where_the_files_end_is_enough(tmp_path: Path) -> None:
    """One record later is a gap, which is refused."""
    log = day_log()
    export_examples(log, tmp_path, None, None)
    fill(log, 50, 70)
    everything = whole(log)
    log.truncate(EXAMPLES.name, 0, 50)
    assert all_of(past_of(tmp_path, log), 70) == everything
    log.truncate(EXAMPLES.name, 0, 51)
    with pytest.raises(DataError, match=r"ends at offset 50 .* begins at 51: .*move these files elsewhere"):
        past_of(tmp_path, log)


def test_a_gap_between_files_is_refused(tmp_path: Path) -> None:
    """So is a folder without any."""
    with pytest.raises(DataError, match="no exported examples"):
        past_of(tmp_path, day_log())
    log = day_log()
    export_examples(log, tmp_path, None, None)
    next(tmp_path.glob("day=2023-11-15/*")).unlink()
    with pytest.raises(DataError, match="no records 20 to 39"):
        past_of(tmp_path, log)


def test_a_record_that_two_files_have_is_refused(tmp_path: Path) -> None:
    """A copied folder, or a later export beside an earlier one: it would be learned twice."""
    for log in (day_log(0, 45), day_log()):
        export_examples(log, tmp_path / str(log.ends(EXAMPLES.name)[0]), None, None)
    shutil.copytree(tmp_path / "45", tmp_path / "50", dirs_exist_ok=True)
    with pytest.raises(DataError, match="both have record 40 of `examples`: move one"):
        past_of(tmp_path / "50", day_log())
    shutil.copytree(tmp_path / "45" / "day=2023-11-14", tmp_path / "45" / "day=2023-11-14 copy")
    with pytest.raises(DataError, match="both have record 0 of"):
        past_of(tmp_path / "45", day_log())


def test_files_of_another_log_are_refused(tmp_path: Path) -> None:
    """One that is shorter, and one that had other records at the same offsets."""
    export_examples(day_log(), tmp_path, None, None)
    for log in (day_log(0, 49), other_log()):
        with pytest.raises(DataError, match="isn't of this log"):
            past_of(tmp_path, log)
    assert len(all_of(past_of(tmp_path, day_log(0, 60)), 60)) == 60


def test_retention_that_overtakes_is_no_silent_gap(tmp_path: Path) -> None:
    """While files are read, hours may pass."""
    log = day_log()
    export_examples(log, tmp_path, None, None)
    fill(log, 50, 70)
    past = past_of(tmp_path, log)
    log.truncate(EXAMPLES.name, 0, 60)
    with pytest.raises(DataError, match="deleted records 50 to 59"):
        all_of(past, 70)


def test_who_was_erased_since_the_export_isnt_learned(tmp_path: Path) -> None:
    """By the ledger of now; the files needn't be written again before."""
    log = day_log()
    export_examples(log, tmp_path, None, None)
    theirs = [one.page for record in PAGES[:50] for one in record if one.page.user == "u3"]
    erase_in(log, "u3", theirs[-2].time_ms)
    events = [
        event for record in all_of(past_of(tmp_path, log), 51) for event in decode_training(record.value or b"")[0]
    ]
    assert [one.page for one in events if isinstance(one, Examples) and one.page.user == "u3"] == theirs[-1:]
    assert events[-1] == Erase("u3", theirs[-2].time_ms)
