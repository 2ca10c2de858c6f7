"""The floor of `serve`: the ranker's HTTP server and Kafka clients without a ranker; each request gets a fixed answer.

`python -m benchmarks.serve_echo JSON` of settings, and the answer's size; a line with its address, then until killed.
"""

import json
import sys
import time
from typing import Any

import msgspec

from ranker.http.server import HttpServer
from stream.events.codec import encode_record
from stream.events.request_parts import request_parts
from stream.events.topics import REPLIES, REQUESTS
from stream.events.types import RankReply
from stream.log.kafka_log import KafkaLog
from stream.log.protocol import partition_of
from stream.runtime.settings import Settings

POLL_S = 0.1
ITEMS = [f"i{n}" for n in range(10)]


def answer(request_id: str, features: bytes) -> RankReply:
    """As large as a ranker's."""
    return RankReply(request_id, "u", ITEMS, [0.01] * len(ITEMS), 1, features=features)


def http_app(body: bytes) -> Any:
    """Reads a body, answers with this one."""
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (await receive())["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


def echo(settings: Settings, features: bytes) -> None:
    """Copy each request's id into an answer, for ever."""
    log = KafkaLog(settings)
    reader, sender = log.group_reader(REQUESTS.name, "echo", "0"), log.sender("1")
    partitions = log.partitions(REPLIES.name)
    while True:
        for record in reader.poll(POLL_S):
            for part in request_parts(record.value or b""):
                if head := part.head():
                    raw = encode_record([answer(head.request_id, features)])
                    home = partition_of(head.request_id, partitions)
                    sender.send(REPLIES.name, home, raw, lambda failure: None)


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    features = bytes(given["features"])
    fields = msgspec.structs.asdict(answer("r", features))
    server = HttpServer(http_app(msgspec.json.encode(fields)), "127.0.0.1", 0)
    print(server.address, flush=True)
    time.sleep(0.1)
    echo(Settings(**given["settings"]), features)
