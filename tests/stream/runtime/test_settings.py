"""Settings come from the environment, else from the local stack; what makes no sense is said by name."""

import json
from pathlib import Path

import pytest

from stream.runtime.errors import SettingsError
from stream.runtime.settings import Settings


def test_environment_is_read(local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each field is the variable THALWEG_<NAME>."""
    monkeypatch.setenv("THALWEG_KAFKA", "a:1,b:2")
    monkeypatch.setenv("THALWEG_PARTITIONS", "9")
    monkeypatch.setenv("THALWEG_KAFKA_PASSWORD", "geheim")
    settings = Settings.load()
    assert (settings.need_kafka(), settings.partitions, settings.local) == ("a:1,b:2", 9, local)
    assert settings.kafka_password.get_secret_value() == "geheim"


def test_arguments_win_over_the_environment(local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an entry point passes itself is taken before the environment."""
    monkeypatch.setenv("THALWEG_TOPIC_PREFIX", "theirs.")
    assert Settings.load(topic_prefix="mine.").topic("events") == "mine.events"


@pytest.mark.parametrize("spec", [None, Path("mine.toml")])
def test_a_child_process_has_the_same_settings(local: Path, monkeypatch: pytest.MonkeyPatch, spec: Path | None) -> None:
    """`environment` says what differs from the defaults and what doesn't; what isn't set stays so."""
    given = Settings.load(spec=spec, partitions=3, kafka="k:1", redis="redis://r:2")
    for name, value in given.environment().items():
        monkeypatch.setenv(name, value)
    assert Settings.load() == given


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PARTITIONS", "0"), ("PARTITIONS", "many"), ("KAFKA_SECURITY", "TLS"), ("TOPIC_PREFIX", "a b"),
        ("RANKER_PORT", "70000"), ("MODEL", "a/b"), ("LOG_LEVEL", "loud"), ("WORKER", "a/b"), ("WORKER", ".."),
        ("WORKER", ""),
    ],
)  # fmt: skip
def test_nonsense_is_named(local: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """A value that makes no sense is an error that names the variable."""
    monkeypatch.setenv(f"THALWEG_{name}", value)
    with pytest.raises(SettingsError, match=f"THALWEG_{name}: "):
        Settings.load()


def test_unknown_variables_are_refused(local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt variable isn't passed over in silence."""
    monkeypatch.setenv("THALWEG_KAFAK", "a:1")
    with pytest.raises(SettingsError, match="unknown environment variable THALWEG_KAFAK; `thalweg doctor`"):
        Settings.load()


SERVICE_LINKS = {  # of Services named thalweg, thalweg-ranker, thalweg-kafka and thalweg-redis
    "THALWEG_PORT": "tcp://10.0.0.10:9103", "THALWEG_SERVICE_HOST": "10.0.0.10", "THALWEG_SERVICE_PORT": "9103",
    "THALWEG_RANKER_PORT": "tcp://10.0.0.11:8080", "THALWEG_RANKER_SERVICE_HOST": "10.0.0.11",
    "THALWEG_RANKER_SERVICE_PORT": "8080", "THALWEG_RANKER_SERVICE_PORT_HTTP": "8080",
    "THALWEG_RANKER_PORT_8080_TCP": "tcp://10.0.0.11:8080", "THALWEG_RANKER_PORT_8080_TCP_ADDR": "10.0.0.11",
    "THALWEG_RANKER_PORT_8080_TCP_PORT": "8080", "THALWEG_RANKER_PORT_8080_TCP_PROTO": "tcp",
    "THALWEG_KAFKA_SERVICE_HOST": "fd00::b", "THALWEG_KAFKA_PORT": "tcp://[fd00::b]:9092",
    "THALWEG_REDIS_PORT_6379_TCP": "tcp://10.0.0.12:6379", "THALWEG_DNS_PORT_53_UDP": "udp://10.0.0.13:53",
}  # fmt: skip


def test_service_links_of_kubernetes_are_ignored(local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Kubernetes sets for a Service of our name is neither unknown nor a port; a setting beside it counts."""
    for name, value in SERVICE_LINKS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("THALWEG_JOINER_PORT", "9101")
    settings = Settings.load()
    assert (settings.ranker_port, settings.joiner_port, settings.kafka) == (0, 9101, "")
    assert Settings.load(ranker_port=7).ranker_port == 7


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RANKER_SERVICE_HOST", "ranker"), ("KAFKA_PORT", "9092"),
        ("RANKER_PORT_8080_TCP", "8080"), ("RANKER_PORT_HTTP_TCP", "tcp://10.0.0.11:8080"), ("SERVICE_HOST", ""),
    ],
)  # fmt: skip
def test_what_only_resembles_a_service_link_is_refused(
    local: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """Kubernetes writes no such value: it is a misspelt setting."""
    monkeypatch.setenv(f"THALWEG_{name}", value)
    with pytest.raises(SettingsError, match=f"unknown environment variable THALWEG_{name};"):
        Settings.load()


@pytest.mark.parametrize("value", ["tcp://", "http://10.0.0.11:8080", "tcp://10.0.0.11"])
def test_a_port_that_is_no_service_link_is_invalid(local: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """Only the exact form of a service link is taken for one."""
    monkeypatch.setenv("THALWEG_RANKER_PORT", value)
    with pytest.raises(SettingsError, match="THALWEG_RANKER_PORT: "):
        Settings.load()


def test_the_local_stack_fills_what_the_environment_leaves_open(local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Addresses come from the local stack, each only where the environment names none."""
    (local / "stack.json").write_text(json.dumps({"kafka": "k:1", "redis": "redis://r:2", "more": 1}))
    assert (Settings.load().kafka, Settings.load().redis) == ("k:1", "redis://r:2")
    monkeypatch.setenv("THALWEG_KAFKA", "other:9")
    assert (Settings.load().kafka, Settings.load().redis) == ("other:9", "redis://r:2")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"kafka": "k:1"}'])
def test_a_broken_stack_file_is_said(local: Path, content: str) -> None:
    """A stack file that can't be read is an error that says how to write it again."""
    (local / "stack.json").write_text(content)
    with pytest.raises(SettingsError, match=r"can't be read .*`thalweg down` and `thalweg up`"):
        Settings.load()
    assert Settings.load(with_stack=False).kafka == ""  # for those that repair it


def test_a_stack_file_that_may_not_be_read_is_said(local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user's `.local` is an error that says what to do; a file in its place holds no stack."""

    def closed(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", closed)
    monkeypatch.setattr(Path, "read_bytes", closed)
    with pytest.raises(SettingsError, match=r"stack.json can't be read: .*Permission denied.*; fix its rights, or"):
        Settings.load()
    monkeypatch.undo()
    (local / "file").touch()
    assert Settings.load(local=local / "file").kafka == ""


def test_every_setting_says_what_it_is() -> None:
    """Each has a description, which the doctor shows."""
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_without_addresses_the_error_says_how_to_get_them(local: Path) -> None:
    """No address anywhere: the message names `thalweg up` and the variable."""
    settings = Settings.load()
    with pytest.raises(SettingsError, match=r"`thalweg up`.*THALWEG_KAFKA="):
        settings.need_kafka()
    with pytest.raises(SettingsError, match=r"`thalweg up`.*THALWEG_REDIS="):
        settings.need_redis()


def test_secrets_are_never_shown(local: Path) -> None:
    """Passwords don't appear when settings are printed or logged."""
    settings = Settings(kafka_password="geheim", redis_password="geheim")
    assert "geheim" not in repr(settings) + str(settings) + settings.model_dump_json()
