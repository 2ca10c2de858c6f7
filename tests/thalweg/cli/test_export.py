"""`thalweg export` and `thalweg retrain --from`, with Kafka."""

import json
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stream.events.codec import encode_record
from stream.events.topics import EXAMPLES
from stream.log.kafka_admin import apply_topics, plan_topics
from stream.log.kafka_log import KafkaLog
from stream.runtime.settings import Settings
from tests.support import learner_world
from tests.support.retrain_house import LOG
from thalweg.cli.main import app
from thalweg.stack.stack import Stack


def test_a_model_is_learned_from_what_was_exported(
    stack: Stack, topic_prefix: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Export, go on writing, export again, learn: the first checkpoint has all of it; then nothing new is exported."""
    settings = Settings(kafka=stack.kafka, topic_prefix=topic_prefix)
    apply_topics(settings, plan_topics(settings))
    monkeypatch.setenv("THALWEG_KAFKA", stack.kafka)
    monkeypatch.setenv("THALWEG_TOPIC_PREFIX", topic_prefix)
    monkeypatch.setenv("THALWEG_LOCAL", str(tmp_path / "local"))
    monkeypatch.setattr("os.nice", lambda more: 0)
    report, folder, spec = tmp_path / "report.json", tmp_path / "files", tmp_path / "small.toml"
    spec.write_text(learner_world.SPEC)

    def ran(*words: str) -> dict[str, int]:
        done = CliRunner().invoke(app, [*words, "--json", str(report)])
        assert done.exit_code == 0, done.output
        found: dict[str, int] = json.loads(report.read_text())
        return found

    with closing(KafkaLog(settings)) as log:
        for first, end in ((0, 40), (40, 60)):
            for record in LOG[first:end]:
                log.send(EXAMPLES.name, 0, encode_record(record), b"0")
            log.flush()
            done = ran("export", "examples", str(folder))
            assert (done["records"], done["end"], done["missing"]) == (end - first, end, 0)
        for record in LOG[60:70]:
            log.send(EXAMPLES.name, 0, encode_record(record), b"0")
    learned = ran("retrain", "--spec", str(spec), "--from", str(folder))
    assert learned == {"examples": 9 * 70, "offset": 70, "why": "first"}
    assert ran("export", "examples", str(folder), "--to", "2020-01-01")["files"] == 0
    missing = CliRunner().invoke(app, ["retrain", "--spec", str(spec), "--from", str(tmp_path / "no")])
    assert missing.exit_code == 1
    assert "has no exported examples: `thalweg export examples" in missing.stderr
