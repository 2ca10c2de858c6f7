"""`thalweg check`: validates a user's events under a spec, with counts and first lines."""

from typing import Final

from rich.markup import escape
from rich.table import Table

from producers.source import SourceElement
from stream.events.topics import EVENTS
from stream.events.types import Impression
from stream.features.page_features import Layout, words_of
from stream.joiner.label_rules import label_rules
from stream.runtime.errors import BadEvent
from stream.spec.spec import Spec
from thalweg.onboarding.attribution import InstallOutcome
from thalweg.onboarding.column_findings import column_findings
from thalweg.onboarding.cross_findings import cross_findings
from thalweg.onboarding.findings import (
    Finding,
    install_findings,
    label_findings,
    line_findings,
    order_findings,
    page_findings,
    repetition_findings,
)
from thalweg.onboarding.survey import JOINED, Occurrences, Survey
from thalweg.text.retention import REMEDY, retention_problem

ORDER: Final = ("error", "warning", "fine")
STYLE: Final = {"error": "bold red", "warning": "yellow", "fine": "green"}


class Check:
    """Add every event with its line, in order; then read `findings`. Pure, in bounded memory.

    `retention_ms`: how long `events` keeps records.
    """

    def __init__(self, spec: Spec, retention_ms: int = EVENTS.retention_ms) -> None:
        self.spec, self._retention_ms = spec, retention_ms
        self._rules = label_rules(spec)
        self.survey = Survey(skew_ms=self._rules.skew_ms)
        self._layout = Layout(spec)
        self._late, self._lost, self._too_late, self._foreign = (Occurrences() for _ in range(4))

    def add(self, line: int, event: SourceElement) -> None:
        """Add the event in this line."""
        if isinstance(event, JOINED):
            behind_ms = self.survey.last_ms - event.time_ms
            if behind_ms > self._rules.lateness_ms:
                self._late.add(line)
                if behind_ms >= self._rules.lateness_ms + self._rules.life_ms:
                    self._lost.add(line)
        if isinstance(event, Impression) and event.features:
            try:
                words_of(event.features, self._layout, len(event.items))
            except BadEvent as bad:
                self._foreign.add(line, str(bad))
        self._count_late(self.survey.add(line, event))

    def findings(self) -> list[Finding]:
        """All findings, the worst first. No event may be added after this."""
        survey, spec = self.survey, self.spec
        self._count_late(survey.finish())
        found = [*line_findings(survey)]
        if survey.lines > survey.broken.count:
            found += order_findings(survey, spec, self._late, self._lost)
            found += label_findings(survey, self.labels)
            found += install_findings(survey, spec, self._too_late)
            found += repetition_findings(survey)
            found += page_findings(survey, spec, self._foreign)
            found += column_findings(survey, spec)
            found += cross_findings(survey, spec)
            if problem := retention_problem(self._rules, self._retention_ms):
                found.append(Finding("error", "retention", 1, problem, "", REMEDY))
        return sorted(found, key=lambda finding: ORDER.index(finding.severity))

    @property
    def labels(self) -> int:
        """How many shown items were installed within the window."""
        return self.survey.labels - self._too_late.count

    def _count_late(self, outcomes: list[InstallOutcome]) -> None:
        for one in outcomes:
            if one.delay_ms >= self._rules.window_ms:
                self._too_late.add(one.line)


def figures(check: Check, findings: list[Finding]) -> dict[str, float]:
    """The counts for `--json`: of each severity, each kind of event, and each finding that isn't fine."""
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
    """The findings for a person: what, the first lines, what to do."""
    table = Table.grid(padding=(0, 2))
    for one in findings:
        lines = [escape(one.message)]
        lines += [f"[dim]first: {escape(one.lines)}[/]"] if one.lines else []
        lines += [f"[dim]→[/] {escape(one.remedy)}"] if one.remedy else []
        table.add_row(f"[{STYLE[one.severity]}]{one.severity}[/]", "\n".join(lines))
    return table
