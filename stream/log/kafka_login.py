"""TLS and login that kafka-python and aiokafka share, and what a broker denies. Imports neither."""

from typing import Any, Final

from stream.log.oauth_token import token_source
from stream.runtime.errors import LogError
from stream.runtime.settings import Settings
from stream.runtime.tls import tls_context


def login_options(settings: Settings) -> dict[str, Any]:
    """Security options of a client, but for OAUTHBEARER's provider of tokens: each library wants its own kind.

    Raises SettingsError where a certificate can't be loaded; where there is no token LogUnavailable, LogError.
    """
    options: dict[str, Any] = {"security_protocol": settings.kafka_security}
    if settings.kafka_security.endswith("SSL"):
        key_password = settings.kafka_key_password.get_secret_value()
        options["ssl_context"] = tls_context(
            "KAFKA", settings.kafka_ca, settings.kafka_cert, settings.kafka_key, key_password
        )
    if settings.kafka_security.startswith("SASL"):
        options["sasl_mechanism"] = settings.kafka_sasl_mechanism
        if settings.uses_oauth:
            token_source(settings).token()  # a client's own failure to get one doesn't say why
            return options
        options["sasl_plain_username"] = settings.kafka_user
        options["sasl_plain_password"] = settings.kafka_password.get_secret_value()
    return options


# By the first word of what was being done; asking for anything is Describe.
_OPERATIONS: Final = {
    "sending": "Write", "writing": "Write", "waiting": "Write", "an": "Write",
    "reading": "Read", "opening": "Read", "joining": "Read", "committing": "Read", "seeking": "Describe",
    "changing": "Create or Alter", "describing": "DescribeConfigs", "removing": "Delete",
}  # fmt: skip
_KINDS: Final = {"Topic": "topic", "Group": "group", "Cluster": "the cluster"}


def denial(settings: Settings, doing: str, bad: BaseException | None) -> LogError | None:
    """Our error where a broker's authorizer denied something to this user; None for any other error.

    `bad` is of either library, which name them alike. A record's outcome doesn't name its topic: `doing` does.
    """
    remedy = "`thalweg acls` prints what each room needs"
    if "InitProducerId" in str(bad) and "ClusterAuthorizationFailed" in str(bad):
        return LogError(
            f"Kafka at {settings.kafka} denies {_principal(settings)} Write on every topic ({doing}): {remedy}"
        )
    name = type(bad).__name__.removesuffix("Error")
    if bad is None or not name.endswith("AuthorizationFailed"):
        return None
    kind = _KINDS.get(name.removesuffix("AuthorizationFailed"), name)
    operation = _OPERATIONS.get(doing.partition(" ")[0], "Describe")
    named = bad.args[0] if bad.args and isinstance(bad.args[0], str | set | frozenset | list) else ""
    names = named if isinstance(named, str) else ", ".join(sorted(map(str, named)))
    names = names.rpartition("GROUP/")[2].rstrip(": ")  # of a group without a coordinator
    return LogError(
        f"Kafka at {settings.kafka} denies {_principal(settings)} {operation} on {kind} {names}".rstrip()
        + f" ({doing}): {remedy}"
    )


def _principal(settings: Settings) -> str:
    if settings.kafka_security.startswith("SASL"):
        return f"user {settings.kafka_user!r}"
    return f"the owner of {settings.kafka_cert}" if settings.kafka_cert else "a client without login"
