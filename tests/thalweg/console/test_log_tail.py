"""The ends of topics, as the page shows them."""

from stream.events.codec import encode_record
from stream.events.topics import ERASED, EVENTS
from stream.events.types import Erase, Impression
from stream.joiner.output_records import ledger_record
from stream.log.memory_log import MemoryLog
from thalweg.console.log_tail import users_of


def test_users_who_were_erased_are_not_suggested() -> None:
    """Those of the newest pages are, also one who came back."""
    log = MemoryLog({EVENTS.name: 1, ERASED.name: 1}, lambda: 9)
    for time_ms, user in ((1, "gone"), (2, "back"), (3, "here"), (8, "back")):
        log.send(EVENTS.name, 0, encode_record([Impression(f"r{time_ms}", time_ms, user, ["tea"])]))
    for user in ("gone", "back"):
        log.send(*ledger_record(Erase(user, 5)))
    assert sorted(users_of(log)) == ["back", "here"]
