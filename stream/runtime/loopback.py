"""Which addresses are this machine's own."""

from ipaddress import ip_address


def is_loopback(server: str) -> bool:
    """Whether a host:port is this machine's own.

    >>> [is_loopback(server) for server in ("127.0.0.1:9092", "localhost:1", "[::1]:9092", "kafka:9092", "10.0.0.1:1")]
    [True, True, True, False, False]
    """
    host = server.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
