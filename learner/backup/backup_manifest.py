"""What a backup consists of: one JSON manifest, which names blobs by digest.

    <model>/blobs/<SHA-256>                at most 8 MiB each, immutable, shared by backups
    <model>/backups/<time>-<SHA-256>       a manifest, written last: what it names is there
    <model>/locks/<kind>-<time>-<id>       a backup that is being written, or blobs that are being removed

A digest is checked before anything is decoded, and a size before anything is read. Nothing in a backup can be run.
"""

import hashlib
import re
from itertools import chain
from typing import Annotated, Final

import msgspec

from stream.events.types import TIME_MS_MAX
from stream.runtime.errors import BackupError
from stream.runtime.formats import BACKUP, RELEASES

BLOB_BYTES: Final = 8 << 20
MANIFEST_BYTES_MAX: Final = 64 << 20
ID: Final = re.compile(r"(\d{13})-([0-9a-f]{64})")
CHECKPOINTS: Final = "checkpoints/"
PINS: Final = "pins/"
NUMBERS: Final = "numbers"

Count = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
Time = Annotated[int, msgspec.Meta(ge=0, lt=TIME_MS_MAX)]
Digest = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
# Where a file goes is one of three folders, whatever the manifest says.
Path = Annotated[
    str, msgspec.Meta(pattern=r"^(checkpoints/[0-9A-Za-z][0-9A-Za-z.]*|pins/(blobs/)?[0-9a-z]+|numbers)\Z")
]


class Blob(msgspec.Struct, frozen=True, array_like=True):
    """Its SHA-256, and its bytes."""

    digest: Digest
    size: Annotated[int, msgspec.Meta(ge=0, le=BLOB_BYTES)]


class StoredFile(msgspec.Struct, frozen=True):
    """A file, its blobs in order. `mark`: the digest of a checkpoint's footer, or of a version's blob: the same one
    has the same content."""

    path: Path
    blobs: list[Blob]
    mark: str = ""


class StoredTopic(msgspec.Struct, frozen=True):
    """A topic as the broker had it; the name is without prefix. `config`: the settings that aren't the broker's.

    `id`: the broker's; a topic that is created again has another one.
    """

    name: str
    partitions: Annotated[int, msgspec.Meta(ge=1, le=100_000)]
    replication: Annotated[int, msgspec.Meta(ge=1, le=100)]
    config: dict[str, str] = {}
    id: str = ""


class StoredRecords(msgspec.Struct, frozen=True):
    """A compacted topic's records, in the order of their blobs. `ends`: the next offset, by partition.

    `first`: how many the last full read found; `later`: how many were appended since.
    """

    topic: str
    ends: dict[int, Count]
    first: Count
    later: Count
    blobs: list[Blob]


class BackupManifest(msgspec.Struct, frozen=True):
    """One backup. `offset`: the next one in `examples` that its checkpoint has to learn; `log_ms`: of which log.

    `model`: with the prefix of the topics.
    """

    model: str
    created_ms: Time
    offset: int
    examples: Count
    checkpoint: str
    files: list[StoredFile]
    topics: list[StoredTopic] = []
    records: list[StoredRecords] = []
    log_ms: Time = 0
    release: str = RELEASES[-1]
    format: int = BACKUP.version

    def blobs(self) -> dict[str, Blob]:
        """All that it names, by digest."""
        lists = chain((one.blobs for one in self.files), (one.blobs for one in self.records))
        return {blob.digest: blob for blob in chain.from_iterable(lists)}


class _Format(msgspec.Struct):
    format: int = 0


def digest_of(raw: bytes) -> str:
    """SHA-256, 64 hex digits."""
    return hashlib.sha256(raw).hexdigest()


def encode_backup(manifest: BackupManifest) -> tuple[str, bytes]:
    """Its id, and its bytes."""
    raw = msgspec.json.encode(manifest)
    if len(raw) > MANIFEST_BYTES_MAX:
        raise BackupError(f"a backup's manifest of {len(raw)} bytes is over {MANIFEST_BYTES_MAX}: too many blobs")
    return f"{manifest.created_ms:013d}-{digest_of(raw)}", raw


def decode_backup(name: str, raw: bytes) -> BackupManifest:
    """The backup of this id. Raises BackupError when it's damaged, or a later release's."""
    match = ID.fullmatch(name)
    if match is None or digest_of(raw) != match[2]:
        raise BackupError(f"the backup {name} doesn't have its digest: it's damaged; restore another one")
    try:
        found = msgspec.json.decode(raw, type=_Format)
        if why := BACKUP.why_unreadable(found.format):
            raise BackupError(why)
        return msgspec.json.decode(raw, type=BackupManifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BackupError(f"the backup {name} can't be read: {error}; restore another one") from error
