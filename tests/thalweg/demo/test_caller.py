"""A caller writes as seen only what it is asked to write, and what can be learned from."""

from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from typer.testing import CliRunner

from stream.events.codec import decode_events, decode_examples, decode_requests, encode_record
from stream.events.topics import EVENTS, ITEMS, REPLIES, REQUESTS
from stream.events.types import Impression, Install, RankReply, SourceEvent
from stream.joiner.join import Joiner
from stream.log.memory_log import MemoryLog
from stream.log.protocol import START
from stream.runtime.errors import DataError
from stream.spec.parts import Policy
from tests.support.join_events import FAR, NOW, RULES, install
from thalweg.cli.main import app
from thalweg.demo.caller import Caller, impression_of


class Ranked(MemoryLog):
    """A log on which a ranker answers each request at once."""

    def __init__(self) -> None:
        super().__init__({topic.name: 1 for topic in (EVENTS, ITEMS, REQUESTS, REPLIES)}, lambda: 5)

    def send(self, topic: str, partition: int, value: bytes | None, key: bytes | None = None) -> None:
        """Append, and answer."""
        super().send(topic, partition, value, key)
        if topic == REQUESTS.name:
            for one in decode_requests(value or b"")[0]:
                reply = RankReply(one.request_id, one.user, ["i1"], [0.5], 3, features=b"page", time_ms=2)
                super().send(REPLIES.name, 0, encode_record([reply]))


@pytest.mark.parametrize(("words", "pages"), [([], 0), (["--no-show"], 0), (["--show"], 1)])
def test_a_page_is_written_as_seen_only_when_asked(
    words: list[str], pages: int, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`thalweg rank` looks, and leaves nothing to be learned; with --show the page is an impression."""
    log = Ranked()
    monkeypatch.setattr("thalweg.demo.caller.KafkaLog", lambda _: log)
    said = CliRunner().invoke(app, ["rank", "ann", *words])
    assert said.exit_code == 0, said.output
    assert "i1" in said.stdout
    assert log.ends(EVENTS.name) == {0: pages}


def test_a_history_can_be_given(local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--history` goes along in its order; without one the ranker looks the user's up."""
    log = Ranked()
    monkeypatch.setattr("thalweg.demo.caller.KafkaLog", lambda _: log)
    for words in ([], ["--history", "i2", "--history", "i3"]):
        assert CliRunner().invoke(app, ["rank", "nobody", *words]).exit_code == 0
    records = log.reader(REQUESTS.name, {0: START}).poll(0.0)
    assert [decode_requests(record.value or b"")[0][0].history for record in records] == [None, ["i2", "i3"]]


def test_a_page_that_no_model_ranked_is_not_written() -> None:
    """Without features a page would be a dead letter: it's left out and said so; with them it's written as seen now."""
    log = MemoryLog({EVENTS.name: 1, REQUESTS.name: 1, REPLIES.name: 1}, lambda: 5)
    caller = Caller(log, lambda: 4)
    assert not caller.record_impression(RankReply("r1", "u", ["i1"], [1.0], 0, notes=["no_model"], time_ms=1))
    assert caller.record_impression(RankReply("r2", "u", ["i1"], [0.5], 3, features=b"page", time_ms=2))
    caller.close()
    reader = log.reader(EVENTS.name, {0: START})
    found = [event for record in reader.poll(0.0) for event in decode_events(record.value or b"")[0]]
    assert found == [Impression("r2", 4, "u", ["i1"], version=3, scores=[0.5], features=b"page")]


@pytest.mark.parametrize("policy", get_args(Policy))
def test_propensities_reach_the_examples(policy: Policy) -> None:
    """From the reply through the impression and the join: each label's page says with what probability it was shown."""
    reply = RankReply("r", "u", ["a", "b"], [0.5, 0.25], 3, features=b"page", time_ms=100, propensities=[0.75, 0.125])
    shown = impression_of(reply, 100)
    assert shown is not None
    joiner = Joiner(replace(RULES, policy=policy, delays_ms=(5,)))
    events: list[SourceEvent] = [shown, install("x", 105, "b"), FAR]
    emitted = [one for n, event in enumerate(events) for one in joiner.feed([event], n, NOW)]
    assert {p for one in emitted for p in one.positions} == {0, 1}
    assert {tuple(one.page.propensities) for one in decode_examples(encode_record(emitted))[0]} == {(0.75, 0.125)}


def test_a_page_and_its_install_are_one_record() -> None:
    """A slow caller or log can't let the page's window close before the install: both are written at once."""
    log = MemoryLog({EVENTS.name: 1, REQUESTS.name: 1, REPLIES.name: 1}, lambda: 5)
    caller = Caller(log, lambda: 4)
    assert caller.install("u", "i1", RankReply("r2", "u", ["i1"], [0.5], 3, features=b"page", time_ms=2)) == 5
    assert caller.install("u", "i1", "r1") == 5
    with pytest.raises(DataError, match="no model ranks yet"):
        caller.install("u", "i1", RankReply("r3", "u", ["i1"], [0.5], 0, time_ms=2))
    caller.close()
    records = [decode_events(record.value or b"")[0] for record in log.reader(EVENTS.name, {0: START}).poll(0.0)]
    assert [[type(event) for event in record] for record in records] == [[Impression, Install], [Install]]
    page, install = records[0]
    assert isinstance(page, Impression)
    assert isinstance(install, Install)
    assert (page.request_id, page.time_ms) == (install.request_id, install.time_ms) == ("r2", 4)
