"""TLS and login options that kafka-python and aiokafka share. Imports neither."""

from typing import Any

from stream.runtime.settings import Settings
from stream.runtime.tls import tls_context


def login_options(settings: Settings) -> dict[str, Any]:
    """Security options of a client. Raises SettingsError where a certificate can't be loaded."""
    options: dict[str, Any] = {"security_protocol": settings.kafka_security}
    if settings.kafka_security.endswith("SSL"):
        key_password = settings.kafka_key_password.get_secret_value()
        options["ssl_context"] = tls_context(
            "KAFKA", settings.kafka_ca, settings.kafka_cert, settings.kafka_key, key_password
        )
    if settings.kafka_security.startswith("SASL"):
        options["sasl_mechanism"] = settings.kafka_sasl_mechanism
        options["sasl_plain_username"] = settings.kafka_user
        options["sasl_plain_password"] = settings.kafka_password.get_secret_value()
    return options
