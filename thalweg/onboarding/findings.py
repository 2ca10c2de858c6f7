"""What is to be said of a person's events under a spec: how bad, how often, where first, and what to do."""

from collections.abc import Iterable, Iterator
from typing import Final, Literal, NamedTuple

from stream.events.types import EVENT_BYTES_MAX
from stream.joiner.label_rules import LabelRules
from stream.spec.spec import POSITION, Spec
from thalweg.onboarding.survey import Survey, Trouble
from thalweg.text.durations import rounded_up, spoken
from thalweg.text.retention import REMEDY, too_short

Severity = Literal["error", "warning", "fine"]
FEW_LABELS: Final = 100  # fewer installs than this teach little
RARE: Final = 0.001  # a base rate below
FREQUENT: Final = 0.9
POSITION_MATTERS: Final = 1.5  # rate at the first position ÷ rate at the last
FEATURE_BYTES: Final = 0.9  # of an event's bytes, for features


class Finding(NamedTuple):
    """`name` is its key among figures, `times` how often; `where`: the first places; `todo`: what to do next."""

    severity: Severity
    name: str
    times: int
    says: str
    where: str = ""
    todo: str = ""


def share(part: float, whole: float) -> str:
    """A part of a whole for a person.

    >>> share(1, 8), share(1, 3000), share(0, 5)
    ('12.5 %', '0.0333 %', '0 %')
    """
    return f"{100 * part / whole:.3g} %" if whole else "0 %"


def places(trouble: Trouble | Iterable[int]) -> str:
    """The first places, as text."""
    if not isinstance(trouble, Trouble):
        return ", ".join(f"line {line}" for line in trouble)
    return "; ".join(f"line {line}: {what}" if what else f"line {line}" for line, what in trouble.first)


def of_trouble(trouble: Trouble, severity: Severity, name: str, says: str, todo: str) -> Iterator[Finding]:
    """A finding when there was any trouble; `says` goes on after the count."""
    if trouble.count:
        yield Finding(severity, name, trouble.count, f"{trouble.count:,} {says}", places(trouble), todo)


def of_lines(survey: Survey) -> Iterator[Finding]:
    """What came at all, and what couldn't be read."""
    bad = survey.broken.count
    if not survey.lines:
        yield Finding("error", "empty", 1, "there are no events", "", "write JSON lines, as docs/events.md shows")
        return
    if bad == survey.lines:
        todo = "this isn't a file of events as JSON lines: docs/events.md says what one line looks like"
        yield Finding("error", "broken", bad, f"none of {bad:,} lines can be read", places(survey.broken), todo)
        return
    yield from of_trouble(survey.broken, "error", "broken", "lines can't be read",
                          "mend them, or know that replay and backtest leave them out")  # fmt: skip
    said = (
        f"{survey.pages:,} pages of {survey.users_shown:,} users, {survey.items_shown:,} different items shown, "
        f"{survey.installs:,} installs"
    )
    span = f" over {spoken(survey.last_ms - survey.first_ms)}" if survey.last_ms else ""
    yield Finding("fine", "lines", survey.lines, said + span)
    if not survey.pages:
        todo = "write an impression for each page that a user saw: without pages an install teaches nothing"
        yield Finding("error", "no_pages", 1, "there are no pages (impressions)", "", todo)


def of_repetitions(survey: Survey) -> Iterator[Finding]:
    """What came twice, or takes back what wasn't there."""
    yield from of_trouble(survey.repeated_pages, "warning", "repeated_pages", "pages repeat a request_id",
                          "give each page a request_id of its own: only the first one counts")  # fmt: skip
    yield from of_trouble(survey.repeated_installs, "warning", "repeated_installs", "installs repeat an install_id",
                          "write each install once, or give it another id: only the first one counts")  # fmt: skip
    yield from of_trouble(survey.nothing_retracted, "warning", "nothing_retracted", "retractions take back nothing",
                          "use the install_id of the install, and write the retraction after it")  # fmt: skip
    yield from of_trouble(survey.odd_propensities, "warning", "odd_propensities", "pages have a propensity outside "
                          "(0, 1]", "a propensity is the chance that the item had to be shown")  # fmt: skip


def of_order(survey: Survey, spec: Spec, late: Trouble, lost: Trouble) -> Iterator[Finding]:
    """How far the file is from event time's order. `late`: behind by more than lateness; `lost`: dropped."""
    behind = survey.behind
    yield from of_trouble(lost, "error", "too_old", "events are so old when they come that the joiner drops them",
                          f"sort the file by time, or raise label.lateness to {rounded_up(behind.high)}")  # fmt: skip
    if late.count:
        says = f"events are older than one before them by more than label.lateness ({spec.label.lateness})"
        todo = f"sort the file by time, or set label.lateness to {rounded_up(behind.quantile(0.99))} (99 % of those)"
        yield from of_trouble(late, "warning", "late", says, todo)
    elif behind.count:
        says = f"{behind.count:,} events are out of order, by {spoken(behind.high)} at most: within label.lateness"
        yield Finding("fine", "order", behind.count, says)
    elif survey.pages:
        yield Finding("fine", "order", 0, "in order of event time")


def of_installs(survey: Survey, spec: Spec, too_late: Trouble) -> Iterator[Finding]:
    """Installs and their pages. `too_late`: those that come after the window of theirs."""
    if lost := survey.without_page:
        reasons = sorted(survey.unmatched.items(), key=lambda one: -one[1].count)
        why = "; ".join(f"{trouble.count:,} {reason}" for reason, trouble in reasons)
        lines = sorted(line for _, trouble in reasons for line, _ in trouble.first)
        says = f"{lost:,} of {survey.installs:,} installs ({share(lost, survey.installs)}) have no page: {why}"
        todo = "write the page of each install, before it, with the same user and request_id: they teach nothing"
        yield Finding(
            "error" if 2 * lost >= survey.installs else "warning", "unmatched", lost, says, places(lines), todo
        )
    if not survey.delays.count:
        return
    p50, p95, p99 = (spoken(survey.delays.quantile(q)) for q in (0.5, 0.95, 0.99))
    says = f"an install comes {p50} (p50), {p95} (p95), {p99} (p99) after its page; label.window is {spec.label.window}"
    if too_late.count:
        says = f"{too_late.count:,} installs ({share(too_late.count, survey.installs)}) come after the window: {says}"
        bad = too_late.count > 0.05 * survey.delays.count
        todo = f"set label.window to {rounded_up(survey.delays.quantile(0.95))} (95 % of installs), or live with it"
        yield Finding(
            "warning" if bad else "fine", "too_late", too_late.count, says, places(too_late), todo if bad else ""
        )
    else:
        yield Finding("fine", "delay", survey.delays.count, says)


def of_labels(survey: Survey, labels: int) -> Iterator[Finding]:
    """The base rate of `labels` positives."""
    if not survey.shown:
        return
    rate = labels / survey.shown
    says = f"base rate {share(labels, survey.shown)}: {labels:,} of {survey.shown:,} shown items installed"
    if not labels:
        todo = "a model needs both: write installs, with the user and item of a page, within label.window"
        yield Finding("error", "base_rate", 0, says, "", todo)
    elif labels < FEW_LABELS or rate < RARE:
        todo = "expect noise: hundreds of installs are the least that shows a difference between models"
        yield Finding("warning", "base_rate", labels, says, "", todo)
    elif rate > FREQUENT:
        todo = "are pages missing of which nothing was installed? Each page that was seen belongs into the file"
        yield Finding("warning", "base_rate", labels, says, "", todo)
    else:
        yield Finding("fine", "base_rate", labels, says)


def of_retention(rules: LabelRules) -> Iterator[Finding]:
    """A join that needs records for longer than they are kept."""
    if says := too_short(rules):
        yield Finding("error", "retention", 1, says, "", REMEDY)


def of_pages(survey: Survey, spec: Spec, foreign: Trouble) -> Iterator[Finding]:
    """Positions, histories, sizes. `foreign`: pages whose features are of another spec."""
    yield from of_trouble(foreign, "error", "foreign_features", "pages bring features that this spec can't read",
                          "leave `features` out: they are then made anew from attributes and history")  # fmt: skip
    largest = max(survey.page_sizes, default=0)
    if not largest:
        return
    size = _feature_bytes(survey, spec, survey.items_max)
    if size > FEATURE_BYTES * EVENT_BYTES_MAX:
        says = f"{survey.items_max} items need about {size:,} bytes of features, an event has {EVENT_BYTES_MAX:,}"
        yield Finding(
            "error", "page_size", survey.items_max, says, "", "show fewer items on a page, or drop columns of items"
        )
    has_position = POSITION in spec.columns()
    if has_position and largest == 1:
        todo = f"drop {POSITION}: it is the place within a page; a slot can be a column of [context]"
        yield Finding("warning", "position", 1, "every page has one item, so its position is always 1", "", todo)
    elif largest > 1:
        yield _position(survey, largest, has_position)
    history = next((name for name, column in spec.columns().items() if column.of), "")
    if history:
        mean = survey.histories.quantile(0.5)
        says = (
            f"{share(survey.with_history, survey.pages)} of pages are by users with installs before (median {mean:.0f})"
        )
        rare = survey.with_history < 0.05 * survey.pages
        todo = f"{history} is nearly always empty: are users' ids stable over time?" if rare else ""
        yield Finding("warning" if rare else "fine", "history", survey.with_history, says, "", todo)


def _position(survey: Survey, largest: int, has_position: bool) -> Finding:
    at = sorted({0, largest // 4, largest // 2, largest - 1})
    rates = [(p, *survey.rate_at(p)) for p in at]
    says = "installed by position: " + ", ".join(f"{p + 1}: {100 * rate:.3g} %" for p, _, rate in rates)
    first, last = rates[0][2], rates[-1][2]
    matters = survey.labels >= FEW_LABELS and first > POSITION_MATTERS * last
    if matters and not has_position:
        todo = 'add position = { type = "number", serve_as = 1 } to [context], and to deep.features'
        return Finding("warning", "position", largest, says, "", todo)
    return Finding("fine", "position", largest, says)


def _feature_bytes(survey: Survey, spec: Spec, items: int) -> int:
    """About what the features of a page take (`stream/features/page_features.py`)."""
    columns = spec.columns()
    lists = [n for n, c in columns.items() if n.startswith("item.") and c.type in ("category", "categories")]
    numbers = [n for n, c in columns.items() if n.startswith("item.") and c.type == "number"]
    known = [survey.item.columns.get(name.removeprefix("item.")) for name in lists]
    ids = sum(max(1.0, column.list_lengths.quantile(0.9)) if column else 1.0 for column in known)
    each = 8 * ids + 4 * (len(lists) + len(numbers) + len(spec.statistics))
    history = max((c.last for c in columns.values() if c.of), default=0)
    return round(items * each + 8 * (history + len(columns)))
