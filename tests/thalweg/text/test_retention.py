"""A join that needs records for longer than `events` keeps them is reported before it stops at a gap."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from stream.events.codec import encode_record
from stream.events.topics import EVENTS, EXAMPLES
from stream.events.types import Impression, Install, Tick
from stream.joiner.join import Joiner
from stream.joiner.label_rules import LabelRules
from stream.log.memory_log import MemoryLog
from stream.runtime.settings import Settings
from tests.support.forked_services import Nest
from tests.support.learner_world import records, small_spec
from tests.support.waiting import wait_until
from thalweg.cli.main import app
from thalweg.cli.options import SPEC
from thalweg.text.retention import SAMPLE, retention_needs, retention_problem, window_span_ms

T = 1_700_000_000_000
LONG = SPEC.read_text().replace('window = "2s"', 'window = "8d"')
EVENT = """{"type":"impression","request_id":"r1","time":"2026-01-05T08:00:00Z","user":"ann","items":["chess","go"]}"""


@pytest.fixture
def long(tmp_path: Path) -> Path:
    """A spec whose window is longer than the retention."""
    assert "8d" in LONG
    (tmp_path / "long.toml").write_text(LONG)
    return tmp_path / "long.toml"


def test_window_corrections_and_lateness_must_fit() -> None:
    """All three together are shorter than the retention."""
    whole = LabelRules(window_ms=EVENTS.retention_ms - 6_000, known_ms=2_000, lateness_ms=4_000)
    assert "for 7 days" in retention_problem(whole)
    assert retention_problem(LabelRules(window_ms=EVENTS.retention_ms - 6_001, known_ms=2_000, lateness_ms=4_000)) == ""
    assert retention_problem(whole, retention_ms=8 * 86_400_000) == ""


def test_a_commit_stays_behind_no_longer_than_is_counted() -> None:
    """A page that has an install at its window's end is forgotten by the joiner within the time that must be kept."""
    for organic in (False, True):
        rules = LabelRules(window_ms=4_000, known_ms=100, lateness_ms=10, organic=organic)
        joiner = Joiner(rules)
        joiner.feed([Impression("r", T, "u", ["a"])], 0, T)
        joiner.feed([Install("u", "a", T + 3_999, "i")], 1, T + 3_999)
        offset, needed_ms = 2, 0
        while joiner.restart_point(offset).offset == 0:
            needed_ms += 1
            joiner.feed([Tick(T + needed_ms)], offset, T + needed_ms)
            offset += 1
        assert retention_problem(rules, retention_ms=needed_ms) != ""
        assert retention_problem(rules, retention_ms=needed_ms + 2) == ""


def test_apply_and_check_refuse_it(long: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to do; no topic is touched. The spec that fits passes."""
    monkeypatch.setenv("THALWEG_KAFKA", "127.0.0.1:1")
    monkeypatch.setenv("THALWEG_LOCAL", str(tmp_path))
    applied = CliRunner().invoke(app, ["apply-topics", "--spec", str(long)])
    assert applied.exit_code == 1
    assert "keeps records for 7 days" in applied.stderr
    assert "set THALWEG_EVENTS_DAYS, or shorten label.window" in applied.stderr
    monkeypatch.setenv("THALWEG_EVENTS_DAYS", "9")
    longer = CliRunner().invoke(app, ["apply-topics", "--spec", str(long)])
    assert "keeps records" not in longer.stderr  # it fails later, where no broker answers
    monkeypatch.delenv("THALWEG_EVENTS_DAYS")
    fits = CliRunner().invoke(app, ["apply-topics", "--spec", str(SPEC)])
    assert "keeps records" not in fits.stderr  # it fails later, where no broker answers
    (tmp_path / "events.jsonl").write_text(EVENT)
    for spec, reported in ((long, True), (SPEC, False)):
        checked = CliRunner().invoke(app, ["check", str(tmp_path / "events.jsonl"), "--spec", str(spec)])
        assert ("keeps records for 7 days" in " ".join(checked.stdout.split())) == reported
    assert checked.exit_code == 1  # nothing was installed


def test_a_joiner_warns(nest: Nest, long: Path, tmp_path: Path) -> None:
    """It may be right where the topic was configured to keep more; it starts."""
    output = tmp_path / "output"
    settings = {"kafka": "127.0.0.1:1", "local": tmp_path}
    joiner = nest.run("thalweg", ["run", "joiner", "--spec", str(long)], settings, output)
    try:
        wait_until(lambda: output.exists() and "\n" in output.read_text(), "the joiner's first line")
        assert "keeps records for 7 days" in output.read_text().splitlines()[0]
        assert joiner.poll() is None
    finally:
        joiner.kill()


def test_how_long_a_windows_examples_take_to_come() -> None:
    """Counted where the log has them all, extrapolated where it has fewer; unknown where it has next to none."""
    times_ms = iter(range(0, 10**9, 60_000))
    log = MemoryLog({EXAMPLES.name: 1}, lambda: next(times_ms))
    assert window_span_ms(log, 9) is None
    for record in records(small_spec(), 3 * (SAMPLE + 40)):  # nine examples each, one a minute
        log.send(EXAMPLES.name, 0, encode_record(record))
    assert window_span_ms(log, 9 * 101) == 100 * 60_000
    assert window_span_ms(log, 9 * (SAMPLE + 21)) == (SAMPLE + 20) * 60_000
    log.truncate(EXAMPLES.name, 0, SAMPLE + 29)
    assert window_span_ms(log, 9 * 110) == 100 * 60_000, "from eleven records in ten minutes"


def test_apply_shows_what_a_spec_needs_of_each_topic() -> None:
    """Beside the settings; a retrain that would miss a part of its window is warned of."""
    rules, settings = LabelRules(window_ms=3_600_000, lateness_ms=0), Settings(events_days=3, examples_days=30)
    lines = retention_needs(rules, 31 * 86_400_000, 20_000, settings)
    assert "THALWEG_EVENTS_DAYS is 3" in lines[0]
    assert "31 days (the 20,000 examples" in lines[1]
    assert "THALWEG_EXAMPLES_DAYS is 30" in lines[1]
    assert lines[2].startswith("short")
    assert len(retention_needs(rules, 29 * 86_400_000, 20_000, settings)) == 2
    assert "no examples yet" in retention_needs(rules, None, 20_000, settings)[1]
