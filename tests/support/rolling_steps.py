"""`python -m tests.support.rolling_steps`: rooms' steps of a rolling upgrade, by the build of the current folder.

It may be an earlier release, so only what that has is imported.

Each line of stdin is a JSON array, ROOM, FOLDER, FROM, TO; each line of stdout is the step's result.

`learner` goes on from the newest checkpoint in FOLDER, learns the golden records from FROM to TO, publishes a version
and writes a checkpoint, before an upgrade is finalized. `joiner` goes on from commit and saved state. `ranker` loads
the version, and prints the scores of its golden pages. `records` reads records of the other build. `refused` and
`refused_version` print why the newest checkpoint, or the version, can't be read.
"""

import json
import sys
from dataclasses import asdict
from inspect import signature
from pathlib import Path
from typing import Any

import msgspec

from learner.checkpoints.checkpoint import restore
from learner.checkpoints.checkpoint_files import CheckpointFiles
from learner.checkpoints.checkpointer import Checkpointer
from learner.publishing.version_builder import VersionBuilder
from learner.training.model import Model
from ranker.versions.model import score_features
from ranker.versions.version_loader import VersionLoader
from stream.events import types
from stream.events.codec import decode_events, decode_training
from stream.joiner.commit_metadata import Progress, decode_commit, encode_metadata
from stream.joiner.join import Joiner
from stream.joiner.state_store import StateStore
from stream.runtime.errors import BadSnapshot, CheckpointError
from stream.snapshots.memory_store import MemoryStore
from stream.snapshots.version_files import VersionFiles
from stream.spec.spec_file import decode_spec
from tests.support.golden_files import GOLDEN, RULES, START_MS, digests, emitted
from tests.support.written_checkpoints import write_now

FILES = GOLDEN / "0.2"
FIRST_LEVEL: dict[str, Any] = {"version": 1} if "version" in signature(CheckpointFiles).parameters else {}


def learner(folder: Path, first: int, last: int) -> object:
    """Digests of the state that it ends in."""
    spec = decode_spec((FILES / "spec.json").read_bytes())
    files = CheckpointFiles(folder / "checkpoints", **FIRST_LEVEL)
    found = files.newest()
    model = restore(spec, found) if found else Model(spec)
    assert (found.meta.offset if found else 0) == first
    checkpointer = Checkpointer(model, files, first, found.origin if found else None)
    raws = msgspec.msgpack.decode((FILES / "examples.msgpack").read_bytes())
    for offset in range(first, last):
        model.learn(decode_training(raws[offset])[0], offset)
    store = MemoryStore(spec.name)
    token = store.take_token()
    built = VersionBuilder(model).build(last, 0, token, last, START_MS, {}, deep=True)
    store.put_blobs(built.blobs)
    store.publish(built.manifest)
    VersionFiles(folder / "version").save(store, built.manifest)
    write_now(checkpointer, last, token, last)
    return digests(model)


def ranker(folder: Path, _first: int, last: int) -> object:
    """Scores of the golden pages, which the loader has compared with those of the learner."""
    files = VersionFiles(folder / "version")
    version = VersionLoader(files, "small").load(last)
    pages = version.manifest.golden
    return [score_features(version, page.features, len(page.scores)).tolist() for page in pages]


def joiner(folder: Path, first: int, last: int) -> object:
    """All that it emits. Every other time there is no saved state, and it's rebuilt from the log."""
    stored, store = folder / "commit.json", StateStore(folder / "joiner", "golden")
    raws = msgspec.msgpack.decode((FILES / "events.msgpack").read_bytes())
    if first == 0:
        one = Joiner(RULES)
    else:
        commit = decode_commit(*json.loads(stored.read_bytes()))
        assert commit.progress.confirmed == first
        loaded = store.load(RULES, 0, len(raws)) if first % 2 == 0 else None
        assert loaded is None or loaded[1] == first
        one = Joiner(RULES, commit.restart_point, loaded[0] if loaded else None)
        for offset in range(commit.restart_point.offset if loaded is None else first, first):
            emitted(one, raws[offset], offset)
    found = [emitted(one, raws[offset], offset) for offset in range(first, last)]
    store.write(store.capture(one.state, last))
    point = one.restart_point(last)
    stored.write_text(json.dumps([point.offset, encode_metadata(point, RULES, "small", Progress(last))]))
    assert asdict(decode_commit(*json.loads(stored.read_bytes())).restart_point) == asdict(point)
    return found


def refused(folder: Path, _first: int, _last: int) -> object:
    """Why the newest checkpoint can't be read; empty if it can."""
    try:
        CheckpointFiles(folder / "checkpoints", owned=False).newest()
    except CheckpointError as error:
        return str(error)
    return ""


def records(folder: Path, _first: int, _last: int) -> object:
    """What the records say, by type, without types that this build lacks; and of a record of `events`, how many events
    are read and how many become dead letters.
    """
    found = {}
    for name, sample in json.loads((folder / "records.json").read_bytes()).items():
        if kind := getattr(types, name, None):
            event = msgspec.msgpack.decode(bytes.fromhex(sample["hex"]), type=kind)
            found[name] = {field: getattr(event, field) for field in event.__struct_fields__}
    return found, [len(part) for part in decode_events((folder / "events.msgpack").read_bytes())]


def refused_version(folder: Path, _first: int, last: int) -> object:
    """Why the version can't be served; empty if it can."""
    try:
        VersionLoader(VersionFiles(folder / "version"), "small").load(last)
    except BadSnapshot as error:
        return str(error)
    return ""


STEPS = {
    "learner": learner, "ranker": ranker, "joiner": joiner, "records": records, "refused": refused,
    "refused_version": refused_version,
}  # fmt: skip

if __name__ == "__main__":
    for line in sys.stdin:
        room, path, begin, end = json.loads(line)
        print(msgspec.json.encode(STEPS[room](Path(path), begin, end)).decode(), flush=True)
