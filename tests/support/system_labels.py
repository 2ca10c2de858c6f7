"""Labels of a joiner's story: what was emitted, and what the events alone say."""

from stream.events.codec import decode_events, decode_examples, encode
from stream.events.topics import EVENTS, EXAMPLES
from stream.events.types import Impression, Install
from stream.joiner.label_rules import label_rules
from stream.log.log_scan import read_range
from stream.log.protocol import START
from tests.support.event_flow import Flow, Joiners
from tests.support.join_oracle import Net, net_of, offline
from thalweg.audit.findings import AuditReport
from thalweg.views.dead_letters import read_dead_letters


def judged(joiners: Joiners, flow: Flow) -> AuditReport:
    """The audit after the end: nothing missing, nothing wrong, all of it judged, every bad record a dead letter."""
    found = joiners.finish(flow)
    assert found.differences == [], found.differences[:5]
    assert found.is_clean, found.figures
    assert found.figures["settled"] == found.figures["labels"] == 4 * flow.pages > 0
    assert found.figures["positives"] > 0
    letters = read_dead_letters(joiners.log, EVENTS.name)
    late = {letter.dead_letter.original for letter in letters if letter.dead_letter.error == "Late"}
    assert late == late_by_events(joiners), "an event is late because of a tick"
    letters = [letter for letter in letters if letter.dead_letter.error != "Late"]
    assert len(letters) == found.figures["bad_events"]
    assert len({letter.dead_letter.original for letter in letters}) == flow.poison  # a producer may send one again
    print(found.figures)
    return found


def late_by_events(joiners: Joiners) -> set[bytes]:
    """The events that other events alone have made late, ticks left out: a producer held them back for too long."""
    rules, late = label_rules(joiners.spec), set()
    for events in without_ticks(joiners).values():
        seen_ms = 0
        for event, came_ms in events:
            seen_ms = max(seen_ms, min(event.time_ms, came_ms))
            if event.time_ms + rules.life_ms <= seen_ms - rules.lateness_ms:
                late.add(encode(event))
    return late


def labels_by_events(joiners: Joiners) -> Net:
    """The net labels of an offline join for which no tick ever closed a window."""
    rules = label_rules(joiners.spec)
    net: Net = {}
    for events in without_ticks(joiners).values():
        net |= offline([event for event, _ in events], rules, [came_ms for _, came_ms in events])
    return net


def labels_emitted(joiners: Joiners) -> Net:
    """The net labels in `examples`."""
    records = read_range(joiners.log, EXAMPLES.name, {0: START}, joiners.log.ends(EXAMPLES.name))
    return net_of(one for record in records for one in decode_examples(record.value or b"")[0])


def without_ticks(joiners: Joiners) -> dict[int, list[tuple[Impression | Install, int]]]:
    """The pages and installs of each partition of `events`, with the time of their append."""
    found: dict[int, list[tuple[Impression | Install, int]]] = {p: [] for p in range(joiners.settings.partitions)}
    ends = joiners.log.ends(EVENTS.name)
    for record in read_range(joiners.log, EVENTS.name, dict.fromkeys(ends, START), ends):
        events = decode_events(record.value or b"")[0]
        found[record.partition] += [(one, record.time_ms) for one in events if isinstance(one, Impression | Install)]
    return found


def positive(net: Net) -> set[tuple[str, str]]:
    """Pages and items with the label 1."""
    return {one for one, label in net.items() if label}
