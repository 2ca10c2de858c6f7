"""One version of a model in a folder: what is served or learned on while the store is away, or after it was wiped.

    blobs/<digest>   as in the store
    version          the manifest, under its digest
    pinned           there when a person has pinned this version

Written so that a crash at any moment leaves a whole version, the old one or the new; read with every digest checked.
"""

import os
from pathlib import Path

from stream.errors import BadSnapshot
from stream.snapshot import (
    BLOB_BYTES_MAX,
    MANIFEST_BYTES_MAX,
    Manifest,
    VersionReader,
    decode_manifest,
    digest_of,
    encode_manifest,
    named_blobs,
)


class VersionFiles:
    """The folder of one version. Raises BadSnapshot for what isn't whole, OSError when the disk refuses."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._blobs = folder / "blobs"
        self._pinned = folder / "pinned"

    def save(self, store: VersionReader, manifest: Manifest, *, pinned: bool = False) -> None:
        """Keep this version instead of the one that is there; only blobs that are new are fetched and written."""
        self._blobs.mkdir(parents=True, exist_ok=True)
        named = set(named_blobs(manifest))
        for digest in named - {path.name for path in self._blobs.iterdir()}:
            _write(self._blobs / digest, store.get_blob(digest))
        self._pinned.unlink(missing_ok=True)
        _write(self.folder / "version", encode_manifest(manifest))
        if pinned:
            _write(self._pinned, b"")
        for path in self._blobs.iterdir():
            if path.name not in named:
                path.unlink()

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

    @property
    def pinned(self) -> bool:
        """Has a person pinned what is kept?"""
        return self._pinned.exists()

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
        return blob

    def blobs(self, manifest: Manifest) -> dict[str, bytes]:
        """All blobs that it names."""
        return {digest: self.get_blob(digest) for digest in set(named_blobs(manifest))}


def _read(path: Path, bytes_max: int) -> bytes:
    """At most so many bytes: what is cut off has another digest."""
    with path.open("rb") as file:
        return file.read(bytes_max)


def _write(path: Path, raw: bytes) -> None:
    """Aside, synced, then renamed."""
    draft = path.with_name(f"{path.name}.part")
    with draft.open("wb") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
