"""One model of a ranker: where its versions come from, and what watches, builds and ranks by them."""

from dataclasses import dataclass

from ranker.builder.builder_client import BuilderClient
from ranker.ranking.rank import Ranker
from ranker.ranking.version_watcher import VersionWatcher
from stream.snapshots.store import SnapshotStore
from stream.snapshots.version_files import VersionFiles


@dataclass(frozen=True)
class ModelSource:
    """Where a model's versions come from, and the files that keep the live one for a start without the store.

    Without a `builder` the watcher's own thread builds its versions.
    """

    store: SnapshotStore
    files: VersionFiles | None = None
    builder: BuilderClient | None = None


@dataclass(frozen=True)
class ServedModel:
    """A model by its name."""

    name: str
    watcher: VersionWatcher
    ranker: Ranker
    builder: BuilderClient | None = None
