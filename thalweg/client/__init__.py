"""A client of rankers over HTTP: `Client` and `AsyncClient`, what they send and return, and their errors.

It imports httpx and msgspec, and none of the learner's, the ranker's or Kafka's libraries. docs/integrate.md shows it.
"""

from stream.events.named_events import NamedImpression as Impression
from stream.events.named_events import NamedInstall as Install
from stream.events.named_events import NamedItem as Item
from stream.events.named_events import NamedUser as User
from thalweg.client.answers import EventResult, Ranked, Sent
from thalweg.client.client import AsyncClient, Client
from thalweg.client.errors import (
    ClientError,
    Expired,
    Failed,
    InvalidRequest,
    Overloaded,
    Unauthorized,
    Unavailable,
    UnknownModel,
    Unreachable,
)

__all__ = [
    "AsyncClient",
    "Client",
    "ClientError",
    "EventResult",
    "Expired",
    "Failed",
    "Impression",
    "Install",
    "InvalidRequest",
    "Item",
    "Overloaded",
    "Ranked",
    "Sent",
    "Unauthorized",
    "Unavailable",
    "UnknownModel",
    "Unreachable",
    "User",
]
