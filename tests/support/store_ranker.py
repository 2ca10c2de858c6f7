"""A small store on a MemoryLog, and a ranker of it that answers when a test asks it to."""

from collections.abc import Sequence
from pathlib import Path

from producers.batching_producer import BatchingProducer
from producers.clock import Clock
from producers.store.arm import Arm, ByModel, ByPopularity
from producers.store.storefront import Storefront
from producers.store.world import StoreWorld
from stream.events.codec import decode_events, decode_requests, encode_record
from stream.events.topics import EVENTS, ITEMS, REPLIES, REQUESTS, USERS
from stream.events.types import RankReply, RankRequest, SourceEvent
from stream.features.page_features import Layout
from stream.log.memory_log import MemoryLog
from stream.log.protocol import START, partition_of
from stream.spec.spec import Spec
from stream.spec.spec_file import load_spec
from tests.support.store_worlds import SMALL

SPEC = Path(__file__).parents[2] / "specs" / "store.toml"
PARTITIONS = 2


class StoreRanker:
    """Answers requests when `answer` is called: candidates in their order, without a model."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log
        self._reader = log.reader(REQUESTS.name, dict.fromkeys(range(PARTITIONS), START))
        self.unanswered: list[RankRequest] = []
        self.version = 0  # that replies name

    def read(self) -> list[RankRequest]:
        """Requests that came since the last call; they wait for an answer."""
        found = [one for record in self._reader.poll(0.0) for one in decode_requests(record.value or b"")[0]]
        self.unanswered += found
        return found

    def answer(self, *, error: str = "") -> None:
        """Answer all that wait."""
        self.read()
        for one in self.unanswered:
            items = [] if error else list(one.candidates or ())[: one.k]
            reply = RankReply(
                one.request_id, one.user, items, [0.5] * len(items), self.version, error=error, time_ms=one.time_ms
            )
            partition = partition_of(one.request_id, PARTITIONS)
            self._log.send(REPLIES.name, partition, encode_record([reply]))
        self.unanswered.clear()


class SmallStore:
    """The small world with the arms `popular` and `wide_deep`; even users are the model's. `time_ms` is its clock."""

    def __init__(self) -> None:
        self.world = StoreWorld(SMALL, 0)
        self.time_ms = float(self.world.start_ms)
        topics = dict.fromkeys((topic.name for topic in (EVENTS, ITEMS, USERS, REQUESTS, REPLIES)), PARTITIONS)
        self.log = MemoryLog(topics, lambda: int(self.time_ms))
        self.ranker = StoreRanker(self.log)
        spec: Spec = load_spec(SPEC)
        arms = [Arm("popular", ByPopularity(Layout(spec)), self.log), Arm("wide_deep", ByModel(), self.log)]
        producer = BatchingProducer(self.log, Clock(lambda: self.time_ms / 1_000, _never), 0.0, print, bool)
        self.front = Storefront(self.log, self.world, arms, arm_of, spec, producer)
        self.front.open()
        self._events = self.log.reader(EVENTS.name, dict.fromkeys(range(PARTITIONS), START))

    def sent(self) -> Sequence[SourceEvent]:
        """Events sent since the last call."""
        return [event for record in self._events.poll(0.0, 100_000) for event in decode_events(record.value or b"")[0]]


def arm_of(user: str) -> str:
    """The arm of a user by the last digit."""
    return ("wide_deep", "popular")[int(user[-1]) % 2]


def _never(seconds: float) -> None:
    raise AssertionError("nothing waits")
