"""Every room on a Redis Cluster: learned, published, ranked by, with users' profiles."""

from contextlib import closing
from pathlib import Path

import pytest

from producers.clock import Clock
from producers.replay import ReplayOptions, replay
from producers.store.rankers import LogRankers
from stream.events.types import RankRequest
from stream.log.kafka_log import KafkaLog
from tests.support.forked_services import Nest
from tests.support.waiting import wait_until
from tests.support.whole_system import House, world
from thalweg.stack.stack import Stack

pytestmark = pytest.mark.timeout(400)  # real processes, on a machine that may be busy


def test_rooms_on_a_cluster(nest: Nest, stack: Stack, redis_cluster: str, topic_prefix: str, tmp_path: Path) -> None:
    """A ranker ranks by a learned version, and knows the user's attributes and history."""
    house = House(nest, stack.__replace__(redis=redis_cluster), topic_prefix, tmp_path)
    try:
        house.start("joiner", "learner", "ranker", ready=False)
        with closing(KafkaLog(house.settings)) as log, closing(LogRankers(log)) as rankers:
            replay(log, world(200, 5), spec=house.spec, options=ReplayOptions(400.0), clock=Clock(), notify=print)
            for room in house.running:
                house.wait_ready(room)

            def is_ranked_for_a_known_user() -> bool:
                rankers.ask([RankRequest("q", "u1", k=5, deadline_ms=60_000)])
                return any(reply.version and not reply.notes for reply, _ in rankers.replies(1.0))

            wait_until(is_ranked_for_a_known_user, "a version and a profile")
    finally:
        house.end()
