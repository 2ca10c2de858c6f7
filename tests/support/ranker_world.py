"""Rankers as processes on the shared stack, and who asks them."""

import json
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any, Final

import numpy as np

from stream.events.codec import decode_replies, encode, encode_record
from stream.events.topics import ITEMS, REPLIES, REQUESTS
from stream.events.types import RankReply, RankRequest
from stream.log.kafka_admin import apply_topics, plan_topics
from stream.log.kafka_log import KafkaLog
from stream.log.protocol import START, Log, Reader, partition_of
from stream.runtime.health import run_file
from stream.runtime.settings import Settings
from stream.snapshots.redis_store import RedisStore
from tests.support.forked_services import ForkedProcess, Nest
from tests.support.random_models import ToyModel, items, some_spec
from tests.support.waiting import wait_until
from thalweg.stack.stack import Stack

ASK_S: Final = 0.01  # between two requests of a load


def toy() -> ToyModel:
    """A toy model of both parts."""
    return ToyModel(some_spec(np.random.default_rng(5), ["wide", "deep"]), 5)


def write_items(log: Log) -> None:
    """Thirty items, as producers write them."""
    for item in items(30):
        log.send(ITEMS.name, 0, encode(item), item.item.encode())
    log.flush()


class Caller:
    """Asks over a log, and collects all replies."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.partitions = log.partitions(REQUESTS.name)
        self.asked = 0
        self.replies: list[RankReply] = []
        self._reader: Reader = log.reader(REPLIES.name, dict.fromkeys(range(log.partitions(REPLIES.name)), START))

    def ask(self, count: int, model: str = "") -> None:
        """Send `count` requests of some users, one a record."""
        for _ in range(count):
            self.asked += 1
            request = RankRequest(f"r{self.asked}", f"u{self.asked % 7}", k=5, model=model, deadline_ms=60_000)
            self.log.send(REQUESTS.name, partition_of(request.request_id, self.partitions), encode_record([request]))
        self.log.flush()

    def answered(self) -> bool:
        """Whether every request has its reply by now."""
        for record in self._reader.poll(0.05):
            self.replies += decode_replies(record.value or b"")
        return {r.request_id for r in self.replies} == {f"r{n + 1}" for n in range(self.asked)}


class Load:
    """Asks every ASK_S, and notes how long each request waited for its first reply: two threads."""

    def __init__(self, log: Log) -> None:
        self.caller = Caller(log)
        self.waited_s: dict[str, float] = {}
        self._sent_s: dict[str, float] = {}
        self._stop, self._end = threading.Event(), threading.Event()
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._ask, self._receive)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        while not self._stop.wait(ASK_S):
            self._sent_s[f"r{self.caller.asked + 1}"] = time.monotonic()
            self.caller.ask(1)

    def _receive(self) -> None:
        while not self._end.is_set():
            first = len(self.caller.replies)
            self.caller.answered()
            for reply in self.caller.replies[first:]:
                self.waited_s.setdefault(reply.request_id, time.monotonic() - self._sent_s[reply.request_id])

    def wait_for(self, more: int) -> None:
        """Until this many more requests have replies."""
        enough = len(self.waited_s) + more
        wait_until(lambda: len(self.waited_s) >= enough, f"{more} replies")

    def finish(self) -> None:
        """Ask no more, and see that every request has its reply."""
        self._stop.set()
        try:
            wait_until(lambda: len(self.waited_s) == self.caller.asked, "the last replies")
        finally:
            self._end.set()
            for thread in self._threads:
                thread.join()


class World:
    """The shared stack under a prefix of one test's own, with a ranker process."""

    def __init__(self, nest: Nest, stack: Stack, prefix: str, local: Path, partitions: int = 2) -> None:
        self._nest = nest
        self.settings = Settings(
            kafka=stack.kafka, redis=stack.redis, topic_prefix=prefix, local=local, partitions=partitions
        )
        apply_topics(self.settings, plan_topics(self.settings))
        self.log = KafkaLog(self.settings)
        self.store = RedisStore(self.settings, "m")

    def ranker(self, worker: str = "0") -> ForkedProcess:
        """Start a ranker process."""
        given = self.settings.model_dump(include={"kafka", "redis", "topic_prefix"}) | {
            "local": str(self.settings.local), "worker": worker, "ranker_queue_ms": 60_000,
        }  # fmt: skip
        return self._nest.run("ranker", [json.dumps(given)], {}, self.settings.local / f"ranker-{worker}.log")

    def run_file(self, worker: str = "0") -> dict[str, Any]:
        """What a ranker has written of itself: its ports. Raises OSError before it has."""
        settings = self.settings.model_copy(update={"worker": worker})
        return dict(json.loads(run_file(settings, "ranker").read_text()))

    def health(self, path: str, worker: str = "0") -> str:
        """What a ranker answers on one of its paths; empty when it doesn't."""
        try:
            port = self.run_file(worker)["port"]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=2) as answer:
                return str(answer.read().decode())
        except (OSError, ValueError):
            return ""

    def close(self) -> None:
        """Close the log and the store."""
        self.log.close()
        self.store.close()
