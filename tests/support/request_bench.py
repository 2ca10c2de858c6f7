"""A request loop on a log in memory: its clocks, its ranker and its sender are the test's."""

from collections import deque
from collections.abc import Callable, Sequence

from prometheus_client import REGISTRY

from ranker.ranking.entity_cache import EntityCache
from ranker.ranking.rank import Ranker
from ranker.ranking.score import Scorer
from ranker.ranking.version_watcher import VersionWatcher
from ranker.serving.admission import AdmissionQueue
from ranker.serving.answering import Answerer
from ranker.serving.profile_reader import ProfileReader
from ranker.serving.reply_writer import ReplyWriter, reply_partitions
from ranker.serving.request_loop import RequestLoop
from ranker.serving.served_model import ServedModel
from stream.events.codec import decode_replies, encode_record
from stream.events.topics import REPLIES, REQUESTS, REQUESTS_DLQ
from stream.events.types import RankReply, RankRequest
from stream.history.profiles import UserProfile
from stream.log.memory_log import MemoryLog
from stream.log.protocol import START, Settled, partition_of
from stream.runtime.errors import LogError
from stream.snapshots.memory_store import MemoryStore
from tests.support.random_models import items

START_MS = 1_000_000
COST_MS = 2.0  # of ranking one request, by the test's clock
QUEUE_MS = 100.0


class Clock:
    """A wall clock and a monotonic one, which the test moves."""

    now_ms: float = START_MS

    def __call__(self) -> int:
        """The wall clock, ms."""
        return int(self.now_ms)

    def seconds(self) -> float:
        """The monotonic clock."""
        return self.now_ms / 1e3


class HeldSender:
    """Acknowledges what is sent when the test says so; `failing`: every record fails with this error."""

    def __init__(self, log: MemoryLog) -> None:
        self.failing: LogError | None = None
        self.is_held = False
        self.held: deque[Settled] = deque()
        self._log = log

    def send(self, topic: str, partition: int, value: bytes | None, settled: Settled, key: bytes | None = None) -> None:
        """See Sender."""
        if self.failing is not None:
            settled(self.failing)
            return
        self._log.send(topic, partition, value, key)
        self.held.append(settled)
        if not self.is_held:
            self.acknowledge()

    def acknowledge(self, count: int = 1_000_000) -> None:
        """Acknowledge the first `count` records that are held."""
        while self.held and count:
            self.held.popleft()(None)
            count -= 1

    def flush(self, timeout_s: float) -> bool:
        """See Sender."""
        if not self.is_held:
            self.acknowledge()
        return not self.held

    def close(self) -> None:
        """See Sender."""


class Recording(Ranker):
    """Remembers what it was asked; takes COST_MS of the test's clock; fails where the test wants."""

    clock: Clock
    given: list[tuple[str, Sequence[str] | None]]
    asked: list[str]
    left_ms: list[float | None]
    bad: Exception | None = None

    def answer(
        self,
        request: RankRequest,
        profile: Callable[[], UserProfile],
        read_s: float,
        deadline_s: float | None = None,
    ) -> RankReply:
        """See Ranker."""
        self.given.append((request.user, profile().history if request.history is None else request.history))
        self.asked.append(request.request_id)
        self.left_ms.append(None if deadline_s is None else round((deadline_s - read_s) * 1e3, 6))
        if self.bad and request.user == "bad":
            raise self.bad
        self.clock.now_ms += COST_MS
        return super().answer(request, profile, read_s, deadline_s)


class Bench:
    """A loop on a log of two partitions, without a model: answers come by popularity."""

    def __init__(self) -> None:
        self.clock = Clock()
        topics = {REQUESTS.name: 2, REPLIES.name: 3, REQUESTS_DLQ.name: 1, "mine": 2, "others": 2}
        self.log = MemoryLog(topics, self.clock)
        cache = EntityCache()
        for item in items(30):
            cache.put(item.item, item)
        self.scorer = Scorer(1)
        self.watcher = VersionWatcher(MemoryStore("m"), "m", cache, self.clock)
        self.ranker = Recording(cache, self.watcher, self.scorer, self.clock)
        self.ranker.clock = self.clock
        self.ranker.given, self.ranker.asked, self.ranker.left_ms = [], [], []
        self.looked_up: list[list[str]] = []
        self.sender = HeldSender(self.log)
        self.loop = self.new_loop("0")

    def new_loop(self, member: str, model: str = "m", *, answers_unnamed: bool = True) -> RequestLoop:
        """A loop of another ranker, or of one that was started again."""
        self.reader = self.log.group_reader(REQUESTS.name, f"ranker-{model}", member)
        self.admission = AdmissionQueue(QUEUE_MS)
        answerer = Answerer(
            {model: ServedModel(model, self.watcher, self.ranker)}, ProfileReader(self._read, patience_s=20), self.clock
        )
        replies = ReplyWriter(self.sender, reply_partitions(self.log, ["mine"]))
        return RequestLoop(
            self.reader, replies, answerer, self.admission, self.clock, model=model, answers_unnamed=answers_unnamed,
            clock_s=self.clock.seconds,
        )  # fmt: skip

    def _read(self, users: Sequence[str]) -> dict[str, UserProfile]:
        self.looked_up.append(sorted(users))
        return {user: UserProfile(["i0"], {}) for user in users}

    def ask(self, *requests: RankRequest, partition: int = 0) -> None:
        """Write a record of requests."""
        self.log.send(REQUESTS.name, partition, encode_record(requests))

    def answer_all(self) -> int:
        """Poll until nothing waits; returns how many replies were sent."""
        count, made = 0, self.loop.poll_once(0)
        while made:
            count += made
            made = self.loop.poll_once(0)
        return count

    def replies(self) -> dict[str, list[RankReply]]:
        """All replies of `rank.replies` so far, by request."""
        reader = self.log.reader(REPLIES.name, dict.fromkeys(range(3), START))
        found: dict[str, list[RankReply]] = {}
        for record in reader.poll(0, 100_000):
            for reply in decode_replies(record.value or b""):
                assert record.partition == partition_of(reply.request_id, 3)
                found.setdefault(reply.request_id, []).append(reply)
        return found

    def kinds(self) -> dict[str, str]:
        """The kind of each request's only reply."""
        assert all(len(found) == 1 for found in self.replies().values())
        return {request_id: found[0].kind for request_id, found in self.replies().items()}

    def committed(self) -> dict[int, int]:
        """What a ranker that takes over would begin with."""
        self.reader.close()
        member = self.log.group_reader(REQUESTS.name, "ranker-m", "later")
        member.poll(0, 0)
        positions = member.positions()
        member.close()
        return positions


def metric(name: str) -> float:
    """The value of a counter or gauge."""
    return REGISTRY.get_sample_value(f"thalweg_ranker_{name}") or 0.0
