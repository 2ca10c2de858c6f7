"""Files that survive a power cut: written under a draft name, synced, then renamed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

DRAFT: Final = ".part"  # suffix of an unfinished file


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to, which atomically and durably replaces `path` at the end.

    If writing fails, `path` stays as it is and the draft is removed. Raises OSError.
    """
    draft = path.with_name(f"{path.name}.{os.getpid()}{DRAFT}")
    try:
        with draft.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the renames in it durable. Raises OSError."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
