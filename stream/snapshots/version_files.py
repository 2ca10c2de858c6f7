"""One version of a model in a folder: what is served or learned on while the store is away, or after it was wiped.

    blobs/<digest>   as in the store
    version          the manifest, under its digest
    decision         what a person has decided last, as far as was heard here, after its digest
    lock             held by who writes

Written so that a crash at any moment leaves a whole version, the old one or the new; read with every digest checked.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from stream.runtime.durable import replacing
from stream.runtime.errors import BadSnapshot
from stream.snapshots.contents import BLOB_BYTES_MAX, digest_of
from stream.snapshots.manifest import (
    MANIFEST_BYTES_MAX,
    UNDECIDED,
    Decision,
    Manifest,
    decode_manifest,
    encode_manifest,
    named_blobs,
)
from stream.snapshots.store import VersionReader

DECISION_BYTES_MAX: Final = 200


class VersionFiles:
    """The folder of one version. Raises BadSnapshot for what isn't whole, OSError when the disk refuses."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._blobs = folder / "blobs"
        self._seen: set[str] = set()  # blobs that were whole when this process read or wrote them
        self._decision = folder / "decision"

    def save(self, store: VersionReader, manifest: Manifest) -> None:
        """Keep this version instead of the one that is there; only blobs that are new or damaged are fetched.

        Raises OSError, too, while another process writes here.
        """
        self._blobs.mkdir(parents=True, exist_ok=True)
        named = set(named_blobs(manifest))
        with _locked(self.folder):
            for digest in named - self._whole(named):
                _write(self._blobs / digest, store.get_blob(digest))
                self._seen.add(digest)
            _write(self.folder / "version", encode_manifest(manifest))
            for path in self._blobs.iterdir():
                if path.name not in named:
                    path.unlink()
        self._seen &= named

    def load(self) -> Manifest | None:
        """The manifest that is kept; None when nothing is."""
        try:
            return decode_manifest(_read(self.folder / "version", MANIFEST_BYTES_MAX))
        except FileNotFoundError:
            return None

    def manifest(self, version: int) -> Manifest:
        """See VersionReader."""
        manifest = self.load()
        if manifest is None or manifest.version != version:
            raise BadSnapshot(f"{self.folder} doesn't keep version {version}")
        return manifest

    def decide(self, decision: Decision) -> None:
        """Keep this decision instead of the one that is there. Raises as `save` does."""
        self.folder.mkdir(parents=True, exist_ok=True)
        body = msgspec.json.encode(decision)
        with _locked(self.folder):
            _write(self._decision, digest_of(body).encode() + b" " + body)

    def decision(self) -> Decision:
        """The decision that is kept; UNDECIDED when none is."""
        try:
            digest, _, body = _read(self._decision, DECISION_BYTES_MAX).partition(b" ")
            if digest != digest_of(body).encode():
                raise BadSnapshot(f"{self._decision} isn't what its digest says: delete it")
            return msgspec.json.decode(body, type=Decision)
        except FileNotFoundError:
            return UNDECIDED
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise BadSnapshot(f"{self._decision} holds no decision: delete it") from None

    def forget(self) -> None:
        """Keep nothing from now on."""
        (self.folder / "version").unlink(missing_ok=True)

    def get_blob(self, digest: str) -> bytes:
        """A blob, checked against its digest."""
        try:
            blob = _read(self._blobs / digest, BLOB_BYTES_MAX)
        except FileNotFoundError:
            raise BadSnapshot(f"{self._blobs / digest} is missing: delete the folder") from None
        if digest_of(blob) != digest:
            raise BadSnapshot(f"{self._blobs / digest} holds other bytes than its name says: delete the folder")
        self._seen.add(digest)
        return blob

    def blobs(self, manifest: Manifest) -> dict[str, bytes]:
        """All blobs that it names."""
        return {digest: self.get_blob(digest) for digest in set(named_blobs(manifest))}

    def _whole(self, named: set[str]) -> set[str]:
        """Those of the named blobs that lie here with the right bytes; each is read once."""
        there = named & {path.name for path in self._blobs.iterdir()}
        whole = there & self._seen
        for digest in there - whole:
            try:
                self.get_blob(digest)
            except (BadSnapshot, OSError):
                continue  # it is written anew
            whole.add(digest)
        return whole


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Nobody else writes meanwhile; the system lets go of the lock of a process that ends."""
    with (folder / "lock").open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OSError(f"another process writes into {folder}: give each a THALWEG_WORKER of its own") from None
        yield


def _read(path: Path, bytes_max: int) -> bytes:
    """At most so many bytes: what is cut off has another digest."""
    with path.open("rb") as file:
        return file.read(bytes_max)


def _write(path: Path, raw: bytes) -> None:
    with replacing(path) as file:
        file.write(raw)
