"""Findings about a user's events under a spec: severity, count, first lines, and what to do."""

from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

from stream.events.types import EVENT_BYTES_MAX
from stream.spec.columns import NUMBERS, POSITION
from stream.spec.spec import Spec
from thalweg.onboarding.survey import Occurrences, Survey
from thalweg.text.durations import format_duration, round_up_duration

Severity = Literal["error", "warning", "fine"]
FEW_LABELS: Final = 100  # fewer are too few to learn from
RARE: Final = 0.001  # base rates below are reported
FREQUENT: Final = 0.9  # ... and above
POSITION_MATTERS: Final = 1.5  # rate at the first position ÷ rate at the last
FEATURE_BYTES: Final = 0.9  # of an event's bytes, for features


class Finding(NamedTuple):
    """`name`: its key in the figures; `times`: how often; `lines`: the first ones; `remedy`: what to do."""

    severity: Severity
    name: str
    times: int
    message: str
    lines: str = ""
    remedy: str = ""


def share(part: float, whole: float) -> str:
    """A part of a whole, formatted as a percentage.

    >>> share(1, 8), share(1, 3000), share(0, 5)
    ('12.5 %', '0.0333 %', '0 %')
    """
    return f"{100 * part / whole:.3g} %" if whole else "0 %"


def counted(number: int, noun: str) -> str:
    """A number with its noun, in the plural unless it is one.

    >>> counted(1, "page"), counted(2000, "page")
    ('1 page', '2,000 pages')
    """
    return f"{number:,} {noun}{'s' * (number != 1)}"


def first_lines(problem: Occurrences) -> str:
    """The first lines and their details, for a person."""
    return "; ".join(f"line {line}: {detail}" if detail else f"line {line}" for line, detail in problem.first)


def problem_finding(
    problem: Occurrences, severity: Severity, name: str, message: str, remedy: str
) -> Iterator[Finding]:
    """A finding if the problem occurs; `message` follows the count."""
    if problem.count:
        yield Finding(severity, name, problem.count, f"{problem.count:,} {message}", first_lines(problem), remedy)


def line_findings(survey: Survey) -> Iterator[Finding]:
    """What the file contains, and what can't be read."""
    bad = survey.broken.count
    if not survey.lines:
        yield Finding("error", "empty", 1, "there are no events", "", "write JSON lines, as docs/events.md shows")
        return
    if bad == survey.lines:
        remedy = "this isn't a file of events as JSON lines: docs/events.md shows what one line looks like"
        yield Finding("error", "broken", bad, f"none of {bad:,} lines can be read", first_lines(survey.broken), remedy)
        return
    remedy = "fix them, or know that replay and backtest leave them out"
    yield from problem_finding(survey.broken, "error", "broken", "lines can't be read", remedy)
    counts = (
        f"{counted(survey.pages, 'page')} of {counted(survey.users_shown, 'user')}, "
        f"{counted(survey.items_shown, 'different item')} shown, {counted(survey.installs, 'install')}"
    )
    span = f" over {format_duration(survey.last_ms - survey.first_ms)}" if survey.last_ms else ""
    yield Finding("fine", "lines", survey.lines, counts + span)
    if not survey.pages:
        remedy = "write an impression for each page that a user saw: without pages an install teaches nothing"
        yield Finding("error", "no_pages", 1, "there are no pages (impressions)", "", remedy)


def repetition_findings(survey: Survey) -> Iterator[Finding]:
    """Repeated events, and retractions without an install."""
    problems = (
        (survey.repeated_pages, "repeated_pages", "pages repeat a request_id",
         "give each page a request_id of its own: only the first one counts"),
        (survey.repeated_installs, "repeated_installs", "installs repeat an install_id",
         "write each install once, or give it another id: only the first one counts"),
        (survey.nothing_retracted, "nothing_retracted", "retractions retract nothing",
         "use the install_id of the install, and write the retraction after it"),
        (survey.odd_propensities, "odd_propensities", "pages have a propensity outside (0, 1]",
         "a propensity is the chance that the item had to be shown"),
    )  # fmt: skip
    for problem, name, message, remedy in problems:
        yield from problem_finding(problem, "warning", name, message, remedy)


def order_findings(survey: Survey, spec: Spec, late: Occurrences, lost: Occurrences) -> Iterator[Finding]:
    """How far the file is from event time order. `late`: by more than the lateness; `lost`: dropped as too late."""
    behind = survey.behind
    message = "events are so old when they come that the joiner drops them"
    remedy = f"sort the file by time, or raise label.lateness to {round_up_duration(behind.high)}"
    yield from problem_finding(lost, "error", "too_old", message, remedy)
    if late.count:
        message = f"events are older than one before them by more than label.lateness ({spec.label.lateness})"
        lateness = round_up_duration(behind.quantile(0.99))
        remedy = f"sort the file by time, or set label.lateness to {lateness} (99 % of those)"
        yield from problem_finding(late, "warning", "late", message, remedy)
    elif behind.count:
        most = format_duration(behind.high)
        message = f"{behind.count:,} events are out of order, by {most} at most: within label.lateness"
        yield Finding("fine", "order", behind.count, message)
    elif survey.pages:
        yield Finding("fine", "order", 0, "in order of event time")


def install_findings(survey: Survey, spec: Spec, too_late: Occurrences) -> Iterator[Finding]:
    """Installs and their pages. `too_late`: installs after their page's window."""
    if lost := survey.without_page:
        reasons = sorted(survey.unmatched.items(), key=lambda one: -one[1].count)
        why = "; ".join(f"{problem.count:,} {reason}" for reason, problem in reasons)
        lines = ", ".join(f"line {n}" for n in sorted(n for _, problem in reasons for n, _ in problem.first))
        message = f"{lost:,} of {survey.installs:,} installs ({share(lost, survey.installs)}) have no page: {why}"
        remedy = "write the page of each install, before it, with the same user and request_id: they teach nothing"
        yield Finding("error" if 2 * lost >= survey.installs else "warning", "unmatched", lost, message, lines, remedy)
    if not survey.delays.count:
        return
    p50, p95, p99 = (format_duration(survey.delays.quantile(q)) for q in (0.5, 0.95, 0.99))
    window = spec.label.window
    delays = f"an install comes {p50} (p50), {p95} (p95), {p99} (p99) after its page; label.window is {window}"
    if too_late.count:
        part = share(too_late.count, survey.installs)
        message = f"{too_late.count:,} installs ({part}) come after the window: {delays}"
        bad = too_late.count > 0.05 * survey.delays.count
        fit = round_up_duration(survey.delays.quantile(0.95))
        remedy = f"set label.window to {fit} (95 % of installs), or live with it"
        lines = first_lines(too_late)
        yield Finding("warning" if bad else "fine", "too_late", too_late.count, message, lines, remedy if bad else "")
    else:
        yield Finding("fine", "delay", survey.delays.count, delays)


def label_findings(survey: Survey, labels: int) -> Iterator[Finding]:
    """The base rate of `labels` positives."""
    if not survey.shown:
        return
    rate = labels / survey.shown
    message = f"base rate {share(labels, survey.shown)}: {labels:,} of {survey.shown:,} shown items installed"
    severity: Severity = "warning"
    if not labels:
        severity = "error"
        remedy = "a model needs both: write installs, with the user and item of a page, within label.window"
    elif labels < FEW_LABELS or rate < RARE:
        remedy = "expect noise: hundreds of installs are the least that shows a difference between models"
    elif rate > FREQUENT:
        remedy = "are pages missing of which nothing was installed? Each page that was seen belongs into the file"
    else:
        severity, remedy = "fine", ""
    yield Finding(severity, "base_rate", labels, message, "", remedy)


def page_findings(survey: Survey, spec: Spec, foreign: Occurrences) -> Iterator[Finding]:
    """Positions, histories, sizes. `foreign`: pages whose features are of another spec."""
    remedy = "leave `features` out: they are then built from attributes and history"
    message = "pages bring features that this spec can't read"
    yield from problem_finding(foreign, "error", "foreign_features", message, remedy)
    largest = max(survey.page_sizes, default=0)
    if not largest:
        return
    size = _feature_bytes(survey, spec, survey.items_max)
    if size > FEATURE_BYTES * EVENT_BYTES_MAX:
        message = f"{survey.items_max} items need about {size:,} bytes of features, an event has {EVENT_BYTES_MAX:,}"
        remedy = "show fewer items on a page, or drop columns of items"
        yield Finding("error", "page_size", survey.items_max, message, "", remedy)
    has_position = POSITION in spec.columns()
    if has_position and largest == 1:
        remedy = f"drop {POSITION}: it is the position within a page; a slot can be a column of [context]"
        yield Finding("warning", "position", 1, "every page has one item, so its position is always 1", "", remedy)
    elif largest > 1:
        yield _position(survey, largest, has_position)
    history = next((name for name, column in spec.columns().items() if column.of), "")
    if history:
        part, median = share(survey.with_history, survey.pages), survey.histories.quantile(0.5)
        message = f"{part} of pages are by users with installs before (median {median:.0f})"
        rare = survey.with_history < 0.05 * survey.pages
        remedy = f"{history} is nearly always empty: are users' ids stable over time?" if rare else ""
        yield Finding("warning" if rare else "fine", "history", survey.with_history, message, "", remedy)


def _position(survey: Survey, largest: int, has_position: bool) -> Finding:
    at = sorted({0, largest // 4, largest // 2, largest - 1})
    rates = [(p, *survey.rate_at(p)) for p in at]
    message = "installed by position: " + ", ".join(f"{p + 1}: {100 * rate:.3g} %" for p, _, rate in rates)
    first, last = rates[0][2], rates[-1][2]
    matters = survey.labels >= FEW_LABELS and first > POSITION_MATTERS * last
    if matters and not has_position:
        remedy = 'add position = { type = "number", serve_as = 1 } to [context], and to deep.features'
        return Finding("warning", "position", largest, message, "", remedy)
    return Finding("fine", "position", largest, message)


def _feature_bytes(survey: Survey, spec: Spec, items: int) -> int:
    """The approximate size of a page's features (`stream/features/page_features.py`)."""
    columns = spec.columns()
    lists = [n for n, c in columns.items() if n.startswith("item.") and c.type in ("category", "categories")]
    numbers = [n for n, c in columns.items() if n.startswith("item.") and c.type in NUMBERS]
    known = [survey.item.columns.get(name.removeprefix("item.")) for name in lists]
    ids = sum(max(1.0, column.list_lengths.quantile(0.9)) if column else 1.0 for column in known)
    each = 8 * ids + 4 * (len(lists) + len(numbers) + len(spec.statistics))
    history = max((c.last for c in columns.values() if c.of), default=0)
    return round(items * each + 8 * (history + len(columns)))
