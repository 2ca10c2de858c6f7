"""TLS to Kafka and Redis: the certificates that settings name."""

import ssl

from stream.runtime.errors import SettingsError


def tls_context(service: str, ca: str, cert: str, key: str, key_password: str) -> ssl.SSLContext:
    """A client's context: whom it believes (`ca`, empty: the system's), and who it is (`cert`, empty: nobody).

    PEM files. `service` is KAFKA or REDIS, as in the settings' names. Raises SettingsError where one can't be loaded.
    """
    try:
        context = ssl.create_default_context(cafile=ca or None)
    except OSError as bad:
        raise SettingsError(f"THALWEG_{service}_CA: can't load {ca}: {bad}") from None
    if key and not cert:
        raise SettingsError(f"THALWEG_{service}_KEY is set without THALWEG_{service}_CERT, the certificate of that key")
    if cert:
        try:
            context.load_cert_chain(cert, key or None, password=lambda: key_password)
        except OSError as bad:
            raise SettingsError(
                f"THALWEG_{service}_CERT: can't load {cert} with its key {key or 'in the same file'}: {bad}; check "
                f"THALWEG_{service}_KEY and THALWEG_{service}_KEY_PASSWORD"
            ) from None
    return context
