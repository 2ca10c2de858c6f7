"""What is kept of a demo: which settings look into it, who may read it, and that `down` leaves nothing of it."""

import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka import KafkaAdminClient
from typer.testing import CliRunner

from stream.events.topics import TOPICS
from stream.log.kafka_admin import apply_topics, drop_topics, plan_topics
from stream.log.kafka_client import client_options
from stream.runtime.errors import StackError
from stream.runtime.settings import Settings
from stream.snapshots.redis_client import connect
from thalweg.cli.main import app
from thalweg.cli.options import inspect_settings
from thalweg.demo.demo_state import DemoState, stop_all
from thalweg.stack.server import free_port, spawn
from thalweg.stack.stack import Stack


@pytest.fixture
def demo(local: Path) -> Iterator[DemoState]:
    """A demo that was kept up, of one service, on a stack that is somebody's."""
    one = spawn("sleeper", ["sleep", "60"], 0, local / "log", local / "data")
    kept = DemoState("k:1", "redis://r:1", "mine.demo-1-", "m", str(local / "demo"), False, [one])
    kept.write(local)
    yield kept
    stop_all([one], 5.0)


def topics_of(settings: Settings, prefix: str) -> list[str]:
    """All topics whose name begins so."""
    with KafkaAdminClient(**client_options(settings)) as admin:
        return [name for name in admin.list_topics() if name.startswith(prefix)]


@pytest.mark.parametrize("prefix", ["", "mine.", "mine.demo-1-"])
def test_a_demo_that_is_up_is_looked_into(
    local: Path, demo: DemoState, monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    """Its addresses, prefix, model and folder, be it that the environment has the prefix that it began with."""
    monkeypatch.setenv("THALWEG_TOPIC_PREFIX", prefix)
    found = inspect_settings()
    assert (found.kafka, found.redis, found.topic_prefix) == (demo.kafka, demo.redis, demo.topic_prefix)
    assert (found.model, found.local) == ("m", local / "demo")
    monkeypatch.setenv("THALWEG_MODEL", "other")
    assert inspect_settings().model == "other"


@pytest.mark.parametrize(
    ("name", "value"), [("KAFKA", "k:9"), ("REDIS", "redis://r:9"), ("TOPIC_PREFIX", "other."), ("KAFKA", "k:1")]
)
def test_the_environment_wins(
    local: Path, demo: DemoState, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """Who names a broker, a Redis or another prefix means that place, and nothing of the demo."""
    monkeypatch.setenv(f"THALWEG_{name}", value)
    found = inspect_settings()
    assert found == Settings.load()
    assert (getattr(found, name.lower()), found.local) == (value, local)


def test_it_is_for_its_owner_alone(local: Path) -> None:
    """The file holds an address that may have a password: nobody else may read it, whatever a draft was before."""
    (local / "demo.json.new").touch(0o644)
    DemoState("k:1", "redis://me:hush@r:1", "", "m", str(local / "demo"), False).write(local)
    assert stat.S_IMODE((local / "demo.json").stat().st_mode) == 0o600


def test_a_place_that_is_full_is_said(local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It's a StackError that names the place and the way out, when a demo writes down a service as well."""
    kept = DemoState("k:1", "redis://r:1", "", "m", str(local / "demo"), False)
    with pytest.raises(StackError, match=r"none can't be used: .*THALWEG_LOCAL"):
        kept.write(local / "none")


def test_down_leaves_nothing_on_a_stack_that_goes_on(local: Path, stack: Stack, topic_prefix: str) -> None:
    """Topics and keys of the demo are gone, those beside it stay."""
    settings = Settings(kafka=stack.kafka, redis=stack.redis, topic_prefix=f"{topic_prefix}demo-1-")
    beside = settings.model_copy(update={"topic_prefix": topic_prefix})
    for one in (settings, beside):
        apply_topics(one, plan_topics(one))
    client = connect(settings)
    for prefix in (settings.topic_prefix, topic_prefix):
        client.set(f"{{{prefix}thalweg:m}}:head", "1")
    DemoState(stack.kafka, stack.redis, settings.topic_prefix, "m", str(local / "demo"), False).write(local)
    gone_by_s = time.monotonic() + 20
    try:
        ran = CliRunner().invoke(app, ["down"])
        assert ran.exit_code == 0, ran.output
        while gone_by_s > time.monotonic() and len(topics := topics_of(settings, topic_prefix)) > len(TOPICS):
            time.sleep(0.1)  # a broker's list of topics lags behind a little
        assert sorted(topics) == sorted(beside.topic(topic.name) for topic in TOPICS)
        assert list(client.scan_iter(f"*{topic_prefix}*")) == [f"{{{topic_prefix}thalweg:m}}:head".encode()]
        assert not (local / "demo.json").exists()
    finally:
        drop_topics(beside)
        client.delete(f"{{{topic_prefix}thalweg:m}}:head")


@pytest.mark.parametrize(
    ("prefix", "said"),
    [
        ("demo-1-", "topics and keys that begin with demo-1- stay: "),
        ("", "topics and keys of the demo stay: demo.json names no topic prefix"),  # can't be told from the rest
    ],
)
def test_down_says_what_stays(local: Path, prefix: str, said: str) -> None:
    """Where the stack is gone, or nothing says which are the demo's: the demo is forgotten all the same."""
    nobody = f"127.0.0.1:{free_port()}"
    DemoState(nobody, f"redis://{nobody}", prefix, "m", str(local / "demo"), False).write(local)
    ran = CliRunner().invoke(app, ["down"])
    assert ran.exit_code == 0
    assert said in ran.stderr
    assert not (local / "demo.json").exists()


@pytest.mark.parametrize("garbled", [b'{"kafka": "\xff"}', b'{"kafka', b""])
@pytest.mark.parametrize("command", ["down", "status"])
def test_a_file_that_tells_nothing_is_no_demo(local: Path, garbled: bytes, command: str) -> None:
    """Whatever bytes a crash left there: commands go on as if there were none."""
    (local / "demo.json").write_bytes(garbled)
    assert DemoState.read(local) is None
    ran = CliRunner().invoke(app, [command])
    assert ran.exception is None or isinstance(ran.exception, SystemExit)
