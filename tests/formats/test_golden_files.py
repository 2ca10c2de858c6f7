"""What earlier releases wrote is read, and what this build writes is read by the release before it."""

import itertools
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from learner.checkpoints.checkpoint import restore
from learner.checkpoints.checkpoint_files import CheckpointFiles
from learner.checkpoints.file_format import Footer, TableFooter, read_footer
from learner.publishing.version_allocator import HighWater, VersionAllocator
from ranker.versions.version_loader import VersionLoader
from stream.events import types
from stream.events.codec import decode_training, encode
from stream.joiner.commit_metadata import decode_commit, rule_differences
from stream.joiner.join import Joiner
from stream.joiner.state_store import StateStore
from stream.runtime.errors import BadSnapshot
from stream.runtime.formats import COMMIT, LEVEL, MANIFEST, table
from stream.snapshots.manifest import decode_manifest
from stream.snapshots.payload import digest_of
from stream.snapshots.version_files import VersionFiles
from stream.spec.spec import Spec
from stream.spec.spec_file import decode_spec, encode_spec
from tests.support.golden_files import (
    ARCHIVED,
    BASE,
    END,
    INCREMENT,
    JOIN_NAME,
    JOINED,
    RULES,
    SAVED,
    TOKEN,
    VERSION,
    digests,
    emitted,
    main,
)
from tests.support.golden_reading import RELEASES, unpacked

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", params=RELEASES)
def golden(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Golden files of a release."""
    return unpacked(request.param, tmp_path_factory.mktemp("golden"))


@pytest.fixture(scope="module", params=[*RELEASES, "this build"])
def readable(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Golden files of a release, or those that this build would keep if it were released."""
    folder = tmp_path_factory.mktemp("readable")
    if request.param in RELEASES:
        return unpacked(request.param, folder)
    main(folder / "now")
    for name in ARCHIVED:
        shutil.unpack_archive(folder / "now" / f"{name}.zip", folder / "now" / name)
    return folder / "now"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same files as this build writes them before an upgrade is finalized."""
    folder = tmp_path_factory.mktemp("written") / "now"
    main(folder, LEVEL - 1)
    return folder


def json_of(path: Path) -> Any:
    """A JSON file's value."""
    return msgspec.json.decode(path.read_bytes())


def spec_of(golden: Path) -> Spec:
    """The spec that the learner's files belong to."""
    return decode_spec((golden / "spec.json").read_bytes())


def test_records_say_what_they_said(readable: Path) -> None:
    """A field that was added since has its default."""
    for name, sample in json_of(readable / "records.json").items():
        kind = getattr(types, name)
        event = msgspec.msgpack.decode(bytes.fromhex(sample["hex"]), type=kind)
        fields = {field: getattr(event, field) for field in sample["fields"]}
        assert msgspec.json.decode(msgspec.json.encode(fields)) == sample["fields"], name
        defaults = msgspec.structs.asdict(event).keys() - fields.keys()
        required = {field.name for field in msgspec.structs.fields(kind) if field.required}
        assert not defaults & required, name


def test_earlier_readers_find_their_fields_in_records(golden: Path) -> None:
    """They read by position and skip what comes after, so a record written now begins with what it began with."""
    for name, sample in json_of(golden / "records.json").items():
        raw = bytes.fromhex(sample["hex"])
        now = msgspec.msgpack.decode(encode(msgspec.msgpack.decode(raw, type=getattr(types, name))))
        before = msgspec.msgpack.decode(raw)
        assert _begins_alike(now, before), name


def _begins_alike(now: Any, before: Any) -> bool:
    """Whether each array of `before`, nested ones too, is the beginning of the one in `now`."""
    if isinstance(before, list):
        pairs = itertools.zip_longest(now[: len(before)], before)
        return isinstance(now, list) and all(_begins_alike(*pair) for pair in pairs)
    return bool(now == before)


@pytest.mark.parametrize(("number", "offset"), [(1, BASE), (2, INCREMENT)])
def test_a_checkpoint_restores_the_state_that_it_was_written_from(readable: Path, number: int, offset: int) -> None:
    """To the bit, of a base and of an increment; and learning goes on from there."""
    files = CheckpointFiles(readable / "checkpoints")
    checkpoint = files.named(f"{number:012d}.checkpoint")
    model = restore(spec_of(readable), checkpoint)
    assert (checkpoint.meta.offset, checkpoint.meta.token, checkpoint.meta.version) == (offset, TOKEN, number)
    now, then = digests(model), json_of(readable / f"state_{offset}.json")
    assert {name: now.get(name) for name in then} == then
    raws = msgspec.msgpack.decode((readable / "examples.msgpack").read_bytes())
    examples = model.examples
    for at in range(offset, END):
        events, bad = decode_training(raws[at])
        assert not bad
        model.learn(events, at)
    assert model.examples > examples


def test_a_version_is_served(readable: Path) -> None:
    """Its golden pages have the scores that its learner gave them; what was pinned is pinned."""
    files = VersionFiles(readable / "version")
    loader = VersionLoader(files, spec_of(readable).name)
    version = loader.load(VERSION)
    assert version.manifest.token == TOKEN
    assert len(version.manifest.golden) > 0
    assert files.decision().version == VERSION
    assert files.decision().number > 0
    spec = spec_of(readable)
    assert (version.learned_items is not None) == spec.retrieval.is_learned
    assert version.plan.spec.explore == spec.explore


def test_version_numbers_arent_used_again(readable: Path) -> None:
    """What was reserved is known."""
    assert VersionAllocator(readable / "numbers.json").read() == HighWater(VERSION + 99, TOKEN)


def test_a_join_goes_on_from_its_saved_state_and_from_its_commit(readable: Path) -> None:
    """Above the confirmed offset both emit what that release emitted; below it nothing, as its joiner did."""
    stored = json_of(readable / "commit.json")
    commit = decode_commit(stored["offset"], stored["metadata"])
    assert (commit.version, commit.model) == (COMMIT.version, "small"), (
        "a newer join may emit other labels: say so here"
    )
    assert not rule_differences(commit, RULES, "small")
    assert 0 < commit.restart_point.offset < commit.progress.confirmed == SAVED
    raws = msgspec.msgpack.decode((readable / "events.msgpack").read_bytes())
    wanted = msgspec.msgpack.decode((readable / "labels.msgpack").read_bytes())
    found = StateStore(readable / "joiner", JOIN_NAME).load(RULES, 0, JOINED)
    assert found is not None
    loaded = Joiner(RULES, commit.restart_point, found[0])
    rebuilt = Joiner(RULES, commit.restart_point)
    for offset in range(commit.restart_point.offset, SAVED):
        emitted(rebuilt, raws[offset], offset)
    assert found[1] == SAVED
    for joiner in (loaded, rebuilt):
        now = [emitted(joiner, raws[offset], offset) for offset in range(SAVED, JOINED)]
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(now)) == wanted


def test_the_spec_is_read_and_written_alike(readable: Path) -> None:
    """Readers refuse fields that they don't know: what a spec doesn't use isn't written."""
    raw = (readable / "spec.json").read_bytes()
    assert msgspec.json.decode(encode_spec(decode_spec(raw))) == msgspec.json.decode(raw)


def test_the_release_before_reads_what_this_build_writes(golden: Path, written: Path, tmp_path: Path) -> None:
    """Checkpoints of the format that it knows, without fields that it refuses; its version of commit and manifest."""
    fields = json_of(golden / "fields.json")
    for name in ("000000000001.checkpoint", "000000000002.checkpoint"):
        now = unpacked_checkpoints(written, tmp_path) / name
        assert now.read_bytes()[:8] == (golden / "checkpoints" / name).read_bytes()[:8]
        footer, _ = read_footer(now)
        assert msgspec.json.decode(footer.meta).keys() <= set(fields["Meta"])
        assert not msgspec.json.decode(footer.meta).keys() & {"release"}, "which is of the format after it"
        for kind in (Footer, TableFooter):
            assert set(kind.__struct_fields__) <= set(fields[kind.__name__])
        chunks = {chunk.name for chunk in read_footer(golden / "checkpoints" / name)[0].chunks}
        assert chunks <= {chunk.name for chunk in footer.chunks}
    one, other = (VersionFiles(folder / "version").manifest(VERSION) for folder in (golden, written))
    assert other.format == one.format
    assert one.parts.keys() <= other.parts.keys()
    before, now = (msgspec.json.decode(json_of(folder / "commit.json")["metadata"]) for folder in (golden, written))
    assert before.items() <= now.items()


def unpacked_checkpoints(written: Path, folder: Path) -> Path:
    """The archive's files."""
    shutil.unpack_archive(written / "checkpoints.zip", folder / "checkpoints")
    return folder / "checkpoints"


def test_a_newer_manifest_is_refused(golden: Path) -> None:
    """By its format, though it could be decoded; also one that couldn't. The message says what to do."""
    _, body = msgspec.msgpack.decode((golden / "version" / "version").read_bytes())
    fields = msgspec.msgpack.decode(body)
    for change in ({}, {"parts": 5}):
        newer = msgspec.msgpack.encode(fields | {"format": MANIFEST.version + 1} | change)
        raw = msgspec.msgpack.encode((bytes.fromhex(digest_of(newer)), newer))
        with pytest.raises(BadSnapshot, match=r"manifest format \d is newer than \d.*start the build that wrote it"):
            decode_manifest(raw)


def test_the_table_in_the_docs_is_that_of_the_code() -> None:
    """Whoever changes a version copies the table: python -m stream.runtime.formats."""
    assert table() in (ROOT / "docs" / "upgrading.md").read_text()
