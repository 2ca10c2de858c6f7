"""How many replicas topics get, and how many of them must have a record before it counts as written."""

from typing import Final

from stream.runtime.errors import SettingsError
from stream.runtime.loopback import is_loopback
from stream.runtime.settings import Settings

REPLICAS: Final = 3  # with two in sync: one broker may be away, and nothing is lost if another fails for good then


def replicas_of(settings: Settings) -> int:
    """How many replicas new topics get: one on loopback, where there is one broker. Raises SettingsError."""
    local = all(is_loopback(server) for server in settings.brokers())
    return settings.replication or (1 if local else REPLICAS)


def in_sync(settings: Settings, replicas: int) -> int:
    """How many of `replicas` must have a record. Raises SettingsError when the setting asks for more."""
    if settings.min_insync > replicas:
        raise SettingsError(
            f"THALWEG_MIN_INSYNC is {settings.min_insync}, but topics have {replicas} replicas: nothing could be "
            "written. Raise THALWEG_REPLICATION, or lower THALWEG_MIN_INSYNC"
        )
    return settings.min_insync or max(1, replicas - 1)


def check_brokers(brokers: int, settings: Settings) -> None:
    """Raises SettingsError where this number of brokers can't have the replicas."""
    if brokers < (replicas := replicas_of(settings)):
        why = "THALWEG_REPLICATION" if settings.replication else "the default where Kafka isn't on loopback"
        raise SettingsError(
            f"Kafka at {settings.kafka} has {brokers} brokers, and topics get {replicas} replicas ({why}): "
            f"start more brokers, or set THALWEG_REPLICATION={brokers}"
            + (", with which a broker that fails for good takes its records along" if brokers == 1 else "")
        )
