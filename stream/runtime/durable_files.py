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
    folder = os.open(path.parent, os.O_RDONLY)  # a rename is durable once its folder is synced
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
