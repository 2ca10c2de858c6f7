"""One event of each type, with all fields set."""

from typing import Final

import msgspec

from stream.events.types import (
    DeadLetter,
    Erase,
    Examples,
    FeatureName,
    History,
    Impression,
    Install,
    Item,
    Organic,
    RankReply,
    RankRequest,
    ReplyTo,
    Tick,
    User,
)

PAGE: Final = Impression(
    "r1", 1_000, "u1", ["a", "b"], "v", 7, [0.5, 0.25], [1.0, 0.5], b"\x01", {"hour": 3.0, "app": "x"}
)
SAMPLES: Final[tuple[msgspec.Struct, ...]] = (
    PAGE,
    Install("u1", "a", 2_000, "i1", "r1", True),
    Tick(3_000),
    Examples(PAGE, [2**64 - 1, 5], [0, 1], [1, 0], [1.0, 2.0], [0, 1], [1_500, 1_501]),
    RankRequest(
        "q1", "u1", 3, 1_000, {"hour": 3.0}, ["a"], 50, ["b"], {"age": 3.0, "of": ["x"]}, "m", ReplyTo("t", 2), ["kids"]
    ),
    RankReply(
        "q1", "u1", ["a"], [0.5], 7, 10, 20, 100, 300, ["deadline"], b"\x01", "no", 1_000, "invalid", ["new"], [3],
        [0.25], {"kids": 2}, 6,
    ),
    Item("a", {"genres": ["x"], "year": 1995.0}, "A", 2.5),
    User("u1", {"age": 24.0}),
    History("u1", "a", 2_000),
    Organic("u1", "a", 2_000, "i1", "r1", 2_001),
    Erase("u1", 5_000),
    FeatureName("context.device", "phone"),
    DeadLetter(b"\xc1", "BadEvent", "why", "events", 1, 42),
)  # fmt: skip
