"""Reads a source to its end, with a progress bar."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from producers.json_lines import STDIN, file_chunks, numbered_lines
from producers.source import Pause, SourceElement
from stream.runtime.clock import now_ms
from stream.runtime.settings import Settings
from thalweg.sources.play import data_set, open_source

BAR: Final = (
    TextColumn("{task.description}"),
    BarColumn(),
    TaskProgressColumn(),
    DownloadColumn(),
    TimeRemainingColumn(),
)


def read_source(source: str, settings: Settings) -> Iterator[tuple[int, SourceElement]]:
    """Every event of a file (`-`: stdin) with its line, of a data set with its index from 1. Raises DataError."""
    gc.freeze()  # what is loaded stays: full collections needn't scan it again
    if data_set(source):
        yield from enumerate(open_source(source, settings), 1)
        return
    size = None if source == STDIN else _size(source)
    console = Console(stderr=True)
    with Progress(*BAR, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(source, total=size)
        chunks = file_chunks(source, lambda count: progress.advance(bar, count))
        yield from ((line, event) for line, event in numbered_lines(chunks, now_ms) if not isinstance(event, Pause))


def _size(source: str) -> int | None:
    try:
        return os.stat(Path(source)).st_size or None
    except OSError:
        return None  # opening the file raises the error
