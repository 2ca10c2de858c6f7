"""Saves versions on disk in a thread of the builder: megabytes that would stop the ranker's interpreter."""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from ranker.builder.wire import SaveRequest, SaveState
from stream.snapshots.manifest import decode_manifest
from stream.snapshots.store import VersionReader
from stream.snapshots.version_files import VersionFiles


class VersionSaver:
    """Saves what it's asked for, one version at a time; contents come from `store`. One thread asks."""

    def __init__(self, store: VersionReader) -> None:
        self._store = store
        self._files: dict[str, VersionFiles] = {}  # by folder: each knows which contents it has checked
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="save")
        self._request: SaveRequest | None = None
        self._saved: Future[None] | None = None

    def ask(self, request: SaveRequest) -> SaveState:
        """Begin, or continue; the state as of now. A request that failed begins again when it is repeated."""
        if self._saved is None or (self._saved.done() and request != self._request):
            self._request, self._saved = request, self._pool.submit(self._save, request)
        if not self._saved.done() or request != self._request:
            return SaveState(done=False)
        error, self._saved = self._saved.exception(), None
        return SaveState(done=True, error=str(error) if error else "")

    def close(self) -> None:
        """Wait for a save that runs: what is half written would be fetched again."""
        self._pool.shutdown(cancel_futures=True)

    def _save(self, request: SaveRequest) -> None:
        files = self._files.setdefault(request.folder, VersionFiles(Path(request.folder)))
        files.save_decision(request.decision)
        files.save(self._store, decode_manifest(request.manifest))
