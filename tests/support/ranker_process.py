"""A ranker of the model `m` as a program, with HTTP on a free port: its one argument is JSON, its settings."""

import json
import logging
import sys
from collections.abc import Sequence
from functools import partial

from ranker.http.serve import serve_http
from ranker.serving.process import run_ranker
from stream.runtime.settings import Settings


def main(arguments: Sequence[str]) -> None:
    """Run it until it ends."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    settings = Settings(**json.loads(arguments[0]))
    run_ranker(settings, ["m"], beside=partial(serve_http, settings, "127.0.0.1:0"))
