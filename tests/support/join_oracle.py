"""The tests' way to the offline join (`thalweg/audit/offline_join.py`): net labels and organic installs of events."""

from collections import Counter
from collections.abc import Iterable, Sequence

from stream.events.types import Examples, SourceEvent
from stream.joiner.label_rules import LabelRules
from thalweg.audit.log_events import PartitionCursor
from thalweg.audit.offline_join import Joined, offline_join
from thalweg.audit.rules import AuditRules

Net = dict[tuple[str, str], int]


def net_of(said: Iterable[Examples]) -> Net:
    """The last label per page and item, after examples with an id seen before are dropped."""
    seen: set[int] = set()
    net: Net = {}
    for examples in said:
        for example, position, label in zip(examples.ids, examples.positions, examples.labels, strict=True):
            if example not in seen:
                seen.add(example)
                net[examples.page.request_id, examples.page.items[position]] = label
    return net


def as_audited(rules: LabelRules) -> AuditRules:
    """The same rules in the audit's words."""
    return AuditRules(
        rules.policy, rules.window_ms, rules.lateness_ms, rules.known_ms, rules.early_ms,
        organic=rules.organic, organic_examples=rules.organic_examples, skew_ms=rules.skew_ms,
    )  # fmt: skip


def joined(events: Sequence[SourceEvent], rules: LabelRules, ingests: Sequence[int] | None = None) -> Joined:
    """One partition's events in log order, joined. `ingests`: when each came, ms; None: after it had happened."""
    partition = PartitionCursor(0, rules.lateness_ms)
    came = ingests or [event.time_ms for event in events]
    numbered = [partition.add(event, k, came[k]) for k, event in enumerate(events)]
    return offline_join([one for one in numbered if one is not None], as_audited(rules))


def offline(events: Sequence[SourceEvent], rules: LabelRules, ingests: Sequence[int] | None = None) -> Net:
    """Net labels per page and item, once everything has closed."""
    return {
        (page.first.request_id, item): int(item in page.positives)
        for page in joined(events, rules, ingests).pages
        for item in page.items
    }


def organic(
    events: Sequence[SourceEvent], rules: LabelRules, ingests: Sequence[int] | None = None
) -> set[tuple[str, str]]:
    """(user, install id) of every install that no page claimed and nobody took back."""
    return {(one.user, one.install_id) for one in joined(events, rules, ingests).organic}


def check_labels(
    said: Iterable[Examples], events: Sequence[SourceEvent], rules: LabelRules, ingests: Sequence[int] | None = None
) -> None:
    """The net labels of what was said are those of the offline join.

    Where a request id was used again, when its first page was forgotten, ids can't tell the two pages apart.
    """
    uses = Counter(page.first.request_id for page in joined(events, rules, ingests).pages)

    def of_one_page(net: Net) -> Net:
        return {(request_id, item): label for (request_id, item), label in net.items() if uses[request_id] < 2}

    assert of_one_page(net_of(said)) == of_one_page(offline(events, rules, ingests))
