"""`thalweg run ranker --http HOST:PORT`: the HTTP server beside a ranker's other threads."""

import logging
import time
from pathlib import Path
from uuid import uuid4

from ranker.http.app import ModelInfo, Served, http_app
from ranker.http.connection import Bounds
from ranker.http.event_writer import EventWriter
from ranker.http.events import EventsEndpoint
from ranker.http.explaining import ExplainEndpoint
from ranker.http.gate import overload_of
from ranker.http.idempotency import RecentAnswers
from ranker.http.ranking import RankEndpoint
from ranker.http.routes import RANK
from ranker.http.server import HttpServer, connections_max, parse_address
from ranker.http.tokens import Tokens, check_exposure
from ranker.serving.answering import Answerer
from ranker.serving.served_model import ServedModel
from ranker.serving.service import RankerService
from stream.runtime.clock import now_ms
from stream.runtime.settings import Settings

log = logging.getLogger(__name__)


def serve_http(settings: Settings, address: str, service: RankerService) -> HttpServer:
    """Serve `service` at `address` (host:port) until the server is closed. Raises SettingsError."""
    host, port = parse_address(address)
    tokens = Tokens(Path(settings.http_tokens) if settings.http_tokens else None, time.monotonic)
    check_exposure(host, tokens)
    answerer = Answerer(service.models, service.profiles, now_ms, service.values)
    rank = RankEndpoint(
        answerer,
        service.admission,
        ready=service.ranks,
        now_ms=now_ms,
        clock_ms=lambda: time.monotonic() * 1e3,
        new_id=lambda: uuid4().hex,
    )
    served = Served(
        rank,
        EventsEndpoint(EventWriter(lambda: service.log), RecentAnswers(time.monotonic), now_ms),
        ExplainEndpoint(answerer, service.item, ready=service.ranks, now_ms=now_ms),
        lambda: [model_info(model, now_ms()) for model in service.models.values()],
        service.item,
        service.forget,
        service.ranks,
        service.live,
    )
    bounds = Bounds(connections_max(), overload=overload_of(RANK, rank.overload))
    server = HttpServer(http_app(served, tokens, settings.http_hosts.split(",")), host, port, bounds)
    log.info("HTTP listens on %s", server.address)
    return server


def model_info(model: ServedModel, now_ms: int) -> ModelInfo:
    """What a model serves now."""
    served = model.watcher.served
    if served is None:
        return ModelInfo(model.name, 0, 0, 0)
    return ModelInfo(model.name, served.version.number, served.since_ms, served.version.staleness_ms(now_ms))
