"""`python -m tests.support.golden_files FOLDER`: every durable format in small files, as this build writes it.

A release keeps them in `tests/golden/VERSION/`; all later builds read them. They are written once, never again.
"""

import random
import shutil
import sys
from pathlib import Path
from typing import Any, Final

import msgspec
import xxhash

from learner.checkpoints.checkpoint import Meta
from learner.checkpoints.checkpoint_files import CheckpointFiles
from learner.checkpoints.checkpointer import Checkpointer
from learner.checkpoints.file_format import Footer, TableFooter
from learner.publishing.version_allocator import VersionAllocator
from learner.publishing.version_builder import VersionBuilder
from learner.training.model import Model
from stream.events.codec import encode, encode_record
from stream.events.types import Erase, Impression, Install, SourceEvent, Tick
from stream.joiner.commit_metadata import Progress, encode_metadata
from stream.joiner.join import Joiner
from stream.joiner.label_rules import LabelRules
from stream.joiner.record_events import read_record
from stream.joiner.state_store import StateStore
from stream.runtime.formats import CHECKPOINT, LEVEL
from stream.snapshots.memory_store import MemoryStore
from stream.snapshots.version_files import VersionFiles
from stream.spec.explore import Explore
from stream.spec.spec_file import encode_spec
from tests.support.changing_world import changing_spec, mixed_log
from tests.support.learned_models import state_of
from tests.support.sample_events import SAMPLES
from tests.support.written_checkpoints import write_now

GOLDEN: Final = Path(__file__).parents[1] / "golden"
BASE, INCREMENT, END = 30, 40, 60  # offsets in `examples`
SAVED, JOINED = 60, 100  # offsets in `events`
RULES: Final = LabelRules("eager", window_ms=5_000, lateness_ms=50, known_ms=1_000, organic=True)
JOIN_NAME: Final = "golden"  # of the join that saved a state
START_MS: Final = 1_700_000_000_000
ARCHIVED: Final = ("checkpoints", "joiner")  # folders of megabytes that are mostly zeros
VERSION, TOKEN = 2, 1_700_000_000_001


def digests(model: Model) -> dict[str, str]:
    """XXH3 of every array of a model's state, by name."""
    return {name: xxhash.xxh3_128_hexdigest(raw) for name, raw in state_of(model).items()}


def events(level: int) -> list[list[SourceEvent]]:
    """Records of pages, installs, retractions and ticks of twenty users; from level 2 on some are erased."""
    rng, now, found = random.Random(2), START_MS, list[list[SourceEvent]]()
    for k in range(JOINED):
        record: list[SourceEvent] = []
        for n in range(1 + k % 4):
            now += rng.randrange(300)
            user, kind = f"u{rng.randrange(20)}", rng.random()
            if kind < 0.6:
                record.append(Impression(f"r{k}-{n}", now, user, rng.sample("abcdefgh", 4)))
            elif kind < 0.9:
                record.append(Install(user, rng.choice("abcdefgh"), now, f"i{k}-{n}"))
            elif kind < 0.95:
                record.append(Install(user, "a", now, f"i{k - 1}-{n}", retracted=True))
            else:
                record.append(Tick(now))
        if level > 1 and k % 12 == 11:
            record.append(Erase(f"u{k % 20}", now))
        found.append(record)
    return found


def emitted(joiner: Joiner, raw: bytes, offset: int) -> object:
    """Labels, organic installs and erasures of a record of `events`, as MessagePack has them."""
    part = joiner.join_record(read_record(raw)[0], offset, START_MS + 10**6 + offset)
    pages = [(*page, part.labels.rows.get(k)) for k, page in enumerate(part.labels.pages)]
    erased = [found] if (found := part.erased.get(0)) else []  # 0.2 emits none
    return msgspec.to_builtins((pages, part.organic[0], *erased), builtin_types=(bytes,))


def write_learner(folder: Path, level: int) -> None:
    """Spec, with retrieval and exploration, and records of `examples`; a base and an increment; a version of a base and
    a delta; version numbers.
    """
    spec = msgspec.structs.replace(changing_spec(holdout=0.05), max_statistics=1_000, max_likenesses=1_000)
    kept = msgspec.structs.replace(spec.retrieval.kept, max_items=1_000, max_users=1_000)  # as a file may say
    retrieval = msgspec.structs.replace(spec.retrieval, kept=kept)
    spec = msgspec.structs.replace(spec, retrieval=retrieval, explore=Explore("thompson"))
    log = mixed_log(spec, 3 * END)
    if level > 1:
        for offset in (BASE - 1, INCREMENT + 1):
            log[offset].append(Erase(f"u{offset % 5}", START_MS))
    model, files = Model(spec), CheckpointFiles(folder / "checkpoints", version=CHECKPOINT.at(level))
    checkpointer = Checkpointer(model, files, 0)
    store = MemoryStore(spec.name, now_us=lambda: 1_000 * START_MS)
    builder, token = VersionBuilder(model), store.take_token(TOKEN - 1)
    for offset, record in enumerate(log):
        if offset in (BASE, INCREMENT):
            number = 1 + (offset == INCREMENT)
            built = builder.build(number, number - 1, token, offset, START_MS, {"auc": 0.75}, deep=True)
            store.put_blobs(built.blobs)
            store.publish(built.manifest)
            write_now(checkpointer, offset, token, number)
            (folder / f"state_{offset}.json").write_bytes(_json(digests(model)))
        model.learn(record, offset)
    store.pin(VERSION)
    version_files = VersionFiles(folder / "version")
    version_files.save(store, store.manifest(VERSION))
    version_files.save_decision(store.decision())
    (folder / "version" / "lock").unlink()
    (folder / "spec.json").write_bytes(msgspec.json.format(encode_spec(spec)))
    (folder / "examples.msgpack").write_bytes(msgspec.msgpack.encode([encode_record(record) for record in log]))
    VersionAllocator(folder / "numbers.json").reserve(VERSION, token)


def write_joiner(folder: Path, level: int) -> None:
    """Records of `events`; a join state and a commit at SAVED; what is emitted from there on."""
    records = [encode_record(record) for record in events(level)]
    joiner, store = Joiner(RULES), StateStore(folder / "joiner", JOIN_NAME)
    found: list[object] = []
    for offset, raw in enumerate(records):
        if offset == SAVED:
            store.write(store.capture(joiner.state, offset))
            point = joiner.restart_point(offset)
            commit = encode_metadata(point, RULES, "small", Progress(offset, START_MS, 1, 20, 30))
            (folder / "commit.json").write_bytes(_json({"offset": point.offset, "metadata": commit}))
        found.append(emitted(joiner, raw, offset))
    (folder / "events.msgpack").write_bytes(msgspec.msgpack.encode(records))
    (folder / "labels.msgpack").write_bytes(msgspec.msgpack.encode(found[SAVED:]))


def write_fields(folder: Path) -> None:
    """The fields of structs that refuse others: what this build, as the older one, takes from a newer one."""
    kinds = Meta, Footer, TableFooter
    (folder / "fields.json").write_bytes(_json({kind.__name__: kind.__struct_fields__ for kind in kinds}))


def write_records(folder: Path) -> None:
    """One event of each type, all of its fields set: its bytes as hex, and what it says."""
    found = {type(e).__name__: {"hex": encode(e).hex(), "fields": msgspec.structs.asdict(e)} for e in SAMPLES}
    (folder / "records.json").write_bytes(_json(found))


def _json(value: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value)) + b"\n"


def main(folder: Path, level: int = LEVEL) -> None:
    """Write all of it into a new folder, at this format level."""
    folder.mkdir(parents=True)
    write_records(folder)
    write_fields(folder)
    write_joiner(folder, level)
    write_learner(folder, level)
    for name in ARCHIVED:
        shutil.make_archive(str(folder / name), "zip", folder / name)
        shutil.rmtree(folder / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
