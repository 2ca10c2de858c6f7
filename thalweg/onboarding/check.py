"""`thalweg check`: what is wrong with a person's events under a spec, with counts and first lines."""

from typing import Final

from rich.markup import escape
from rich.table import Table

from producers.source import Sourced
from stream.events.types import Impression
from stream.features.page_features import Layout, words_of
from stream.joiner.label_rules import label_rules
from stream.runtime.errors import BadEvent
from stream.spec.spec import Spec
from thalweg.onboarding.attribution import Settled
from thalweg.onboarding.column_findings import of_columns
from thalweg.onboarding.findings import (
    Finding,
    of_installs,
    of_labels,
    of_lines,
    of_order,
    of_pages,
    of_repetitions,
    of_retention,
)
from thalweg.onboarding.survey import JOINED, Survey, Trouble

ORDER: Final = ("error", "warning", "fine")
STYLE: Final = {"error": "bold red", "warning": "yellow", "fine": "green"}


class Check:
    """Feed it every event with its line, in order; then ask for `findings`. Pure, in bounded memory."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self._rules = label_rules(spec)
        self.survey = Survey(skew_ms=self._rules.skew_ms)
        self._layout = Layout(spec)
        self._late, self._lost, self._too_late, self._foreign = Trouble(), Trouble(), Trouble(), Trouble()

    def take(self, line: int, event: Sourced) -> None:
        """Take what stands in this line."""
        if isinstance(event, JOINED):
            behind_ms = self.survey.last_ms - event.time_ms
            if behind_ms > self._rules.lateness_ms:
                self._late.note(line)
                if behind_ms >= self._rules.lateness_ms + self._rules.life_ms:
                    self._lost.note(line)
        if isinstance(event, Impression) and event.features:
            try:
                words_of(event.features, self._layout, len(event.items))
            except BadEvent as bad:
                self._foreign.note(line, str(bad))
        self._judge(self.survey.take(line, event))

    def findings(self) -> list[Finding]:
        """Everything that is to be said, the worst first. Nothing may be fed after this."""
        survey, spec = self.survey, self.spec
        self._judge(survey.finish())
        found = [*of_lines(survey)]
        if survey.lines > survey.broken.count:
            found += of_order(survey, spec, self._late, self._lost)
            found += of_labels(survey, self.labels)
            found += of_installs(survey, spec, self._too_late)
            found += of_repetitions(survey)
            found += of_pages(survey, spec, self._foreign)
            found += of_columns(survey, spec)
            found += of_retention(self._rules)
        return sorted(found, key=lambda finding: ORDER.index(finding.severity))

    @property
    def labels(self) -> int:
        """Shown items that were installed within the window."""
        return self.survey.labels - self._too_late.count

    def _judge(self, installs: list[Settled]) -> None:
        for one in installs:
            if one.delay_ms >= self._rules.window_ms:
                self._too_late.note(one.line)


def figures(check: Check, findings: list[Finding]) -> dict[str, float]:
    """The counts, flat: of each severity, of each kind of event, and of each finding that isn't fine."""
    survey = check.survey
    counts: dict[str, float] = {
        f"{severity}s": sum(one.severity == severity for one in findings) for severity in ("error", "warning")
    }
    counts |= {
        "lines": survey.lines,
        "pages": survey.pages,
        "items_shown": survey.shown,
        "installs": survey.installs,
        "labels": check.labels,
        "base_rate": check.labels / survey.shown if survey.shown else 0.0,
        "delay_ms_p50": survey.delays.quantile(0.5),
        "delay_ms_p95": survey.delays.quantile(0.95),
        "behind_ms_max": max(0.0, survey.behind.high),
    }
    return counts | {one.name: one.times for one in findings if one.severity != "fine" and one.name not in counts}


def findings_table(findings: list[Finding]) -> Table:
    """The findings for a person: what, where first, what to do."""
    table = Table.grid(padding=(0, 2))
    for one in findings:
        lines = [escape(one.says)]
        lines += [f"[dim]first: {escape(one.where)}[/]"] if one.where else []
        lines += [f"[dim]→[/] {escape(one.todo)}"] if one.todo else []
        table.add_row(f"[{STYLE[one.severity]}]{one.severity}[/]", "\n".join(lines))
    return table
