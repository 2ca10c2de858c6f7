"""What every Kafka client shares."""

import threading
import time
import weakref
from typing import Any

import pytest
from kafka.protocol.consumer import FetchResponse

import stream.log.kafka_client  # noqa: F401  # guards the library


def test_messages_that_threads_meet_for_the_first_time_at_once_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """kafka-python lends a kind of message its class while it makes the code that reads it: to one thread at a time."""
    kind: Any = FetchResponse._struct
    monkeypatch.setattr(kind, "_data_class", weakref.proxy(FetchResponse))  # as it's imported
    monkeypatch.setattr(kind, "_compiled_encoders", {})
    emit = kind.emit_decode_from

    def slowly(*args: Any, **options: Any) -> None:
        time.sleep(0.05)
        emit(*args, **options)

    monkeypatch.setattr(kind, "emit_decode_from", slowly)
    read: list[object] = []

    def reads(after_s: float) -> None:
        time.sleep(after_s)
        decode = kind.compiled_decode_from(13, compact=True, tagged=True, data_class=FetchResponse)
        read.append(decode(memoryview(bytes(10) + b"\x01\x00"), 0))  # no error, no session, no topics

    threads = [threading.Thread(target=reads, args=(after_s,)) for after_s in (0.0, 0.025)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read) == 2
