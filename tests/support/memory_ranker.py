"""A whole ranker on a log and a store in memory, with HTTP beside."""

import threading
import time
from collections.abc import Sequence

import httpx
import numpy as np

from ranker.http.serve import serve_http
from ranker.serving.served_model import ModelSource
from ranker.serving.service import RankerService
from stream.events.codec import decode_replies, encode, encode_record
from stream.events.topics import ITEMS, NAMES, REPLIES, REQUESTS, REQUESTS_DLQ, USERS
from stream.events.types import RankReply, RankRequest
from stream.history.profiles import UserProfile
from stream.log.memory_log import MemoryLog
from stream.log.protocol import START
from stream.runtime.errors import LogError
from stream.runtime.settings import Settings
from stream.snapshots.memory_store import MemoryStore
from tests.support.random_models import ToyModel, items, some_spec
from tests.support.waiting import wait_until


def nobody_has_anything(users: Sequence[str]) -> dict[str, UserProfile]:
    """Histories of these users."""
    return {user: UserProfile([], {}) for user in users}


class Whole:
    """A ranker on a log and a store in memory, with HTTP beside."""

    def __init__(self, settings: Settings) -> None:
        topics = (REQUESTS, REPLIES, REQUESTS_DLQ, ITEMS, USERS, NAMES)
        self.log = MemoryLog({topic.name: 1 for topic in topics}, lambda: int(time.time() * 1e3))
        for item in items(30):
            self.log.send(ITEMS.name, 0, encode(item), item.item.encode())
        store = MemoryStore("m")
        ToyModel(some_spec(np.random.default_rng(5), ["wide", "deep"]), 5).publish(store)
        self.service = RankerService({"m": ModelSource(store)}, nobody_has_anything, threads=2)
        self.http = serve_http(settings, "127.0.0.1:0", self.service)
        self.client = httpx.Client(base_url=f"http://{self.http.address}", timeout=30.0)
        self.failure: BaseException | None = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.service.run(lambda: self.log, self.http.close)
        except LogError as bad:
            self.failure = bad

    def over_the_log(self, request: RankRequest) -> RankReply:
        """Ask over the log."""
        self.log.send(REQUESTS.name, 0, encode_record([request]))
        reader = self.log.reader(REPLIES.name, {0: START})
        found: list[RankReply] = []

        def replied() -> bool:
            for record in reader.poll(0.05):
                found.extend(r for r in decode_replies(record.value or b"") if r.request_id == request.request_id)
            return bool(found)

        wait_until(replied)
        return found[0]

    def end(self) -> None:
        """Stop it."""
        self.client.close()
        self.service.stop.set()
        self.thread.join(30)
        assert not self.thread.is_alive()
