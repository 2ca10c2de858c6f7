"""A caller of rankers, one request at a time: rank, show the page, install, wait until the install was learned."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid4

from stream.events.codec import decode_events, decode_replies, encode_record
from stream.events.topics import EVENTS, ITEMS, REPLIES, REQUESTS
from stream.events.types import Impression, Install, Item, RankReply, RankRequest, ReplyTo
from stream.log.kafka_log import KafkaLog
from stream.log.protocol import END, Log, Reader, Record, partition_of
from stream.runtime.clock import now_ms
from stream.runtime.errors import DataError, LogError
from stream.runtime.settings import Settings
from stream.snapshots.store import SnapshotStore
from thalweg.demo.freshness import manifests_between
from thalweg.views.feature_names import read_entities

ANSWER_S: Final = 10.0
LEARNED_S: Final = 20.0
FIGURES: Final = ("user", "items", "scores", "version", "staleness_ms", "scored", "notes", "removed",
                  "sources", "source_ranks")  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """A reply, its latency at the caller, and its append time in the log."""

    reply: RankReply
    latency_ms: float
    appended_ms: int

    def figures(self) -> dict[str, object]:
        """For `--json`."""
        return {name: getattr(self.reply, name) for name in FIGURES} | {"latency_ms": self.latency_ms}


def impression_of(reply: RankReply, time_ms: int) -> Impression | None:
    """The reply as a page that its user saw at `time_ms`; None without features: no model ranked it."""
    if not reply.features:
        return None
    return Impression(
        reply.request_id,
        time_ms,
        reply.user,
        reply.items,
        version=reply.version,
        scores=reply.scores,
        propensities=reply.propensities,
        features=reply.features,
    )


class Caller:
    """Calls rankers over the log. Not thread-safe."""

    def __init__(self, log: Log, now_ms: Callable[[], int] = now_ms) -> None:
        self._log, self._now_ms = log, now_ms
        self._partitions = {topic: log.partitions(topic) for topic in (EVENTS.name, REQUESTS.name)}
        self._reader = log.reader(REPLIES.name, {0: END})

    def close(self) -> None:
        """Close the reader; the log stays open."""
        self._reader.close()

    def rank(
        self,
        user: str,
        *,
        k: int = 10,
        candidates: Sequence[str] | None = None,
        context: Mapping[str, str | float] | None = None,
        rules: Sequence[str | dict[str, Any]] = (),
        history: Sequence[str] | None = None,
    ) -> Answer:
        """One answer. Raises LogError when no ranker answers, DataError when a ranker replies with an error.

        `context`: what pages of this model come with. Without it a model that has always seen some may rank badly.
        `rules`, `history`: see RankRequest.
        """
        request_id = uuid4().hex
        request = RankRequest(
            request_id, user, k, context=dict(context or {}),
            candidates=None if candidates is None else list(candidates), deadline_ms=int(ANSWER_S * 1000),
            reply_to=ReplyTo(REPLIES.name, 0), rules=list(rules), history=None if history is None else [*history],
        )  # fmt: skip
        sent_s = time.monotonic()
        self._send(REQUESTS.name, request_id, [request])
        while time.monotonic() < sent_s + ANSWER_S:
            for record in self._reader.poll(0.2):
                for reply in decode_replies(record.value or b""):
                    if reply.request_id == request_id:
                        if reply.error:
                            raise DataError(f"the ranker can't answer for user {user}: {reply.error}")
                        return Answer(reply, (time.monotonic() - sent_s) * 1000, record.time_ms)
        raise LogError(
            f"no ranker answered within {ANSWER_S:g} s: does one run? `thalweg status`, `thalweg run ranker`"
        )

    def record_impression(self, reply: RankReply) -> bool:
        """Write the page as one that its user sees now, with the features by which it was ranked.

        False, and nothing written, without features: before there's a model there's nothing to learn from a page.
        """
        page = impression_of(reply, self._now_ms())
        if page:
            self._send(EVENTS.name, reply.user, [page])
        return page is not None

    def install(self, user: str, item: str, page: RankReply | str) -> int:
        """Write an install of now; returns the log's append time, from which freshness counts.

        `page`: either a reply that the user sees now, or the request id of a page that was written earlier. A page of
        now goes into the same record: however slow this caller or the log is, its window can't close between the two.
        """
        time_ms, impressions = self._now_ms(), []
        if isinstance(page, RankReply):
            impression = impression_of(page, time_ms)
            if impression is None:
                raise DataError("no model ranks yet, so nothing can learn an install: does the learner run?")
            impressions, page = [impression], page.request_id
        event = Install(user, item, time_ms, uuid4().hex, page)
        partition = partition_of(user, self._partitions[EVENTS.name])
        with closing(self._log.reader(EVENTS.name, {partition: END})) as reader:
            self._send(EVENTS.name, user, [*impressions, event])
            return _find_record(reader, event).time_ms

    def wait_learned(
        self, store: SnapshotStore, appended_ms: int, before: int, ask: Callable[[], Answer]
    ) -> tuple[RankReply, int]:
        """Ask until a version after `before` that learned the install appended at `appended_ms` answers.

        Returns its reply, and the milliseconds from the install's append to the reply's. Raises DataError when none
        comes in time.
        """
        newest = before
        deadline_s = time.monotonic() + LEARNED_S
        while time.monotonic() < deadline_s:
            answer = ask()
            manifests = manifests_between(store, newest, answer.reply.version)
            if any(appended_ms in manifest.ingest_ms for manifest in manifests):
                return answer.reply, answer.appended_ms - appended_ms
            newest = max(newest, answer.reply.version)
        raise DataError(
            f"no version that has learned the install was served within {LEARNED_S:g} s: is it on an open page, do "
            "joiner and learner run (`thalweg status`), does the learner's log say that a version was rejected? A "
            "share of all pages is held out from learning: try again"
        )

    def install_and_wait(
        self, user: str, item: str, store: SnapshotStore, *, request_id: str = ""
    ) -> tuple[RankReply, int]:
        """An install, on the page that `request_id` names, else on a page of this item alone; then wait_learned."""
        single = self.rank(user, k=1, candidates=[item]).reply
        if not single.items:
            raise DataError(f"the ranker would not show {item} to {user}: does the user have it already?")
        appended_ms = self.install(user, item, request_id or single)
        return self.wait_learned(store, appended_ms, single.version, lambda: self.rank(user))

    def titles(self) -> dict[str, str]:
        """Titles of all items, read from the log."""
        return {item.item: item.title for item in read_entities(self._log, ITEMS.name, Item)}

    def _send(self, topic: str, key: str, events: Sequence[Impression | Install | RankRequest]) -> None:
        self._log.send(topic, partition_of(key, self._partitions[topic]), encode_record(events))
        self._log.flush()


def _find_record(reader: Reader, event: Install) -> Record:
    """The record of the log that has the event."""
    deadline_s = time.monotonic() + ANSWER_S
    while time.monotonic() < deadline_s:
        for record in reader.poll(0.2):
            events, _ = decode_events(record.value or b"")
            if any(isinstance(one, Install) and one.install_id == event.install_id for one in events):
                return record
    raise LogError(f"the install that was just written to {EVENTS.name} can't be read back: `thalweg status`")


@contextmanager
def kafka_caller(settings: Settings) -> Iterator[Caller]:
    """A Caller on Kafka; closed at the end."""
    with closing(KafkaLog(settings)) as log, closing(Caller(log)) as caller:
        yield caller
