"""What a ranker tells Prometheus."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

SOON_MS: Final = (50, 100, 200, 300, 400, 500, 600, 800, 1_000, 1_500, 2_000, 3_000, 5_000, 10_000, 60_000)
RANK_MS: Final = (0.25, 0.5, 1, 1.5, 2, 3, 4, 6, 8, 10, 15, 20, 30, 40, 60, 100, 200, 500)

RANKED = Histogram("thalweg_ranker_rank_ms", "from request read to reply handed to the log", buckets=RANK_MS)
REPLIES = Counter("thalweg_ranker_replies", "replies sent")
NOTED = Counter("thalweg_ranker_notes", "replies that lack something", ["note"])
ERRORS = Counter("thalweg_ranker_errors", "requests answered with an error")
DEAD_LETTERS = Counter("thalweg_ranker_dead_letters", "requests that could not be taken")
BAD_ENTITIES = Counter("thalweg_ranker_bad_entities", "records of compacted topics that could not be read", ["topic"])
ITEMS = Gauge("thalweg_ranker_items", "items known")
USERS = Gauge("thalweg_ranker_users", "users known")

VERSION = Gauge("thalweg_ranker_version", "version that is live")
STALENESS_MS = Gauge("thalweg_ranker_staleness_ms", "age of the live version's newest label, at the last reply")
SWAPS = Counter("thalweg_ranker_swaps", "versions swapped in")
REFUSED = Counter("thalweg_ranker_refused", "versions that failed their dry run")
HEAD_IS_OLDER = Gauge("thalweg_ranker_head_is_older", "1 while the store's head has learned less than what is live")
BUILD_MS = Histogram("thalweg_ranker_build_ms", "from manifest read to version tried out", buckets=RANK_MS)
SERVABLE_MS = Histogram(
    "thalweg_ranker_servable_ms", "from an install's ingest to the swap of its version", buckets=SOON_MS
)
FRESHNESS_MS = Histogram(
    "thalweg_ranker_freshness_ms", "from an install's ingest to the first reply that learned it", buckets=SOON_MS
)
FRESHNESS_DEEP_MS = Histogram(
    "thalweg_ranker_freshness_deep_ms",
    "from an install's ingest to the first reply whose deep part learned it",
    buckets=SOON_MS,
)
