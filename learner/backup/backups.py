"""The backups in a target: written, listed, read, and removed with the blobs that no other one names."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Final, NamedTuple
from uuid import uuid4

import structlog

from learner.backup.backup_manifest import (
    BLOB_BYTES,
    ID,
    MANIFEST_BYTES_MAX,
    BackupManifest,
    Blob,
    decode_backup,
    digest_of,
    encode_backup,
)
from learner.backup.target import BackupTarget
from stream.runtime.errors import BackupError

THREADS: Final = 4  # that transfer blobs
WRITE, PRUNE = "write", "prune"
LOCK_MS: Final = {WRITE: 6 * 3_600_000, PRUNE: 1_800_000}  # a lock of a process that was killed ends after this time
PRUNE_MS: Final = 300_000  # removing stops, the next time goes on
log = structlog.get_logger("backup")


class Pruned(NamedTuple):
    """What was removed."""

    backups: int
    blobs: int
    bytes: int


def blob_path(digest: str) -> str:
    """Its name in the target."""
    return f"blobs/{digest}"


class BlobWriter:
    """Writes the blobs that aren't in the target yet. `put` is for one thread; transfers overlap."""

    def __init__(self, target: BackupTarget, pool: ThreadPoolExecutor) -> None:
        self._target, self._pool = target, pool
        self._sizes = target.sizes("blobs")
        self._room = threading.Semaphore(2 * THREADS)  # blobs in memory
        self._transfers: list[Future[None]] = []
        self._failure: Exception | None = None
        self.bytes = self.blobs = 0  # written

    def has(self, blob: Blob) -> bool:
        """Whether it is in the target, whole."""
        return self._sizes.get(blob.digest) == blob.size

    def put(self, raw: bytes) -> Blob:
        """Write this, unless it's there. Raises BackupError, also for one that failed before."""
        assert len(raw) <= BLOB_BYTES, f"{len(raw)} bytes"
        blob = Blob(digest_of(raw), len(raw))
        if not self.has(blob):
            self._sizes[blob.digest] = blob.size
            self._room.acquire()
            self._transfers.append(self._pool.submit(self._write, blob, raw))
            self.bytes, self.blobs = self.bytes + blob.size, self.blobs + 1
        self.check()
        return blob

    def wait(self) -> None:
        """Until all blobs are written. Raises the failure of a transfer."""
        wait(self._transfers)
        self.check()

    def check(self) -> None:
        """Raises the failure of a transfer."""
        if self._failure is not None:
            raise self._failure

    def _write(self, blob: Blob, raw: bytes) -> None:
        try:
            if self._failure is None:
                self._target.write(blob_path(blob.digest), raw)
        except Exception as error:  # noqa: BLE001  # `check` raises it
            self._failure = error
        finally:
            self._room.release()


class Backups:
    """The backups of one model. Raises BackupError."""

    def __init__(self, target: BackupTarget, now_ms: Callable[[], int]) -> None:
        self.target, self._now_ms = target, now_ms

    def ids(self) -> list[str]:
        """The oldest first."""
        return sorted(name for name in self.target.sizes("backups") if ID.fullmatch(name))

    def read(self, name: str) -> BackupManifest:
        """The backup of this id, verified."""
        return decode_backup(name, self.target.read(f"backups/{name}", MANIFEST_BYTES_MAX))

    def readable(self) -> Iterator[tuple[str, BackupManifest]]:
        """Those that can be read, by their ids, the newest first."""
        for name in reversed(self.ids()):
            try:
                yield name, self.read(name)
            except BackupError as error:
                log.warning("a backup is passed over", backup=name, reason=str(error))

    def newest(self) -> BackupManifest | None:
        """The newest that can be read; None without one."""
        return next((one for _, one in self.readable()), None)

    def blob(self, blob: Blob) -> bytes:
        """Its bytes, verified."""
        raw = self.target.read(blob_path(blob.digest), blob.size)
        if digest_of(raw) != blob.digest:
            raise BackupError(
                f"the blob {blob.digest} in {self.target} has other bytes: restore a backup without it, or "
                "remove it, and back up again where the learner's disk is still there"
            )
        return raw

    def fetch(self, blobs: list[Blob]) -> Iterator[bytes]:
        """The bytes of these, in order, verified; some are fetched ahead."""
        with ThreadPoolExecutor(THREADS, "backup") as pool:
            ahead = [pool.submit(self.blob, blob) for blob in blobs[: 2 * THREADS]]
            for n in range(len(blobs)):
                raw = ahead.pop(0).result()
                if n + 2 * THREADS < len(blobs):
                    ahead.append(pool.submit(self.blob, blobs[n + 2 * THREADS]))
                yield raw

    @contextmanager
    def writing(self) -> Iterator[BlobWriter]:
        """While this runs, no blob is removed."""
        with self._locked(WRITE, but=PRUNE), ThreadPoolExecutor(THREADS, "backup") as pool:
            yield BlobWriter(self.target, pool)

    def add(self, manifest: BackupManifest, writer: BlobWriter) -> str:
        """Wait until all its blobs are written, then write a backup; returns its id. While `writing` runs."""
        writer.wait()
        name, raw = encode_backup(manifest)
        self.target.write(f"backups/{name}", raw)
        return name

    def prune(self, keep: int) -> Pruned:
        """Remove all but the newest `keep` backups, then blobs that none names.

        Raises BackupError where one can't be read: what it names is unknown.
        """
        assert keep > 0, "one is kept"
        with self._locked(PRUNE, but=WRITE):
            until = self._now_ms() + PRUNE_MS
            ids = self.ids()
            named = {digest for name in ids[-keep:] for digest in self.read(name).blobs()}
            for name in ids[:-keep]:
                self.target.remove(f"backups/{name}")
            removed: list[int] = []
            for path, size in self.target.sizes("blobs").items():  # drafts of a process that was killed, too
                if path not in named and self._now_ms() < until:
                    self.target.remove(f"blobs/{path}")
                    removed.append(size)
        return Pruned(len(ids[:-keep]), len(removed), sum(removed))

    @contextmanager
    def _locked(self, kind: str, *, but: str) -> Iterator[None]:
        """Write a lock, then look for the other kind: of two that begin at once at least one sees the other."""
        name = f"locks/{kind}-{self._now_ms():013d}-{uuid4().hex}"
        self.target.write(name, b"")
        try:
            for other in self.target.sizes("locks"):
                of, written, _ = other.split("-") if other.count("-") == 2 else ("", "", "")
                if written.isdecimal() and int(written) <= self._now_ms() - LOCK_MS.get(of, LOCK_MS[WRITE]):
                    self.target.remove(f"locks/{other}")
                elif of == but:
                    raise BackupError(
                        f"{self.target} is in use ({other}): try again once that has ended; one that was killed counts "
                        f"for {LOCK_MS[of] / 3_600_000:g} hours, or until its file in locks/ is removed"
                    )
            yield
        finally:
            self.target.remove(name)
