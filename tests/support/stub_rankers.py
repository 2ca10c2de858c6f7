"""A storefront on logs in memory, and a ranker that has no model: scores are checksums of the items' names."""

from collections.abc import Callable, Sequence
from zlib import crc32

import numpy as np

from producers.batching_producer import BatchingProducer
from producers.clock import Clock
from producers.features import Histories
from producers.store.arm import Arm
from producers.store.parameters import START_MS
from producers.store.storefront import Storefront
from producers.store.world import StoreWorld
from stream.events.codec import decode_entity, decode_events, decode_requests, encode_record
from stream.events.topics import EVENTS, ITEMS, REPLIES, REQUESTS, USERS
from stream.events.types import Impression, Item, RankReply, RankRequest, SourceEvent, User
from stream.features.page_features import Catalogue, Layout, build_page
from stream.features.page_kernels import open_page
from stream.log.memory_log import MemoryLog
from stream.spec.spec import Spec
from stream.tables.dtypes import F64, U64
from tests.support.store_worlds import SMALL

VERSION = 7
PARTITIONS = 3


def checksum(text: str) -> float:
    """In [0, 1), exact as float32."""
    return (crc32(text.encode()) >> 8) / 2**24


class Store:
    """A storefront that asks stub rankers: `rankers` is what arms' logs are read by, name by name."""

    def __init__(
        self, spec: Spec, arms: Callable[["Store"], Sequence[Arm]], assign: Callable[[str], str], seed: int = 1
    ) -> None:
        self.spec, self.layout = spec, Layout(spec)
        self.now_ms = START_MS
        self.log = MemoryLog(dict.fromkeys((EVENTS.name, ITEMS.name, USERS.name), PARTITIONS), lambda: self.now_ms)
        self.world = StoreWorld(SMALL, seed)
        self.catalogue, self.users = Catalogue(self.layout), dict[str, User]()
        clock = Clock(lambda: self.now_ms / 1_000, lambda seconds: None, lambda: self.now_ms)
        producer = BatchingProducer(self.log, clock, 0.0, print, lambda: False)
        self.arms = arms(self)
        self.front = Storefront(self.log, self.world, self.arms, assign, spec, producer, Histories())
        self._readers = {
            id(arm.log): arm.log.reader(REQUESTS.name, dict.fromkeys(range(PARTITIONS), 0)) for arm in self.arms
        }
        self._items, self._users = (
            self.log.reader(of.name, dict.fromkeys(range(PARTITIONS), 0)) for of in (ITEMS, USERS)
        )
        self.front.open()
        self._read_entities()

    def ranker_log(self) -> MemoryLog:
        """A log for requests and replies."""
        return MemoryLog(dict.fromkeys((REQUESTS.name, REPLIES.name), PARTITIONS), lambda: self.now_ms)

    def requests(self, arm: Arm) -> list[RankRequest]:
        """Those of the arm's log that nobody has read yet."""
        records = self._readers[id(arm.log)].poll(0.0, 10_000)
        return [request for record in records for request in decode_requests(record.value or b"")[0]]

    def _read_entities(self) -> None:
        for record in self._items.poll(0.0, 100_000):
            self.catalogue.put(decode_entity(record.value or b"", Item))
        for record in self._users.poll(0.0, 100_000):
            user = decode_entity(record.value or b"", User)
            self.users[user.user] = user

    def answer(self, arm: Arm, replies: Sequence[RankReply]) -> None:
        """Send replies, each to a partition of its own choice."""
        for n, reply in enumerate(replies):
            arm.log.send(REPLIES.name, n % PARTITIONS, encode_record([reply]))

    def ranked(self, request: RankRequest) -> RankReply:
        """The k best candidates by checksum, with propensities of (1 + checksum) / 2."""
        items = sorted(request.candidates or [], key=checksum, reverse=True)[: request.k]
        words = self.page(request, items)
        return RankReply(request.request_id, request.user, items, [*map(checksum, items)], VERSION,
                         features=words.tobytes(), time_ms=request.time_ms,
                         propensities=[(1 + checksum(item)) / 2 for item in items])  # fmt: skip

    def page(self, request: RankRequest, items: Sequence[str]) -> U64:
        """Features of these items, each statistic the item's checksum."""
        self._read_entities()
        user = self.users.get(request.user, User(request.user))
        columns = self.layout.user(request.user, user.attributes, request.history or [], request.context)
        words = build_page(self.layout, columns, self.catalogue, self.catalogue.rows(items), request.time_ms)
        page, count = open_page(words, self.layout.size_array), len(self.layout.statistics)
        for k, item in enumerate(items):
            page.f32[page.at.statistics + k * count : page.at.statistics + (k + 1) * count] = checksum(item)
        return words

    def sent(self) -> list[SourceEvent]:
        """All events of the log, partition by partition."""
        records = self.log.reader(EVENTS.name, dict.fromkeys(range(PARTITIONS), 0)).poll(0.0, 100_000)
        records = sorted(records, key=lambda record: (record.partition, record.offset))
        return [event for record in records for event in decode_events(record.value or b"")[0]]

    def impressions(self, until_ms: int) -> dict[str, Impression]:
        """Send what is due until then; all pages of the log by request id."""
        self.now_ms = until_ms
        self.front.send(until_ms)
        return {event.request_id: event for event in self.sent() if isinstance(event, Impression)}


def statistic_of(layout: Layout, words: U64) -> F64:
    """[n] the first statistic of each of a page's items."""
    page, count = open_page(words, layout.size_array), len(layout.statistics)
    return np.asarray(page.f32[page.at.statistics : page.at.statistics + page.at.items * count : count], np.float64)
