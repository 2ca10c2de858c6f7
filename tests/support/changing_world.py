"""A small world in which everything happens to a learner's tables: they grow, evict, fade."""

import msgspec

from stream.events.types import Organic, TrainingEvent
from stream.spec.spec import Spec
from tests.support.learner_world import records, small_spec

AFFINITY = 'alike = { kind = "affinity", of = "item.id", to = "user.history" }'
STATISTICS = f"""{AFFINITY}
near = {{ kind = "likeness", by = ["user.id", "item.id"], neighbours = 10 }}
together = {{ kind = "lift", of = "installs", by = ["user.id", "item.id"], neighbours = 3 }}
count = {{ kind = "count", of = "organic", by = ["item.id"] }}
lately = {{ kind = "rate", by = ["item.id"], window = "10m" }}
good = {{ kind = "coec", by = ["item.id"], half_life = "10m" }}"""
RETRIEVAL = """[retrieval]
together = 60
neighbours = 40
kept = { list_length = 4, vector_dim = 4, half_life = "10m" }"""
LIVES = 'alpha = 0.1\nhalf_life = "20s"\nadmit = 2\nexpire = "8m"\nmax_keys = 1000'
START_MS = 1_000_000  # of the first page
IDS_MAX = 60  # that a learner remembers of a source: generations of ids come and go


def changing_spec(holdout: float = 0.0, refusals_max: int = 20) -> Spec:
    """All statistics, admission, expiry, bounds that evict, forgetting, and frequent calls for retrains."""
    changes = {AFFINITY: STATISTICS, "[label]": f'{RETRIEVAL}\n[label]\norganic = "examples"', "alpha = 0.1": LIVES}
    changes["min_count = 2"] = 'min_count = 2\nexpire = "100s"\nhalf_life = "20s"'
    changes["every = 300, window = 200"] = "every = 110, window = 60, judged = 150"
    changes["holdout = 0.0"] = f"holdout = {holdout}, refusals_max = {refusals_max}"
    spec = small_spec(**changes)
    kept = msgspec.structs.replace(spec.retrieval.kept, max_items=12, max_users=4)
    retrieval = msgspec.structs.replace(spec.retrieval, kept=kept)
    return msgspec.structs.replace(spec, max_statistics=400, max_likenesses=700, retrieval=retrieval)


def mixed_log(spec: Spec, pages: int) -> list[list[TrainingEvent]]:
    """Records of three pages, with organic installs behind most of them."""
    log: list[list[TrainingEvent]] = []
    for n, record in enumerate(records(spec, pages)):
        installs = [Organic(f"u{(n + k) % 5}", f"i{3 * k}", 1_000_000 + 7_000 * n, f"o{n}-{k}") for k in range(n % 3)]
        log.append([*record, *installs])
    return log
