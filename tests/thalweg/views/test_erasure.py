"""Receipts of erasures: what says that the model has learned one."""

import pytest

from stream.events.codec import encode_record
from stream.events.topics import EXAMPLES
from stream.events.types import Erase
from stream.snapshots.memory_store import MemoryStore
from tests.support.backed_up import new_log
from tests.support.small_versions import publish
from thalweg.views.erasure import MODEL, erase


def test_a_version_from_before_the_erasure_has_not_learned_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its offset: it may be one of a log that was lost."""
    log, store, event, published = new_log(), MemoryStore("m"), Erase("u1", 1_000), [3]
    for version in (1, 2):
        publish(store, version, version - 1, store.take_token())
    assert store.manifest(2).offset[0] > 2
    store.pin(1)

    def pass_on(timeout_s: float = 10.0) -> None:
        log.send(EXAMPLES.name, 0, encode_record([event]))
        for version in published:
            publish(store, version, version - 1, store.take_token())

    monkeypatch.setattr(log, "flush", pass_on)
    receipt = erase(log, event, None, store, "", 0.5)
    assert (receipt.reached_ms[MODEL] is None, receipt.version, receipt.pinned) == (False, 3, 1)
    published.clear()
    receipt = erase(log, event, None, store, "", 0.5)
    assert (receipt.reached_ms[MODEL], receipt.version) == (None, 0)
