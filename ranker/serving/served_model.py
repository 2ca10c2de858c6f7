"""One model of a ranker: what watches its versions, builds them, and ranks by the live one."""

from dataclasses import dataclass

from ranker.builder.builder_client import BuilderClient
from ranker.ranking.rank import Ranker
from ranker.ranking.version_watcher import VersionWatcher


@dataclass(frozen=True)
class ServedModel:
    """A model by its name. Without a `builder` the watcher's own thread builds its versions."""

    name: str
    watcher: VersionWatcher
    ranker: Ranker
    builder: BuilderClient | None = None
