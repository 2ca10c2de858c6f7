"""Measured costs: CPU time of rooms and bytes in Redis, and how far a core is used. docs/sizing.md names the machines.

Bytes of tables, items and open pages aren't here: rooms compute them by the same functions (`learner.memory`,
`ranker.memory`, `stream.joiner.kernels`).
"""

from typing import Final

from thalweg.sizing.work import Work

# µs of CPU for one of each; `python -m benchmarks size`, learned_… and encoded_….
LEARNED_US: Final = Work(0.0, 0.121, 0.087, 0.0073, 2.4e-5)
ENCODED_US: Final = Work(0.48, 0.0016, 0.0019, 0.0, 2.3e-7)

# A joiner's µs for a record and for a page of ten; `python -m benchmarks join`: full_ex_s_pack1, full_ex_s_pack16.
RECORD_US: Final = 20.5
PAGE_US: Final = 23.5
PAGE_ITEMS: Final = 10
OPEN_PAGE_SHARE: Final = 1.25  # of what a join counts for an open page: arrays double as they grow

# A ranker's µs over HTTP for a request but its ranking, and for each candidate; `python -m benchmarks serve` (.85 ms at
# half of capacity, .45 of them ranking 100), `rank`.
REQUEST_US: Final = 400.0
CANDIDATE_US: Final = 4.0
FLOPS_US: Final = 100_000.0  # of the tower's layers behind the first, a µs of a core
VERSION_US: Final = 8_000.0  # a builder's, for each version; `python -m benchmarks swap`

# Bytes in Redis: of a user's attributes, of a history, and of each item in it, also where it has more than Redis packs
# (zset-max-listpack-entries); `python -m benchmarks size`.
USER_BYTES: Final = 170
HISTORY_BYTES: Final = 120
HISTORY_ITEM_BYTES: Final = 26
PACKED_ITEMS: Final = 128
LOOSE_ITEM_BYTES: Final = 118
READ_US: Final = 20.0  # Redis's, for a user's profile

REDIS_BYTES_S: Final = 400_000_000  # that its one thread sends; `python -m benchmarks snapshot`
BROKER_BYTES_S: Final = 100_000_000  # that a broker's core writes and sends; `python -m benchmarks join`
BROKER_MEMORY: Final = 4_000_000_000  # heap, and pages of files that are read again; an assumption
USED: Final = (
    0.5  # of a core: latencies are those at half of capacity, a learner publishes besides, and all can catch up
)


def us_of(work: Work, costs: Work) -> float:
    """µs of an example."""
    return sum(amount * cost for amount, cost in zip(work, costs, strict=True))
