"""Settings of a deployment: addresses, secrets, ports. Entry points read them from the environment and pass them on.

The spec (`spec.py`) defines the model; settings are what differs between machines.
"""

import json
import os
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from stream.runtime.errors import SettingsError
from stream.runtime.service_links import is_service_link

MODEL_NAME: Final = r"[A-Za-z0-9_-][A-Za-z0-9._-]*"
REFUSED_EXIT: Final = 78  # EX_CONFIG of sysexits.h
DEDUP_IDS: Final = 200_000  # example ids of a generation; between one and two generations are retained


def refused_exit() -> int:
    """THALWEG_REFUSED_EXIT, also where other settings are invalid; the default where it is itself."""
    code = os.environ.get("THALWEG_REFUSED_EXIT", "")
    return int(code) if code.isdecimal() and int(code) <= 255 else REFUSED_EXIT


class Settings(BaseSettings):
    """All settings; each is the environment variable THALWEG_<NAME>.

    Without an address in the environment, the local stack's is used (`.local/stack.json`).
    """

    model_config = SettingsConfigDict(env_prefix="THALWEG_", frozen=True, extra="forbid")

    kafka: str = Field("", description="Kafka bootstrap servers, host:port, comma separated")
    kafka_security: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="protocol to Kafka: SSL is TLS, SASL a login"
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = Field(
        "PLAIN", description="login mechanism, where THALWEG_KAFKA_SECURITY is SASL_..."
    )
    kafka_user: str = Field("", description="user name for SASL, or an OAuth client's id")
    kafka_password: SecretStr = Field(
        SecretStr(""), description="password for SASL, or an OAuth client's secret; never shown"
    )
    kafka_oauth_url: str = Field(
        "",
        description="where tokens for OAUTHBEARER come from: https://... is an OAuth 2 server's token endpoint (client "
        "credentials), file:///... a file that others renew",
    )
    kafka_oauth_scope: str = Field("", description="scope that is asked for, where the OAuth 2 server wants one")
    kafka_oauth_ca: str = Field("", description="CA certificate file (PEM) for that server; empty: the system's")
    kafka_ca: str = Field("", description="CA certificate file (PEM) for TLS to Kafka; empty: the system's")
    kafka_cert: str = Field("", description="client certificate file (PEM) for TLS to Kafka, with its chain")
    kafka_key: str = Field("", description="file of that certificate's key (PEM); empty: in the same file")
    kafka_key_password: SecretStr = Field(SecretStr(""), description="password of that key; never shown")
    redis: str = Field(
        "",
        description="Redis: redis://host:port/db, redis+cluster://host:port,host:port, or "
        "redis+sentinel://host:port,host:port/NAME/db; rediss in place of redis for TLS",
    )
    redis_user: str = Field("", description="user name for Redis, where THALWEG_REDIS has none")
    redis_password: SecretStr = Field(
        SecretStr(""), description="password for Redis, where THALWEG_REDIS has none; never shown"
    )
    redis_sentinel_password: SecretStr = Field(SecretStr(""), description="password for Sentinels; never shown")
    redis_ca: str = Field("", description="CA certificate file (PEM) for TLS to Redis; empty: the system's")
    redis_cert: str = Field("", description="client certificate file (PEM) for TLS to Redis, with its chain")
    redis_key: str = Field("", description="file of that certificate's key (PEM); empty: in the same file")
    redis_key_password: SecretStr = Field(SecretStr(""), description="password of that key; never shown")
    topic_prefix: str = Field("", pattern=r"^[A-Za-z0-9._-]*$", description="put before every topic and group name")
    partitions: int = Field(
        4,
        ge=1,
        description="partitions of `events` and other topics keyed by user or item; they can't be changed later",
    )
    rank_partitions: int = Field(
        0, ge=0, description="partitions of `rank.requests` and `rank.replies`, may be raised; 0: THALWEG_PARTITIONS"
    )
    events_days: int = Field(7, ge=1, description="how long `events` and `organic` keep records, days")
    examples_days: int = Field(
        7, ge=1, description="how long `examples` keeps records, days: a new model learns them, and exported files"
    )
    replication: int = Field(
        0,
        ge=0,
        description="replicas of a topic that `thalweg apply-topics` creates; 0: 1 where Kafka is on loopback, else 3",
    )
    min_insync: int = Field(
        0, ge=0, description="replicas that must have a record before it is acknowledged; 0: all but one"
    )
    model: str = Field(
        "",
        pattern=f"^({MODEL_NAME})?$",
        description="the model of rankers and `snapshots`; empty: the spec's name",
    )
    spec: Path | None = Field(None, description="the spec (TOML) of services and commands that no --spec names")
    local: Path = Field(Path(".local"), description="local stack, checkpoints, last good snapshot, logs")
    data: Path = Field(Path(".data"), description="downloaded data sets")
    host: str = Field(
        "127.0.0.1",
        description="where /livez, /readyz and /metrics listen; in a container 0.0.0.0 (or ::), for probes",
    )
    joiner_port: int = Field(0, ge=0, le=65535, description="port of the joiner's health and metrics; 0: any free one")
    memory_mb: int = Field(
        0, ge=0, description="memory that a service has; 0: its container's limit (cgroup), else the machine's"
    )
    joiner_memory_mb: int = Field(
        0,
        ge=0,
        description="memory of a joiner; over its equal share, a partition closes its oldest pages early; 0: three "
        "quarters of what there is, 2048 at most",
    )
    joiner_bodies_mb: int = Field(
        256, ge=0, description="cache of recent records in the joiner; pages of older ones are read again"
    )
    joiner_poison_s: float = Field(
        60.0, ge=0, description="stop when only invalid events have arrived for this long; 0: never"
    )
    joiner_outage_grace_s: float = Field(
        30.0,
        ge=0,
        description="how long after a broker outage a partition without events isn't considered silent: producers "
        "may reconnect later than the joiner",
    )
    dedup_ids: int = Field(
        DEDUP_IDS,
        ge=20_000,
        description="how many example ids of each partition of `events` the learner retains at least, to drop "
        "duplicates; a joiner commits before it has emitted two fifths as many: use one value for both",
    )
    learner_port: int = Field(
        0, ge=0, le=65535, description="port of the learner's health and metrics; 0: any free one"
    )
    ranker_port: int = Field(0, ge=0, le=65535, description="port of the ranker's health and metrics; 0: any free one")
    ranker_http: str = Field(
        "", description="where a ranker answers over HTTP: host:port (port 0: any free one); empty: Kafka only"
    )
    http_tokens: str = Field(
        "", description="file of bearer tokens for HTTP; without one, HTTP is for loopback only and `admin` is off"
    )
    http_token: SecretStr = Field(
        SecretStr(""), description="token that `thalweg explain` sends to a ranker over HTTP; never shown"
    )
    http_hosts: str = Field(
        "", description="names by which clients may call a ranker over HTTP, comma separated, beside its address"
    )
    ranker_threads: int = Field(2, ge=1, description="scoring threads of a ranker")
    ranker_queue_ms: int = Field(
        250, ge=1, description="how long a request may wait for those before it; a ranker sheds those that would longer"
    )
    ranker_session_ms: int = Field(
        2_000,
        ge=500,
        description="how long a ranker may be silent until others get its partitions; 6000 where the broker's "
        "group.min.session.timeout.ms doesn't allow less",
    )
    ranker_acks: Literal["1", "all"] = Field(
        "1", description="who acknowledges a reply on Kafka: the partition's leader, or all replicas in sync"
    )
    reply_topics: str = Field(
        "",
        pattern=r"^[A-Za-z0-9._,-]*$",
        description="topics beside rank.replies that a request's `reply_to` may name, comma separated",
    )
    worker: str = Field(
        "0",
        pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$",
        description="static name in its consumer group: a restart keeps its partitions",
    )
    checkpoint_every_ms: int = Field(5_000, ge=100, description="how often the learner writes its checkpoint")
    backup: str = Field(
        "", description="where the learner keeps backups continuously: a folder, or s3://bucket/prefix; empty: nowhere"
    )
    backup_every_s: float = Field(60.0, ge=1, description="at most how often the learner writes a backup")
    backup_keep: int = Field(
        24,
        ge=1,
        description="how many backups the learner leaves in THALWEG_BACKUP, the newest; older ones are removed",
    )
    keep_versions: int = Field(
        1_000, ge=2, description="how many snapshot versions are retained in Redis; fewer while it's nearly full"
    )
    refused_exit: int = Field(
        REFUSED_EXIT,
        ge=0,
        le=255,
        description="exit code of a service that another start won't help: settings, spec, checkpoint or log are "
        "refused; 0 where a supervisor restarts a service after any other code",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="level of the services' log on stderr"
    )
    log: Literal["text", "json"] = Field("text", description="form of the services' log: text, or a JSON object a line")

    @classmethod
    def load(cls, *, with_stack: bool = True, **overrides: object) -> Self:
        """Settings from the environment, with the local stack's addresses (if `with_stack`) where it has none.

        Raises SettingsError when a variable is invalid or an unknown THALWEG_ variable is set, other than those that
        Kubernetes sets for a Service named `thalweg` or `thalweg-...`.
        """
        known = {f"THALWEG_{name.upper()}" for name in cls.model_fields}
        ours = {k: v for k, v in os.environ.items() if k.startswith("THALWEG_") and not is_service_link(k, v)}
        unknown = sorted(ours.keys() - known)
        if unknown:
            names = ", ".join(unknown)
            raise SettingsError(f"unknown environment variable {names}; `thalweg doctor` lists the known ones")
        try:
            found = cls(**overrides)  # type: ignore[arg-type]  # pydantic checks the values
        except ValidationError as bad:
            where = "; ".join(f"THALWEG_{str(e['loc'][0]).upper()}: {e['msg']}" for e in bad.errors())
            raise SettingsError(f"invalid settings: {where}") from None
        stack = found.local / "stack.json"
        if not with_stack or (found.kafka and found.redis):
            return found
        try:
            named = json.loads(stack.read_bytes())
            here = {"kafka": found.kafka or named["kafka"], "redis": found.redis or named["redis"]}
        except (FileNotFoundError, NotADirectoryError):
            return found
        except OSError as bad:
            raise SettingsError(f"{stack} can't be read: {bad}; fix its rights, or set THALWEG_LOCAL") from None
        except (ValueError, KeyError, TypeError) as bad:
            raise SettingsError(
                f"{stack} can't be read ({bad!r}); `thalweg down` and `thalweg up` rewrite it"
            ) from None
        return found.model_copy(update=here)

    @model_validator(mode="before")
    @classmethod
    def _without_service_links(cls, values: dict[str, object]) -> dict[str, object]:
        return {k: v for k, v in values.items() if not is_service_link(f"THALWEG_{k.upper()}", str(v))}

    @property
    def uncommitted_max(self) -> int:
        """How many examples a joiner may emit without a commit; the rest is for the record in progress."""
        return self.dedup_ids * 2 // 5

    @property
    def allowed_reply_topics(self) -> tuple[str, ...]:
        """The topics of `reply_topics`, without the prefix."""
        return tuple(topic for topic in self.reply_topics.split(",") if topic)

    def environment(self) -> dict[str, str]:
        """This process's environment with these settings, secrets included, for a child process."""
        values = ((name, getattr(self, name)) for name in type(self).model_fields)
        return os.environ | {
            f"THALWEG_{name.upper()}": value.get_secret_value() if isinstance(value, SecretStr) else str(value)
            for name, value in values
            if value is not None
        }

    def topic(self, name: str) -> str:
        """The full name of a topic or group: prefix and name."""
        return self.topic_prefix + name

    def need_kafka(self) -> str:
        """The bootstrap servers. Raises SettingsError when none are known."""
        if not self.kafka:
            raise SettingsError("no Kafka is known: run `thalweg up` for a local one, or set THALWEG_KAFKA=host:port")
        return self.kafka

    def brokers(self) -> list[str]:
        """The bootstrap servers, one by one. Raises SettingsError when none are known."""
        return [server.strip() for server in self.need_kafka().split(",")]

    @property
    def uses_oauth(self) -> bool:
        """Whether clients of Kafka log in by tokens."""
        return self.kafka_security.startswith("SASL") and self.kafka_sasl_mechanism == "OAUTHBEARER"

    def need_redis(self) -> str:
        """The Redis URL. Raises SettingsError when none is known."""
        if not self.redis:
            raise SettingsError(
                "no Redis is known: run `thalweg up` for a local one, or set THALWEG_REDIS=redis://host:port"
            )
        return self.redis


def log_settings() -> Settings:
    """The form of the log and the worker's name, also where other settings are invalid."""
    form: Literal["text", "json"] = "json" if os.environ.get("THALWEG_LOG") == "json" else "text"
    return Settings.model_construct(log=form, worker=os.environ.get("THALWEG_WORKER", "0"))
