"""A ranker of the model `m` as a program: its one argument is JSON, its settings."""

import json
import logging
import sys
from collections.abc import Sequence

from ranker.serving.process import run_ranker
from stream.runtime.settings import Settings


def main(arguments: Sequence[str]) -> None:
    """Run it until it ends."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    run_ranker(Settings(**json.loads(arguments[0])), ["m"])
