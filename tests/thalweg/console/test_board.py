"""Pages get everything once, then what has changed."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from thalweg.console.board import ENTRIES, POINTS, WAITING_MAX, Board

SETTLE = 5  # turns of the event loop until what a thread sent has arrived


def parsed(frame: bytes) -> tuple[str, dict[str, Any]]:
    """The name and the data of an event."""
    name, data, *rest = frame.decode().split("\n")
    assert rest == ["", ""]
    return name.removeprefix("event: "), msgspec.json.decode(data.removeprefix("data: "))


def frames(board: Board, *acts: Callable[[], object]) -> list[tuple[str, dict[str, Any]]]:
    """What a page gets that opens before these acts."""

    async def watched() -> list[bytes]:
        stream = board.watch()
        found = [await anext(stream)]
        for act in acts:
            act()
            for _ in range(SETTLE):
                await asyncio.sleep(0)
        board.stop_all()
        found += [frame async for frame in stream]
        return found

    return [parsed(frame) for frame in asyncio.run(watched())]


def test_a_page_gets_everything_first() -> None:
    """Sections, points and entries, the newest ones of each."""
    board = Board()
    for i in range(POINTS + 5):
        board.update({"rates": i}, [[i]], [{"version": i}])
    [(name, data)] = frames(board)
    assert name == "full"
    assert data["sections"] == {"rates": POINTS + 4}
    assert data["points"] == [[i] for i in range(5, POINTS + 5)]
    assert [one["version"] for one in data["entries"]] == list(range(POINTS + 5 - ENTRIES, POINTS + 5))


def test_then_only_what_changes() -> None:
    """A section that is as before isn't sent again; nothing new is no frame."""
    board = Board()
    board.update({"rates": 1, "rooms": ["a"]})
    found = frames(
        board,
        lambda: board.update({"rates": 2, "rooms": ["a"]}, [[1]]),
        lambda: board.update({"rates": 2, "rooms": ["a"]}),
        lambda: board.update({}, [], [{"kind": "pinned"}]),
    )
    assert found[1:] == [
        ("delta", {"sections": {"rates": 2}, "points": [[1]], "entries": []}),
        ("delta", {"sections": {}, "points": [], "entries": [{"kind": "pinned"}]}),
    ]


def test_a_page_that_does_not_keep_up_ends() -> None:
    """It connects again and gets everything; memory is bounded."""
    board = Board()

    def flood() -> None:
        for i in range(WAITING_MAX * 3):
            board.update({"rates": i})

    assert len(frames(board, flood)) == 1 + WAITING_MAX
    assert board.pages == 0


def test_text_stays_one_line() -> None:
    """A line break in a reason can't end an event and begin another."""
    board = Board()
    board.update({"error": "a\n\nevent: full\ndata: {}\n\n"})
    assert frames(board)[0][1]["sections"]["error"] == "a\n\nevent: full\ndata: {}\n\n"
