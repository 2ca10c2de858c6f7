"""TLS and login options that kafka-python and aiokafka share. Imports neither."""

import ssl
from typing import Any

from stream.runtime.errors import SettingsError
from stream.runtime.settings import Settings


def login_options(settings: Settings) -> dict[str, Any]:
    """Security options of a client. Raises SettingsError where the CA file can't be loaded."""
    options: dict[str, Any] = {"security_protocol": settings.kafka_security}
    if settings.kafka_security.endswith("SSL"):
        try:
            options["ssl_context"] = ssl.create_default_context(cafile=settings.kafka_ca or None)
        except OSError as bad:
            raise SettingsError(f"THALWEG_KAFKA_CA: can't load {settings.kafka_ca}: {bad}") from None
    if settings.kafka_security.startswith("SASL"):
        options["sasl_mechanism"] = settings.kafka_sasl_mechanism
        options["sasl_plain_username"] = settings.kafka_user
        options["sasl_plain_password"] = settings.kafka_password.get_secret_value()
    return options
