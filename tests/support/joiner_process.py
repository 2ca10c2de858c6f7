"""A joiner with settings, rules and options of a test's own, as a program: its one argument is JSON."""

import json
import logging
import sys
from collections.abc import Sequence

from stream.joiner.label_rules import LabelRules
from stream.joiner.record_processor import JoinerOptions
from stream.joiner.supervisor import run_joiner
from stream.runtime.settings import Settings


def main(arguments: Sequence[str]) -> None:
    """Run it until it ends."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    given = json.loads(arguments[0])
    run_joiner(Settings(**given["settings"]), LabelRules(**given["rules"]), JoinerOptions(**given["options"]))
