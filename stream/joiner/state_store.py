"""A partition's join state in files, so that a restart reads only later records: pages incrementally, the rest whole.

Pages don't change once they are appended, except for links and marks that a load rebuilds, and where a user is erased:
then a save writes all of them again. So a save appends the pages
since the previous one, each chunk at its own offset in `pages.bin`. Everything else goes into `state.msgpack`, which is
replaced whole, after the pages are on disk: it names its offset in the log, its chunks and its rules. Chunks that it
names aren't reused before the next one is written.
"""

import os
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from stream.joiner.kernels import state as fields
from stream.joiner.kernels.arena import (
    CHUNK_BITS,
    CHUNK_HEAD,
    CHUNK_WORDS,
    FREE_COUNT,
    FRONT,
    NEXT,
    RETIRED_COUNT,
    Arena,
)
from stream.joiner.kernels.relink import link_all
from stream.joiner.label_rules import LabelRules
from stream.runtime.durable_files import replacing
from stream.runtime.formats import JOIN_STATE

FORMAT: Final = JOIN_STATE.version
CHUNK_BYTES: Final = 4 * CHUNK_WORDS
PAGES_FILE: Final = "pages.bin"
STATE_FILE: Final = "state.msgpack"
SAVED_NUMBERS: Final = (
    fields.WATERMARK, fields.FINISHED, fields.FLOOR, fields.UNSURE, fields.PAGE_COUNT, fields.INSTALL_COUNT,
    *range(fields.N_DUPLICATE, fields.WINDOW),
)  # fmt: skip


class SavedState(msgspec.Struct, frozen=True):
    """The content of `state.msgpack`. `join_identity`: rules, model and version of the join that saved it."""

    format: int
    join_identity: str = msgspec.field(name="owner")
    next_offset: int
    numbers: list[int]  # those of SAVED_NUMBERS
    pages: tuple[int, int]  # addresses: front, next
    page_chunks: list[int]  # in order of address
    installs: tuple[int, int]
    install_chunks: int
    install_words: bytes  # of its chunks, in order of address
    labels: bytes
    marks: bytes


class Capture(NamedTuple):
    """A copy of the state at one offset: it can be written while the join goes on."""

    saved: SavedState
    pieces: list[tuple[int, bytes]]  # of PAGES_FILE: offset, content
    reached: int  # address of the next page
    retired: int  # number of page chunks that it doesn't name
    erasures: int  # users erased before it


class StateStore:
    """The files of one partition, in a folder of its own. `capture` in the join's thread, `write` in any."""

    def __init__(self, folder: Path, join_identity: str) -> None:
        self._folder = folder
        self._join_identity = join_identity
        self._written = 0  # pages before this address are in the file
        self._erasures = 0  # users erased before they were written

    def capture(self, state: fields.JoinState, next_offset: int) -> Capture:
        """Copy the new pages and all the rest: some milliseconds for 100,000 installs.

        `write` and `release_chunks` must follow before the next capture.
        """
        j = state.numbers
        state.keeps_chunks = True
        front, reached = j[[fields.PAGES + FRONT, fields.PAGES + NEXT]].tolist()
        begin, end = j[[fields.MARKS_BEGIN, fields.MARKS_END]].tolist()
        chunks = _chunks(state.pages)
        installs = _chunks(state.installs)
        saved = SavedState(
            format=FORMAT,
            join_identity=self._join_identity,
            next_offset=next_offset,
            numbers=j[list(SAVED_NUMBERS)].tolist(),
            pages=(front, reached),
            page_chunks=chunks,
            installs=tuple(j[[fields.INSTALLS + FRONT, fields.INSTALLS + NEXT]].tolist()),
            install_chunks=len(installs),
            install_words=state.installs.words.reshape(-1, CHUNK_WORDS)[installs].tobytes(),
            labels=state.labels[: j[fields.LABEL_COUNT]].tobytes(),
            marks=state.marks[begin:end].tobytes(),
        )
        retired = int(state.pages.numbers[RETIRED_COUNT])
        begin = max(self._written, front) if state.erasures == self._erasures else front
        return Capture(saved, _pieces(state.pages, begin, reached), reached, retired, state.erasures)

    def write(self, capture: Capture) -> None:
        """Write a capture, which replaces the previous one atomically. Raises OSError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        file = os.open(self._folder / PAGES_FILE, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            for offset, piece in capture.pieces:
                os.pwrite(file, piece, offset)
            os.fdatasync(file)
        finally:
            os.close(file)
        with replacing(self._folder / STATE_FILE) as whole:
            whole.write(msgspec.msgpack.encode(capture.saved))
        self._written, self._erasures = capture.reached, capture.erasures

    def release_chunks(self, state: fields.JoinState, capture: Capture) -> None:
        """After `write`, in the join's thread: let the state reuse the chunks that the capture doesn't name."""
        state.pages.release(capture.retired)

    def load(self, rules: LabelRules, offset_min: int, offset_max: int) -> tuple[fields.JoinState, int] | None:
        """The saved state and its next offset, if there is one by these rules in this range of offsets."""
        try:
            raw = (self._folder / STATE_FILE).read_bytes()
            saved = msgspec.msgpack.decode(raw, type=SavedState)
            if (saved.format, saved.join_identity) != (
                FORMAT,
                self._join_identity,
            ) or not offset_min <= saved.next_offset <= offset_max:
                return None
            state = fields.JoinState(rules)
            _fill(state, saved, self._folder / PAGES_FILE)
            state.keeps_chunks = True
        except (OSError, msgspec.MsgspecError, ValueError):
            return None  # missing or damaged: the log has everything
        self._written = saved.pages[1]
        return state, saved.next_offset

    @property
    def is_written(self) -> bool:
        """Whether there is a state on disk, as far as this process knows."""
        return self._written > 0


def _chunks(arena: Arena) -> list[int]:
    """The chunks from front to next, in order of address."""
    first, last = int(arena.numbers[FRONT]) >> CHUNK_BITS, int(arena.numbers[NEXT]) >> CHUNK_BITS
    found: list[int] = arena.table[np.arange(first, last + 1) % len(arena.table)].tolist()
    return found


def _pieces(arena: Arena, begin: int, end: int) -> list[tuple[int, bytes]]:
    """The words from one address to another, and the heads of their chunks, by file offset."""
    pieces = []
    for chunk in range(begin >> CHUNK_BITS, (end >> CHUNK_BITS) + 1):
        base = int(arena.table[chunk % len(arena.table)]) * CHUNK_WORDS
        pieces.append((4 * base, arena.words[base : base + CHUNK_HEAD].tobytes()))
        first = max(begin - (chunk << CHUNK_BITS), CHUNK_HEAD)
        last = min(end - (chunk << CHUNK_BITS), CHUNK_WORDS)
        if first < last:
            pieces.append((4 * (base + first), arena.words[base + first : base + last].tobytes()))
    return pieces


def _fill(state: fields.JoinState, saved: SavedState, pages_file: Path) -> None:
    """Load a saved state into an empty one. Raises OSError, ValueError."""
    j = state.numbers
    j[list(SAVED_NUMBERS)] = saved.numbers
    with pages_file.open("rb") as file:
        words = _restore(state.pages, saved.page_chunks, *saved.pages)
        for chunk in saved.page_chunks:
            file.seek(chunk * CHUNK_BYTES)
            piece = words[chunk * CHUNK_WORDS : (chunk + 1) * CHUNK_WORDS].data.cast("B")
            if file.readinto(piece) == 0:
                raise ValueError("pages are missing")
    words = _restore(state.installs, list(range(saved.install_chunks)), *saved.installs)
    words[:] = np.frombuffer(saved.install_words, np.uint32)
    labels = np.frombuffer(saved.labels, np.int64).reshape(-1, fields.LABEL_NUMBERS)
    marks = np.frombuffer(saved.marks, np.int64).reshape(-1, fields.MARK)
    state.load(labels, marks)
    link_all(j)


def _restore(arena: Arena, chunks: list[int], front: int, following: int) -> npt.NDArray[Any]:
    """Make an arena consist of these chunks; returns its words, still to be read."""
    chunk_count = max(chunks) + 1
    arena.words.resize(chunk_count * CHUNK_WORDS, refcheck=False)
    for stack in (arena.free, arena.retired):
        stack.resize(max(2 * chunk_count, 64), refcheck=False)
    free = sorted(set(range(chunk_count)) - set(chunks))
    arena.free[: len(free)] = free
    arena.numbers[[NEXT, FRONT, FREE_COUNT, RETIRED_COUNT]] = following, front, len(free), 0
    first = front >> CHUNK_BITS
    arena.table[np.arange(first, first + len(chunks)) % len(arena.table)] = chunks
    arena.store_addresses()
    return arena.words
