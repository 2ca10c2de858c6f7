"""Events of all kinds in a MemoryLog, and the pure joiner run over them: what commands that look back are tried on."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from stream.events.codec import decode_events, encode, encode_record
from stream.events.topics import DEAD_LETTERS, EVENTS, EXAMPLES, ORGANIC
from stream.events.types import Erase, Examples, Impression, Install, Organic, SourceEvent, Tick
from stream.joiner.join import Joiner
from stream.joiner.label_rules import LabelRules
from stream.joiner.output_records import pack_records
from stream.log.dead_letters import dead_letter
from stream.log.log_scan import read_range
from stream.log.memory_log import MemoryLog
from stream.log.protocol import partition_of
from tests.support.plain_writer import example_records, split_ahead

T = 1_700_000_000_000
RULES = LabelRules(policy="eager", window_ms=400, lateness_ms=30, known_ms=200)
AHEAD_MS = 60_000
PARTITIONS = {EVENTS.name: 2, EXAMPLES.name: 1, ORGANIC.name: 2}


@dataclass
class Stream:
    """Two partitions of events, a joiner for each; the log's clock is `now_ms`."""

    rules: LabelRules = RULES
    now_ms: int = T
    log: MemoryLog = field(init=False)
    joiners: dict[int, Joiner] = field(init=False)
    read: dict[int, int] = field(default_factory=lambda: {0: 0, 1: 0})

    def __post_init__(self) -> None:
        letters = {topic.name: 1 for topic in DEAD_LETTERS.values()}
        self.log = MemoryLog({**PARTITIONS, **letters}, lambda: self.now_ms)
        self.joiners = {p: Joiner(self.rules) for p in (0, 1)}

    def send(self, *events: Impression | Install | Erase) -> None:
        """A record for each user's partition."""
        for p in (0, 1):
            part = [event for event in events if partition_of(event.user, 2) == p]
            if part:
                self.log.send(EVENTS.name, p, encode_record(part))

    def tick(self, time_ms: int) -> None:
        """Event time goes on in both partitions."""
        for p in (0, 1):
            self.log.send(EVENTS.name, p, encode_record([Tick(time_ms)]))

    def join(
        self,
        spoil: Callable[[Sequence[Examples]], Sequence[Examples]] = lambda said: said,
        spoil_organic: Callable[[Sequence[Organic]], Sequence[Organic]] = lambda told: told,
        spoil_in_examples: Callable[[Sequence[Organic]], Sequence[Organic]] = lambda told: told,
    ) -> None:
        """What the joiner's shell does with what it hasn't read yet."""
        ends = self.log.ends(EVENTS.name)
        for record in list(read_range(self.log, EVENTS.name, self.read, ends)):
            events, bad = decode_events(record.value or b"")
            taken, ahead = split_ahead(events, record.time_ms, AHEAD_MS)
            said = spoil(self.joiners[record.partition].feed(taken, record.offset, record.time_ms))
            for topic, partition, value, key in example_records(said, 1):
                self.log.send(topic, partition, value, key)
            organic = self.joiners[record.partition].organic
            learned = spoil_in_examples(organic) if self.rules.organic_examples else ()
            for topic, installs in ((ORGANIC.name, spoil_organic(organic)), (EXAMPLES.name, learned)):
                users = [one.user for one in installs]
                for out in pack_records(topic, [*map(encode, installs)], users, PARTITIONS[topic]) if installs else ():
                    self.log.send(out.topic, out.partition, out.value, out.key)
            for error, rest in (("BadEvent", bad), ("FromTheFuture", ahead)):
                for raw, why in rest:
                    letter = dead_letter(raw, error, why, record)
                    self.log.send(letter.topic, letter.partition, letter.value, letter.key)
        self.read = ends


def mixed(seed: int, pages: int) -> list[list[SourceEvent]]:
    """Groups of pages and installs of few users and items: early, repeated, shuffled, late, named, taken back."""
    rng = random.Random(seed)
    events: list[tuple[float, SourceEvent]] = []
    now = T
    for k in range(pages):
        now += rng.randrange(0, 60)
        user, items = f"u{rng.randrange(4)}", rng.sample("abcdef", 3)
        page = Impression(f"r{k}", now, user, items)
        place = now + rng.choice([0, 0, 0, 20, 90, 500, 900]) * rng.random()
        events.append((place, page))
        if rng.random() < 0.1:
            events.append((place + rng.randrange(300), page))
        for n in range(rng.choice([0, 0, 1, 2])):
            at = now + rng.randrange(-20, 450)
            named = rng.choice(["", "", f"r{k}", f"r{max(0, k - 1)}"])
            install = Install(user, rng.choice("abcdef"), at, f"i{k}-{n}", named)
            there = at + rng.choice([-60, 0, 0, 40, 300, 700]) * rng.random()
            events.append((there, install))
            if rng.random() < 0.3:
                back = Install(user, install.item, at + rng.randrange(-5, 200), install.install_id, retracted=True)
                events.append((there + rng.choice([-50, 50, 200, 400, 900]) * rng.random(), back))
            if rng.random() < 0.1:
                events.append((there + 10, install))
    ordered = [event for _, event in sorted(events, key=lambda pair: pair[0])]
    groups: list[list[SourceEvent]] = []
    while ordered:
        n = rng.choice([1, 1, 2, 5])
        groups.append(ordered[:n])
        del ordered[:n]
    return groups
