"""A caller writes as seen only what can be learned from."""

from stream.events import Impression, RankReply, decode_events
from stream.log import START, MemoryLog
from stream.topics import EVENTS, REPLIES, REQUESTS
from thalweg.caller import Caller


def test_a_page_that_no_model_ranked_is_not_written() -> None:
    """Without features a page would be a dead letter: it's left out and said so; with them it's written as it was."""
    log = MemoryLog({EVENTS.name: 1, REQUESTS.name: 1, REPLIES.name: 1}, lambda: 5)
    caller = Caller(log)
    assert not caller.saw(RankReply("r1", "u", ["i1"], [1.0], 0, notes=["no_model"], time_ms=1))
    assert caller.saw(RankReply("r2", "u", ["i1"], [0.5], 3, features=b"page", time_ms=2))
    caller.close()
    reader = log.reader(EVENTS.name, {0: START})
    found = [event for record in reader.poll(0.0) for event in decode_events(record.value or b"")[0]]
    assert found == [Impression("r2", 2, "u", ["i1"], version=3, scores=[0.5], features=b"page")]
