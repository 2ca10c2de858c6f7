"""What an erasure removed from the model is written into the ledger, for receipts."""

from pathlib import Path

from learner.checkpoints.checkpoint_files import CheckpointFiles
from learner.learner import Learner
from learner.training.model import Model
from stream.events.codec import decode_ledger, encode_record
from stream.events.topics import ERASED, EXAMPLES
from stream.events.types import Erase, Removal, TrainingEvent
from stream.history.erasing import read_erased
from stream.joiner.output_records import ledger_record
from stream.log.memory_log import MemoryLog
from stream.log.protocol import START
from tests.support.learner_world import records, small_spec

SPEC = small_spec()


def test_a_learner_writes_it_behind_the_erasure_and_a_replay_writes_the_same(tmp_path: Path) -> None:
    """Under a key of its own: compaction leaves the Erase, and whoever reads the ledger reads on."""
    log = MemoryLog({EXAMPLES.name: 1, ERASED.name: 1}, lambda: 1)
    log.send(*ledger_record(Erase("u3", 7)))
    events: list[list[TrainingEvent]] = [[*some] for some in records(SPEC, 90)]
    events[20].append(Erase("u3", 7))
    for some in events:
        log.send(EXAMPLES.name, 0, encode_record(some), b"0")
    read = log.reader(EXAMPLES.name, {0: START}).poll(0.0, 1_000)
    for life in ("first", "replayed"):
        learner = Learner(log, Model(SPEC), 0, CheckpointFiles(tmp_path / life), 0)
        learner.learn(learner.model.record_encoder.records(read), lambda: None)
    erased, first, again = log.reader(ERASED.name, {0: START}).poll(0.0)
    assert first[4:] == again[4:]
    assert first.key not in (None, erased.key)
    removal = decode_ledger(first.value or b"")
    assert isinstance(removal, Removal)
    assert (removal.user, removal.time_ms, removal.room) == ("u3", 7, "learner small")
    assert all(removal.counts[name] for name in ("wide", "statistics", "embeddings", "pages"))
    assert removal.counts["retrieval"] == 0
    assert read_erased(log) == {"u3": 7}
