"""Prometheus metrics of the ranker."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from stream.events.topics import ITEMS as ITEMS_TOPIC
from stream.events.types import KINDS

FRESHNESS_S: Final = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1, 1.5, 2, 3, 5, 10, 60)
LATENCY_S: Final = tuple(ms / 1e3 for ms in (0.25, 0.5, 1, 1.5, 2, 3, 4, 6, 8, 10, 15, 20, 30, 40, 60, 100, 200, 500))

INDEX_S: Final = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200)
AGE_S: Final = (*LATENCY_S, 1, 2, 5, 10)

LATENCY = Histogram("thalweg_ranker_rank_seconds", "ranking one request", buckets=LATENCY_S)
ANSWER = Histogram(
    "thalweg_ranker_answer_seconds",
    "from a request's append to the log, or its arrival over HTTP, until its reply is ready to send",
    buckets=AGE_S,
)
READ = Histogram(
    "thalweg_ranker_handle_seconds",
    "from reading a request from Kafka until its reply is ready to send",
    buckets=AGE_S,
)
REPLIES = Counter("thalweg_ranker_replies", "replies sent")
INCOMPLETE = Counter("thalweg_ranker_incomplete_replies", "replies that lack something, by what they lack", ["note"])
ERRORS = Counter(
    "thalweg_ranker_errors",
    "requests answered with an error, by kind: invalid, expired, shed, unknown_model, failed",
    ["kind"],
)
for error_kind in KINDS:
    ERRORS.labels(error_kind)  # present from the first scrape on: a rate counts from the second one
HTTP_REQUESTS = Counter("thalweg_ranker_http_requests", "requests over HTTP, by route and status", ["route", "status"])
HTTP_SECONDS = Histogram(
    "thalweg_ranker_http_seconds",
    "from a request's complete headers until its answer is sent, by route",
    ["route"],
    buckets=AGE_S,
)
HTTP_CONNECTIONS = Gauge("thalweg_ranker_http_connections", "open HTTP connections")
HTTP_EVENTS = Counter(
    "thalweg_ranker_http_events",
    "events of POST /v1/events that were answered, by status: written, invalid, forbidden",
    ["status"],
)
SOURCES = Counter("thalweg_ranker_source_items", "items of replies that were retrieved, by source", ["source"])
DEAD_LETTERS = Counter("thalweg_ranker_dead_letters", "requests rejected")
POSITIONS = Counter(
    "thalweg_ranker_exploring_positions", "positions of replies that were filled by exploration's rules"
)
EXPLORED = Counter("thalweg_ranker_explored_positions", "of these, positions that don't show the best candidate")
QUEUE = Gauge("thalweg_ranker_queue_requests", "requests from Kafka that were admitted and wait")
QUEUE_AGE = Gauge(
    "thalweg_ranker_queue_age_seconds", "age of the oldest request that was read from Kafka and waits, 0 when none does"
)
REQUEST_LAG_RECORDS = Gauge(
    "thalweg_ranker_request_lag_records",
    "records of rank.requests that aren't answered yet, by model and assigned partition",
    ["model", "partition"],
)
REQUEST_LAG_SECONDS = Gauge(
    "thalweg_ranker_request_lag_seconds",
    "age of the oldest record of rank.requests that was read and isn't answered yet, by model and assigned partition",
    ["model", "partition"],
)
GAPS = Counter(
    "thalweg_ranker_gap_records", "records of rank.requests that were deleted (retention) before they were read"
)
OTHERS = Counter(
    "thalweg_ranker_others_requests", "requests read from Kafka that another ranker answers: they name another model"
)
UNDELIVERED = Counter(
    "thalweg_ranker_undelivered_replies", "replies that the topic of their request's reply_to didn't take"
)
SKEW = Gauge(
    "thalweg_ranker_clock_skew_seconds", "how far the broker's clock is ahead of the ranker's, at the last request"
)
BAD_ENTITIES = Counter(
    "thalweg_ranker_bad_entities", "records of compacted topics that can't be read, by topic", ["topic"]
)
BAD_ENTITIES.labels(ITEMS_TOPIC.name)  # as above
ITEMS = Gauge("thalweg_ranker_items", "items known")
ITEM_LAG_RECORDS = Gauge(
    "thalweg_ranker_item_lag_records", "records of items that aren't read yet, by partition", ["partition"]
)
ITEM_LAG_SECONDS = Gauge(
    "thalweg_ranker_item_lag_seconds",
    "age of the oldest record of items that isn't read yet, by partition",
    ["partition"],
)
PROFILE_READ = Histogram(
    "thalweg_ranker_profile_read_seconds", "one read of users' profiles from Redis", buckets=LATENCY_S
)

VERSION = Gauge("thalweg_ranker_version", "version that is live, by model", ["model"])
STALENESS = Gauge(
    "thalweg_ranker_staleness_seconds", "age of the live version's newest label, at the last reply, by model", ["model"]
)
SWAPS = Counter("thalweg_ranker_swaps", "versions swapped in")
REJECTED_VERSIONS = Counter("thalweg_ranker_rejected_versions", "versions that failed validation")
HEAD_IS_OLDER = Gauge(
    "thalweg_ranker_head_is_older", "1 while the store's head has learned less than what is live, by model", ["model"]
)
BUILD = Histogram("thalweg_ranker_build_seconds", "from manifest read to version validated", buckets=LATENCY_S)
INDEX = Histogram(
    "thalweg_ranker_vector_index_seconds", "to make or update an index of items' vectors", buckets=INDEX_S
)
SERVABLE = Histogram(
    "thalweg_ranker_servable_seconds", "from an install's ingest to the swap of its version", buckets=FRESHNESS_S
)
FRESHNESS = Histogram(
    "thalweg_ranker_freshness_seconds",
    "from an install's ingest to the first reply that learned it",
    buckets=FRESHNESS_S,
)
FRESHNESS_DEEP = Histogram(
    "thalweg_ranker_freshness_deep_seconds",
    "from an install's ingest to the first reply whose deep part learned it",
    buckets=FRESHNESS_S,
)
