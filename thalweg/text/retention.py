"""Whether topics keep records for as long as a spec needs them."""

from contextlib import closing
from typing import Final

from stream.events.codec import decode_examples
from stream.events.topics import DAY_MS, EVENTS, EXAMPLES
from stream.joiner.label_rules import LabelRules
from stream.log.protocol import Log
from stream.runtime.settings import Settings
from thalweg.text.durations import format_duration

REMEDY: Final = "set THALWEG_EVENTS_DAYS, or shorten label.window or label.lateness"
SAMPLE: Final = 200  # records that say how many examples a record has


def needed_ms(rules: LabelRules) -> int:
    """How long `events` has to keep a page: a starting joiner reads again every page that can still get a label."""
    # With `organic`, also every page that has a remembered install, at the latest one from its window's end.
    organic_ms = rules.window_ms if rules.organic else 0
    return rules.life_ms + rules.lateness_ms + organic_ms


def retention_problem(rules: LabelRules, retention_ms: int = EVENTS.retention_ms) -> str:
    """Why retention is too short; empty when it isn't.

    A starting joiner stops if a page that it needs is gone.
    """
    if needed_ms(rules) < retention_ms:
        return ""
    return (
        f"a page is needed for {format_duration(needed_ms(rules))} ({_parts(rules)}), but `{EVENTS.name}` keeps "
        f"records for {format_duration(retention_ms)}: a joiner that starts again would find them gone"
    )


def retention_needs(rules: LabelRules, window_span_ms: int | None, window: int, settings: Settings) -> list[str]:
    """What a spec needs of each topic beside what the settings give, a line each.

    `window`: examples that a retrain trains on; `window_span_ms`: how long these take to come, None while unknown.
    """
    examples_ms = settings.examples_days * DAY_MS
    span = "a while (there are no examples yet)" if window_span_ms is None else format_duration(window_span_ms)
    lines = [
        f"need    {settings.topic(EVENTS.name)}: {format_duration(needed_ms(rules))} ({_parts(rules)}); "
        f"THALWEG_EVENTS_DAYS is {settings.events_days}",
        f"need    {settings.topic(EXAMPLES.name)}: {span} (the {window:,} examples of deep.warm_start.window); "
        f"THALWEG_EXAMPLES_DAYS is {settings.examples_days}; a new model learns what is kept, and what "
        "`thalweg export examples` has written",
    ]
    if window_span_ms is not None and window_span_ms > examples_ms:
        lines.append("short   a retrain would train on less than its window: raise THALWEG_EXAMPLES_DAYS")
    return lines


def window_span_ms(log: Log, window: int) -> int | None:
    """How long the newest `window` examples took to come, ms, extrapolated where the log has fewer.

    None while there are too few to say. Raises LogError.
    """
    end, start = log.ends(EXAMPLES.name)[0], log.starts(EXAMPLES.name)[0]
    first = max(start, end - SAMPLE)
    if end - first < 2:
        return None
    with closing(log.reader(EXAMPLES.name, {0: first})) as reader:
        newest = reader.poll(1.0, SAMPLE)
    found = sum(len(page.ids) for record in newest for page in decode_examples(record.value or b"")[0])
    if not found:
        return None
    records = -(-window * len(newest) // found)
    first = max(start, end - records)
    with closing(log.reader(EXAMPLES.name, {0: first})) as reader:
        oldest = reader.poll(1.0, 1)
    return round((newest[-1].time_ms - oldest[0].time_ms) * records / (end - first)) if oldest else None


def _parts(rules: LabelRules) -> str:
    parts = "label.window, time for corrections, label.lateness"
    return parts + (", and label.window once more for label.organic" if rules.organic else "")
