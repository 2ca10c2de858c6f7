"""Topics on three real brokers: one that is lost takes nothing along."""

import signal
from contextlib import closing
from pathlib import Path

import pytest

from stream.events.topics import EVENTS, REQUESTS
from stream.log.kafka_admin import apply_topics, plan_topics
from stream.log.kafka_log import KafkaLog
from stream.log.protocol import START
from stream.runtime.errors import SettingsError
from stream.runtime.settings import Settings
from tests.support.broker_cluster import running_brokers
from tests.support.waiting import wait_until
from thalweg.stack.server import end_process


@pytest.mark.timeout(300)  # three brokers, on a machine that may be busy
def test_a_broker_that_is_lost(tmp_path: Path) -> None:
    """Three replicas, two in sync: writing and reading go on, and what was acknowledged is there."""
    with running_brokers(tmp_path) as servers:
        addresses = ",".join(server.address for server in servers)
        settings = Settings(kafka=addresses, replication=3, partitions=3)
        plan = plan_topics(settings, (EVENTS, REQUESTS))
        assert [(change.replication, dict(change.config)["min.insync.replicas"]) for change in plan] == [(3, "2")] * 2
        with pytest.raises(SettingsError, match=r"has 3 brokers, and topics get 4 replicas .*THALWEG_REPLICATION=3"):
            plan_topics(settings.model_copy(update={"replication": 4}), (EVENTS,))
        apply_topics(settings, plan)
        assert plan_topics(settings, (EVENTS, REQUESTS)) == []
        with closing(KafkaLog(settings)) as log:
            for n in range(2):
                for partition in range(3):
                    log.send(EVENTS.name, partition, f"{n}".encode())
                log.flush(60.0)
                if n == 0:
                    end_process(servers[-1], signal.SIGKILL, 20)
            with closing(log.reader(EVENTS.name, dict.fromkeys(range(3), START))) as reader:
                found: list[tuple[int, bytes | None]] = []

                def all_read() -> bool:
                    found.extend((record.partition, record.value) for record in reader.poll(0.5))
                    return len(found) >= 6

                wait_until(all_read, "all records", 60.0)
        assert sorted(found, key=str) == [(p, b"%d" % n) for p in range(3) for n in range(2)]
