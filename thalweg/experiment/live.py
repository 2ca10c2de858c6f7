"""A running A/B test: reads the labels from the log and compares the arms that the impressions name."""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Final, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from stream.events.topics import EXAMPLES
from stream.log.kafka_log import KafkaLog
from stream.log.log_scan import read_range
from stream.log.protocol import Log
from stream.runtime.errors import DataError
from stream.runtime.settings import Settings
from thalweg.experiment.arm_counts import ArmCounts
from thalweg.experiment.assignment import SampleRatio, sample_ratio
from thalweg.experiment.live_counts import NO_VARIANT, LiveCounts
from thalweg.experiment.sequential import USERS_MIN, ArmComparison, RunningP, compare, rate_of
from thalweg.views.operations_tables import progress_bars
from thalweg.views.tables import print_table

HEADS: Final = ("arm", "users", "pages", "installs per 1,000 impressions", "gain", "95 % interval", "p")


class LiveOptions(NamedTuple):
    """The options of `thalweg experiment --live`."""

    control: str = "popular"  # the arm that others are compared with
    shares: Mapping[str, float] = {}  # declared shares of users, in any unit; none: equal ones of all arms that occur
    since_ms: int | None = None  # only labels appended at this time or later; None: all that the log has
    every_s: float = 0.0  # look again after this long, until interrupted; 0: look once


class LiveReport(NamedTuple):
    """One look at a running test."""

    arms: list[ArmCounts]  # the control first, pages without a variant last
    control: str
    comparisons: dict[str, ArmComparison]  # of the other arms; empty while the control has no page
    p: dict[str, float]  # of the same arms: the least of all looks
    ratio: SampleRatio
    is_declared: bool  # the shares that `ratio` compares with; else they are assumed to be equal
    several: int  # users who have seen pages of several arms
    counts: LiveCounts

    @property
    def problem(self) -> str:
        """Why nothing can be compared; empty if something can."""
        if not self.arms:
            return (
                f"no page in `{EXAMPLES.name}` has a label for each item yet ({self.counts.pages:,} wait for some): "
                "the joiner emits them when the window of [label] closes"
            )
        if self.control not in (names := [one.arm for one in self.arms]):
            return (
                f"no page is of the control arm {self.control!r}: name one with --control; there are {', '.join(names)}"
            )
        return ""


def run_live(settings: Settings, options: LiveOptions, console: Console) -> dict[str, float]:
    """Print the table of the running test, once or repeatedly; returns the figures of the last look, for `--json`.

    Raises DataError when there is nothing to compare at a single look, LogError, LogUnavailable, SettingsError.
    """
    with closing(KafkaLog(settings)) as log:
        return watch(log, options, console, time.sleep)


def watch(log: Log, options: LiveOptions, console: Console, sleep: Callable[[float], None]) -> dict[str, float]:
    """As `run_live`, on this log. Ctrl-C ends the looks."""
    counts, running = LiveCounts(), RunningP()
    begin = log.starts(EXAMPLES.name)
    if options.since_ms is not None:
        begin = log.offsets_at(EXAMPLES.name, options.since_ms)
    found: dict[str, float] = {}
    try:
        while True:
            begin = read_labels(log, counts, begin)
            seen = report(counts, options, running)
            found = figures(seen)
            print_table(report_table(seen), console)
            if not options.every_s:
                break
            sleep(options.every_s)
    except KeyboardInterrupt:
        return found
    if seen.problem:
        raise DataError(seen.problem)
    return found


def read_labels(log: Log, counts: LiveCounts, begin: Mapping[int, int]) -> dict[int, int]:
    """Count what the log has from these offsets on, as of now; returns the offsets of the end."""
    ends = log.ends(EXAMPLES.name)
    with progress_bars() as on_progress:
        for record in read_range(log, EXAMPLES.name, begin, ends, on_progress):
            counts.add(record)
    return ends


def report(counts: LiveCounts, options: LiveOptions, running: RunningP) -> LiveReport:
    """Compare the arms as of now. Raises SettingsError when a declared share is invalid."""
    arms = sorted(
        (one for one in counts.arms() if one.users),
        key=lambda one: (one.arm != options.control, one.arm == NO_VARIANT, one.arm),
    )
    comparisons: dict[str, ArmComparison] = {}
    if arms and arms[0].arm == options.control:
        control = rate_of(arms[0])
        comparisons = {one.arm: compare(control, rate_of(one)) for one in arms[1:] if one.arm != NO_VARIANT}
    p = {arm: running.add(arm, one) for arm, one in comparisons.items()}
    users = {one.arm: one.users for one in arms if one.arm != NO_VARIANT}
    ratio = sample_ratio(users, options.shares or dict.fromkeys(users, 1.0))
    several = counts.users_in_several_arms
    return LiveReport(arms, options.control, comparisons, p, ratio, bool(options.shares), several, counts)


def figures(seen: LiveReport) -> dict[str, float]:
    """One flat object: `popular.installs_per_1000`, `wide_deep.gain_low`, and counts. What isn't known is left out."""
    found: dict[str, float] = {}
    for one in seen.arms:
        found[f"{one.arm}.users"] = one.users
        found[f"{one.arm}.pages"] = int(one.pages.sum())
        found[f"{one.arm}.impressions"] = int(one.impressions.sum())
        found[f"{one.arm}.installs"] = int(one.installs.sum())
        found[f"{one.arm}.installs_per_1000"] = one.installs_per_1000
    for arm, comparison in seen.comparisons.items():
        for name, value in comparison._asdict().items():
            per_1000 = name.startswith("difference")
            found[f"{arm}.{name}{'_per_1000' * per_1000}"] = float(value) * (1000 if per_1000 else 1)
        found[f"{arm}.p"] = seen.p[arm]
    found["sample_ratio_p"] = seen.ratio.p
    counts = seen.counts
    found |= {
        "users_in_several_arms": seen.several,
        "unfinished_pages": counts.unfinished,
        "duplicates": counts.duplicates,
        "corrections_left_out": counts.corrections_left_out,
        "unreadable": counts.unreadable,
    }
    return {name: value for name, value in found.items() if math.isfinite(value)}


def report_table(seen: LiveReport) -> Table:
    """The arms side by side; below, what a reader must know before believing it."""
    notes = [
        f"gains over {escape(seen.control)}; interval and p are valid at every look, users are the units",
        f"[bold red]{escape(seen.ratio.text)}[/]" if seen.ratio.is_mismatch else escape(seen.ratio.text),
    ]
    notes += ["no shares are declared (--shares): equal ones are assumed"] * (not seen.is_declared)
    notes += [f"[red]{escape(seen.problem)}[/]"] * bool(seen.problem)
    if seen.several:
        notes.append(f"[red]{seen.several:,} users have seen pages of several arms: they blur the gains[/]")
    if any(math.isinf(one.gain_high) for one in seen.comparisons.values()):
        notes.append(f"-: nothing to conclude yet; each arm needs installs and {USERS_MIN} users")
    for count, what in (
        (seen.counts.unfinished, "pages wait for labels and don't count yet"),
        (seen.counts.corrections_left_out, "corrections of pages before those read are left out"),
        (seen.counts.unreadable, "events can't be decoded"),
    ):
        notes += [f"{count:,} {what}"] * bool(count)
    table = Table(*HEADS, title="experiment", caption="\n".join(notes), title_justify="left", caption_justify="left",
                  min_width=min(120, max(map(len, notes))))  # fmt: skip
    for column in table.columns[1:]:
        column.justify = "right"
    for one in seen.arms:
        row = (escape(one.arm), f"{one.users:,}", f"{int(one.pages.sum()):,}", f"{one.installs_per_1000:.3f}")
        compared = seen.comparisons.get(one.arm)
        table.add_row(*row, *(gain_cells(compared, seen.p[one.arm]) if compared else ("", "", "")))
    return table


def gain_cells(compared: ArmComparison, p: float) -> tuple[str, str, str]:
    """Gain, interval and p for a person; the gain is coloured where the interval excludes 0."""
    gain, low, high = float(compared.gain), float(compared.gain_low), float(compared.gain_high)
    if not math.isfinite(high):
        return (f"{gain:+.1%}" if math.isfinite(gain) else "-"), "-", "-"
    colour = "green" if low > 0 else "red" if high < 0 else ""
    text = f"[bold {colour}]{gain:+.1%}[/]" if colour else f"{gain:+.1%}"
    return text, f"{low:+.1%} to {high:+.1%}", "< 0.001" if p < 0.001 else f"{p:.3f}"
