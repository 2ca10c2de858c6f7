"""One version of a model in a folder: a fallback while the store is unavailable, or after it was wiped.

    blobs/<digest>   as in the store
    version          the manifest, with its digest
    decision         the latest decision known here, after its digest
    lock             locked by the writer

A crash at any moment leaves a complete version, the old one or the new. Every digest is checked on reading.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec

from stream.runtime.durable_files import replacing
from stream.runtime.errors import BadSnapshot
from stream.snapshots.manifest import (
    MANIFEST_BYTES_MAX,
    UNDECIDED,
    Decision,
    Manifest,
    decode_manifest,
    encode_manifest,
    named_blobs,
)
from stream.snapshots.payload import BLOB_BYTES_MAX, digest_of
from stream.snapshots.store import VersionReader

DECISION_BYTES_MAX: Final = 200


class VersionFiles:
    """The folder of one version. Raises BadSnapshot for what is damaged or missing, OSError when the disk fails."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._blobs = folder / "blobs"
        self._verified: set[str] = set()  # blobs whose digest matched when this process read or wrote them
        self._decision = folder / "decision"

    def save(self, store: VersionReader, manifest: Manifest) -> None:
        """Replace the version in the folder; only new or damaged blobs are fetched.

        Raises OSError, too, while another process writes here.
        """
        self._blobs.mkdir(parents=True, exist_ok=True)
        named = set(named_blobs(manifest))
        with _locked(self.folder):
            for digest in named - self._intact(named):
                _write(self._blobs / digest, store.get_blob(digest))
                self._verified.add(digest)
            _write(self.folder / "version", encode_manifest(manifest))
            for path in self._blobs.iterdir():
                if path.name not in named:
                    path.unlink()
        self._verified &= named

    def load(self) -> Manifest | None:
        """The manifest in the folder; None without one."""
        try:
            return decode_manifest(_read(self.folder / "version", MANIFEST_BYTES_MAX))
        except FileNotFoundError:
            return None

    def manifest(self, version: int) -> Manifest:
        """See VersionReader."""
        manifest = self.load()
        if manifest is None or manifest.version != version:
            raise BadSnapshot(f"{self.folder} doesn't contain version {version}")
        return manifest

    def save_decision(self, decision: Decision) -> None:
        """Replace the decision in the folder. Raises as `save` does."""
        self.folder.mkdir(parents=True, exist_ok=True)
        body = msgspec.json.encode(decision)
        with _locked(self.folder):
            _write(self._decision, digest_of(body).encode() + b" " + body)

    def decision(self) -> Decision:
        """The decision in the folder; UNDECIDED without one."""
        try:
            digest, _, body = _read(self._decision, DECISION_BYTES_MAX).partition(b" ")
            if digest != digest_of(body).encode():
                raise BadSnapshot(f"{self._decision} doesn't match its digest: delete it")
            return msgspec.json.decode(body, type=Decision)
        except FileNotFoundError:
            return UNDECIDED
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise BadSnapshot(f"{self._decision} contains no decision: delete it") from None

    def clear(self) -> None:
        """Remove the version."""
        (self.folder / "version").unlink(missing_ok=True)

    def get_blob(self, digest: str) -> bytes:
        """A blob, checked against its digest."""
        try:
            blob = _read(self._blobs / digest, BLOB_BYTES_MAX)
        except FileNotFoundError:
            raise BadSnapshot(f"{self._blobs / digest} is missing: delete the folder") from None
        if digest_of(blob) != digest:
            raise BadSnapshot(f"{self._blobs / digest} has other bytes than its name says: delete the folder")
        self._verified.add(digest)
        return blob

    def blobs(self, manifest: Manifest) -> dict[str, bytes]:
        """All blobs that it names."""
        return {digest: self.get_blob(digest) for digest in set(named_blobs(manifest))}

    def _intact(self, named: set[str]) -> set[str]:
        """The named blobs that are here with the right bytes; each is read once."""
        present = named & {path.name for path in self._blobs.iterdir()}
        for digest in present - self._verified:
            with suppress(BadSnapshot, OSError):  # it is fetched again
                self.get_blob(digest)
        return present & self._verified


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Exclude other writers; the system releases the lock of a process that ends."""
    with (folder / "lock").open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OSError(f"another process writes into {folder}: give each a THALWEG_WORKER of its own") from None
        yield


def _read(path: Path, bytes_max: int) -> bytes:
    """At most `bytes_max` bytes: a truncated file fails its digest."""
    with path.open("rb") as file:
        return file.read(bytes_max)


def _write(path: Path, raw: bytes) -> None:
    with replacing(path) as file:
        file.write(raw)
