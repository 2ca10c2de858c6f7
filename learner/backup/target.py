"""Where backups are: a folder, or a prefix of an S3 bucket, through fsspec.

Objects are small enough to be read and written at once. In a folder an object appears whole or not at all, and is
synced; S3 promises as much. Nothing that is read decides which path is opened: names are checked here.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from stream.runtime.durable_files import DRAFT, sync_folder
from stream.runtime.errors import BackupError, SettingsError

NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
BUCKET: Final = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9_-][A-Za-z0-9._-]*)+")
CLIENT: Final = {"connect_timeout": "10s", "timeout": "60s", "allow_http": True}  # for an endpoint that says so
RETRIES: Final = {"max_retries": 4, "retry_timeout": timedelta(minutes=1)}


class BackupTarget:
    """Objects by name, in `root` of an fsspec filesystem. Thread-safe. Raises BackupError.

    `failures`: what the filesystem raises besides OSError.
    """

    def __init__(self, fs: Any, root: str, failures: tuple[type[Exception], ...] = ()) -> None:
        self._fs, self._root = fs, root.rstrip("/")
        self._failures: tuple[type[Exception], ...] = (OSError, *failures)

    def __str__(self) -> str:
        return self._root

    def read(self, name: str, size_max: int) -> bytes:
        """An object of at most `size_max` bytes; of a larger one nothing more is read."""
        with self._translated(f"reading {name}"):
            raw: bytes = self._fs.cat_file(self._path(name), start=0, end=size_max + 1)
        if len(raw) > size_max:
            raise BackupError(f"{self}/{name} has more than {size_max} bytes: it isn't what a backup wrote; remove it")
        return raw

    def write(self, name: str, raw: bytes) -> None:
        """Write an object, whole or not at all."""
        with self._translated(f"writing {name}"):
            self._write(self._path(name), raw)

    def _write(self, path: str, raw: bytes) -> None:
        self._fs.pipe_file(path, raw)

    def sizes(self, folder: str) -> dict[str, int]:
        """Bytes of each object in a folder and below, by its name in it, without what no backup wrote, such as .nfs1.

        Without the folder there are none.
        """
        path = self._path(folder)
        with self._translated(f"listing {folder}"):
            try:
                found = self._fs.find(path, detail=True)
            except FileNotFoundError:
                return {}
        begin = f"{self._root.lstrip('/')}/{folder}/"
        sizes = {name.partition(begin)[2]: int(one["size"]) for name, one in found.items()}
        return {name: size for name, size in sizes.items() if NAME.fullmatch(name)}

    def remove(self, name: str) -> None:
        """Remove an object; one that isn't there is fine."""
        with self._translated(f"removing {name}"), suppress(FileNotFoundError):
            self._fs.rm_file(self._path(name))

    def _path(self, name: str) -> str:
        if not NAME.fullmatch(name):
            raise BackupError(f"{name!r} isn't a name that a backup has: the manifest that names it isn't ours")
        return f"{self._root}/{name}"

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        try:
            yield
        except self._failures as error:
            why = str(error).partition("\n")[0] or repr(error)
            raise BackupError(
                f"the backup at {self} failed, {doing}: {why}; check that it exists, and your rights"
            ) from error


class FolderTarget(BackupTarget):
    """Objects as files in a folder, which the first of them makes."""

    def _path(self, name: str) -> str:
        """Raises BackupError, too, where a link leads out of the folder."""
        path = super()._path(name)
        if not Path(path).resolve().is_relative_to(self._root):
            raise BackupError(f"{path} leads out of {self}: remove the link")
        return path

    def _write(self, path: str, raw: bytes) -> None:
        folder = Path(path).parent
        folder.mkdir(parents=True, exist_ok=True)
        draft = f"{path}.{os.getpid()}{DRAFT}"
        try:
            with self._fs.open(draft, "wb") as file:
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, path)
        except BaseException:
            Path(draft).unlink(missing_ok=True)
            raise
        sync_folder(folder)


def open_target(url: str, folder: str, apart_from: Path) -> BackupTarget:
    """A folder in the target that a command line or a setting names: a folder, file:///folder, or s3://bucket/prefix.

    S3's credentials, region and endpoint are those of the usual AWS_ variables. `apart_from`: the folder that is backed
    up. Nothing is read or written yet. Raises SettingsError.
    """
    scheme, _, rest = url.rpartition("://")
    if "::" in url or "\x00" in url or scheme not in ("", "file", "s3") or not rest:
        raise SettingsError(f"{_shown(url)} isn't a backup's target: name a folder, or s3://bucket/prefix")
    if scheme == "s3":
        return _bucket(f"{url.rstrip('/')}/{folder}")
    root = Path(rest).resolve() / folder
    if scheme and not rest.startswith("/"):
        raise SettingsError(f"{_shown(url)} names a machine: write file:///folder, or the folder alone")
    if root.is_relative_to(apart_from.resolve()):
        raise SettingsError(f"{root} is inside {apart_from}, which would be lost with it: name another folder")
    with _extra():
        from fsspec.implementations.local import LocalFileSystem
    return FolderTarget(LocalFileSystem(skip_instance_cache=True), str(root))


def _shown(url: str) -> str:
    """Without credentials, which don't belong there.

    >>> _shown("s3://id:secret/@b/a?token=x")
    "'s3://***@b/a?***'"
    """
    return repr(re.sub(r"\?.*", "?***", re.sub(r"://.*@", "://***@", url)))


def _bucket(url: str) -> BackupTarget:
    if not BUCKET.fullmatch(url):
        raise SettingsError(f"{_shown(url)} isn't below s3://bucket/prefix, of letters, digits, dots, - and _")
    with _extra():
        from obstore.exceptions import BaseError
        from obstore.fsspec import FsspecStore
    make: Callable[..., Any] = FsspecStore
    fs = make("s3", client_options=CLIENT, retry_config=RETRIES, skip_instance_cache=True)
    return BackupTarget(fs, url.removeprefix("s3://"), (BaseError,))


@contextmanager
def _extra() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"backups need {error.name}, which isn't installed: pip install 'thalweg[backup]'"
        ) from None
