"""`thalweg run ranker`: a RankerService on Kafka and Redis, with its health, until a signal ends it."""

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from functools import partial
from typing import Any, Protocol

from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # ships no types

from ranker.builder.builder_client import BuilderClient, start_builder
from ranker.ranking.score import SWITCH_S
from ranker.serving.profile_reader import PATIENCE_S
from ranker.serving.served_model import ModelSource
from ranker.serving.service import KafkaOptions, RankerService
from stream.history.profiles import UserProfile, read_profiles
from stream.log.kafka_log import KafkaLog
from stream.runtime.health import Health, check_alone, run_file
from stream.runtime.settings import Settings
from stream.snapshots.redis_address import has_several_servers
from stream.snapshots.redis_client import connect, impatient
from stream.snapshots.redis_store import RedisStore
from stream.snapshots.version_files import VersionFiles

log = logging.getLogger(__name__)


class Transport(Protocol):
    """Another way in beside Kafka, which runs in threads of its own."""

    address: str

    def live(self) -> tuple[bool, str]:
        """Whether it runs, else why not."""

    def close(self) -> None:
        """Answer what was received, then end."""


def run_ranker(
    settings: Settings,
    models: Sequence[str],
    *,
    named_only: bool = False,
    beside: Callable[[RankerService], Transport] | None = None,
) -> None:
    """Rank by `models` until SIGINT or SIGTERM. Raises SettingsError, or LogError when a retry won't help.

    `beside` starts another transport. With `named_only` requests on Kafka that name no model are left to other rankers,
    else the first of `models` answers them.
    """
    settings.need_kafka()
    check_alone(settings, "ranker")
    threadpool_limits(1)  # BLAS: several threads score at once, each a batch of its own
    sys.setswitchinterval(SWITCH_S)
    with ExitStack() as open_:
        read, quick = (
            partial(_read_profiles, open_.enter_context(closing(client)), settings.topic_prefix)
            for client in (connect(settings), connect(settings, **impatient(PATIENCE_S)))
        )
        service = RankerService(
            {
                model: ModelSource(
                    open_.enter_context(closing(RedisStore(settings, model))),
                    VersionFiles(settings.local / "ranker" / settings.worker / f"{settings.topic_prefix}{model}"),
                    BuilderClient(partial(start_builder, settings, model)),
                )
                for model in dict.fromkeys(models)
            },
            read,
            threads=settings.ranker_threads,
            queue_ms=settings.ranker_queue_ms,
            options=KafkaOptions(settings.worker, not named_only, settings.allowed_reply_topics, settings.ranker_acks),
            # The request loop itself must not look for a cluster's nodes.
            quick=None if has_several_servers(settings.redis) else quick,
        )
        other = beside(service) if beside else None

        def live() -> tuple[bool, str]:
            ours = service.live()
            return ours if other is None or not ours[0] else other.live()

        health = Health(
            settings.host,
            settings.ranker_port,
            service.ready,
            live,
            written_to=run_file(settings, "ranker"),
            also={"http": other.address} if other else None,
        )
        with closing(health):
            _end_on_signals(service, health)
            service.run(lambda: KafkaLog(settings), other.close if other else lambda: None)


def _end_on_signals(service: RankerService, health: Health) -> None:
    """Let SIGINT and SIGTERM stop the service; one that can't rank yet ends at once, with status 0.

    That is as safe as kill -9: no request was read, so none is answered or committed; events that were answered are
    in the log, the others are sent again by whoever has no answer; files are renamed once they are whole; the builder
    ends with its socket. A thread does so: the main one may be compiling a kernel, where it runs no handler.
    """
    numbers, written = socket.socketpair()
    written.setblocking(False)

    def watch() -> None:
        while numbers.recv(1):
            if service.ranks()[0] or service.stop.is_set():
                service.stop.set()
            else:
                log.info("a signal ends the ranker before it serves (%s)", service.state)
                try:
                    health.close()
                finally:
                    os._exit(0)

    signal.set_wakeup_fd(written.detach())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    threading.Thread(target=watch, name="signals", daemon=True).start()


def _read_profiles(client: Any, prefix: str, users: Sequence[str]) -> dict[str, UserProfile]:
    return read_profiles(client, users, prefix)
