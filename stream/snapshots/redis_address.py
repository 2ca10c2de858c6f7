"""THALWEG_REDIS: one server, a cluster, or the Sentinels that know which server is the master.

    redis://host:6379/0                          one server
    redis+cluster://h1:6379,h2:6379              any nodes of a Redis Cluster
    redis+sentinel://h1:26379,h2:26379/NAME/0    Sentinels, the name under which they watch the master, the database

With rediss in place of redis all of it is over TLS.
"""

from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from redis import connection

CLUSTER, SENTINEL = "cluster", "sentinel"
_PORTS: Final = {CLUSTER: 6379, SENTINEL: 26379}


class RedisAddress(NamedTuple):
    """A cluster, or Sentinels. `options`: login, database, TLS, as redis-py's clients take them; `master`: its name."""

    kind: str
    nodes: list[tuple[str, int]]
    options: dict[str, Any]
    master: str

    def __str__(self) -> str:
        """Without the login."""
        where = ",".join(f"{host}:{port}" for host, port in self.nodes)
        return f"{where}/{self.master}/{self.options.get('db', 0)}" if self.kind == SENTINEL else where


def has_several_servers(url: str) -> bool:
    """Whether a URL is of a cluster or of Sentinels; without a look at whether it's valid.

    >>> [has_several_servers(url) for url in ("redis://a:1/0", "rediss+cluster://a:1,b:1", "")]
    [False, True, False]
    """
    return "+" in url.partition("://")[0]


def parse_address(url: str) -> RedisAddress:
    """The address of a cluster or of Sentinels. Raises ValueError, whose message may contain a part of the password.

    >>> parse_address("rediss+sentinel://me:hush@a,b:1/main/2")[1:]
    ([('a', 26379), ('b', 1)], {'username': 'me', 'password': 'hush', 'db': 2, 'ssl': True}, 'main')
    """
    parts = urlsplit(url)
    scheme, _, kind = parts.scheme.partition("+")
    if scheme not in ("redis", "rediss") or kind not in _PORTS:
        raise ValueError(f"unknown scheme {parts.scheme}")
    login, at, hosts = parts.netloc.rpartition("@")
    path = parts.path.strip("/")
    master, _, database = path.partition("/") if kind == SENTINEL else ("", "", path)
    if (kind == SENTINEL and not master) or (kind == CLUSTER and database not in ("", "0")):
        raise ValueError("Sentinels need the master's name, and a cluster has only database 0")
    query = f"?{parts.query}" if parts.query else ""
    parse: Any = connection.parse_url  # untyped
    found = [parse(f"{scheme}://{login}{at}{host}/{database}{query}") for host in hosts.split(",")]
    nodes = [(options.pop("host", "localhost"), options.pop("port", _PORTS[kind])) for options in found]
    options = found[0]
    if options.pop("connection_class", None) is connection.SSLConnection:
        options["ssl"] = True
    if kind == CLUSTER:
        options.pop("db", None)
    return RedisAddress(kind, nodes, options, master)
