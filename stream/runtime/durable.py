"""Files that outlive a power cut: written aside, synced, then renamed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

DRAFT: Final = ".part"  # how the name of what isn't whole yet ends


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to, which takes the place of `path` at the end; from then on the new bytes are safe.

    Nothing changes, and no draft stays, when writing fails. Raises OSError.
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
    folder = os.open(path.parent, os.O_RDONLY)  # a rename is safe once its folder is on the disk
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
