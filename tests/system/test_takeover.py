"""Two learners of one model, and one that comes back over a wiped Redis: real processes."""

import contextlib
import threading
from pathlib import Path

import pytest
import redis

from producers.clock import Clock
from producers.replay import ReplayOptions, replay
from stream.log.kafka_log import KafkaLog
from stream.snapshots.redis_store import RedisStore
from tests.support.forked_services import Nest, alive
from tests.support.waiting import wait_until
from tests.support.whole_system import House, world
from thalweg.stack.stack import Stack

pytestmark = pytest.mark.timeout(400)  # real processes, on a machine that may be busy


def test_a_newcomer_takes_over_and_numbers_never_come_twice(
    nest: Nest, stack: Stack, topic_prefix: str, tmp_path: Path
) -> None:
    """The older learner ends and says why, versions go on; killed, with Redis wiped, the newer begins above them."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one, two = (House(nest, stack, topic_prefix, tmp_path / name) for name in ("one", "two"))
    log, store = KafkaLog(one.settings, linger_ms=5), RedisStore(one.settings, "small")
    stopping = threading.Event()
    player = threading.Thread(
        target=lambda: replay(
            log,
            world(20_000, 7),
            spec=one.spec,
            options=ReplayOptions(100.0),
            clock=Clock(),
            notify=print,
            stop=stopping.is_set,
        )
    )

    def live() -> tuple[int, int]:
        head = store.head()
        return (head.version, head.token) if head else (0, 0)

    try:
        one.start("joiner", "learner")
        player.start()
        wait_until(lambda: live()[0] >= 5, "five versions")
        token = live()[1]
        two.start("learner")
        wait_until(lambda: live()[1] > token, "the newcomer to publish")
        older = one.running.pop("learner")
        wait_until(lambda: not alive(older), "the older learner to end")
        assert "another learner owns small" in (tmp_path / "one" / "learner.log").read_text()
        version = live()[0]
        wait_until(lambda: live()[0] >= version + 5, "versions to go on")
        two.kill("learner")
        last = live()
        with redis.Redis.from_url(stack.redis) as client:
            for key in client.scan_iter(f"{{{topic_prefix}thalweg:small}}*"):
                client.delete(key)
        two.start("learner")
        wait_until(lambda: live()[0], "a version after the wipe")
        assert live() > last
        assert live()[1] > last[1]
        assert min(store.versions()) > last[0]
    finally:
        stopping.set()
        with contextlib.suppress(RuntimeError):  # it may not have begun
            player.join()
        one.end()
        two.end()
        store.close()
        log.close()
