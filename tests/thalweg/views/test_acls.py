"""The table of grants is data: docs/acls.md, `thalweg acls` and the test on a broker (tests/system) are made of it."""

import pytest
from typer.testing import CliRunner

from stream.events.topics import TOPICS
from stream.runtime.settings import Settings
from thalweg.cli.main import app
from thalweg.stack.broker import REPOSITORY
from thalweg.views.acls import MODEL, ROLES, grants, page

PAGE = (REPOSITORY / "docs" / "acls.md").read_text()


def test_the_page_is_of_the_data() -> None:
    """docs/acls.md is written by the module."""
    assert page() == PAGE, "write it again: python -m thalweg.views.acls > docs/acls.md"


def test_every_topic_has_somebody_who_writes_it_and_somebody_who_reads_it() -> None:
    """A new topic needs a row. What only the operator writes or reads is named here."""
    rooms = [needs for needs in ROLES.values() if not needs.everything]
    names = {topic.name for topic in TOPICS}
    assert names - {topic.name for needs in rooms for topic in needs.writes} == {"formats"}
    assert names - {topic.name for needs in rooms for topic in needs.reads} == {
        "organic", "events.dlq", "examples.dlq", "rank.requests.dlq", "items.dlq"
    }  # fmt: skip


def test_the_command_prints_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line for each topic and group, with the prefix, for whoever is named."""
    for name, value in {"KAFKA": "k:1,k:2", "TOPIC_PREFIX": "p.", "MODEL": "shop"}.items():
        monkeypatch.setenv(f"THALWEG_{name}", value)
    ran = CliRunner().invoke(app, ["acls", "ranker", "--principal", "User:CN=r"])
    assert ran.exit_code == 0, ran.output
    lines = ran.output.splitlines()
    assert len(lines) == len(grants("ranker", Settings(), MODEL))
    head = "kafka-acls --bootstrap-server k:1 --add --allow-principal 'User:CN=r' --operation "
    assert f"{head}Read --operation Write --topic 'p.items'" in lines
    assert f"{head}Read --group 'p.ranker-shop'" in lines
    operator = CliRunner().invoke(app, ["acls", "operator"]).output
    assert "--operation Describe --cluster\n" in operator
    assert "--topic 'p.' --resource-pattern-type prefixed\n" in operator


def test_a_role_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the roles."""
    monkeypatch.setenv("THALWEG_KAFKA", "k:1")
    ran = CliRunner().invoke(app, ["acls", "rankers"])
    assert ran.exit_code == 1
    assert "joiner, learner, ranker, producer, caller, operator are the roles" in ran.stderr
