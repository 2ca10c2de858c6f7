"""What /metrics exports: one consistent set of numbers; and a counter whose value is stored elsewhere."""

import threading
from collections.abc import Iterator
from typing import Final

from prometheus_client import REGISTRY, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

UPDATING: Final = threading.Lock()  # while metrics that belong together are set, nothing is exported


def exported() -> bytes:
    """All metrics, in Prometheus' text format."""
    with UPDATING:
        return generate_latest(REGISTRY)


class Total(Collector):
    """A counter whose value is stored elsewhere: in a checkpoint, in a kernel's numbers.

    Exported as the counter `name`_total. It may start at any value, and be reset to a smaller one."""

    def __init__(self, name: str, documentation: str, labels: tuple[str, ...] = ()) -> None:
        self._name, self._documentation, self._labels = name, documentation, labels
        self._totals: dict[tuple[str, ...], float] = {} if labels else {(): 0.0}
        REGISTRY.register(self)

    def set(self, total: float, *labels: str) -> None:
        """Set the count of these labels."""
        self._totals = {**self._totals, labels: float(total)}  # `collect` may be reading the old dict

    def remove(self, *labels: str) -> None:
        """Stop exporting these labels."""
        self._totals = {key: total for key, total in self._totals.items() if key != labels}

    def collect(self) -> Iterator[CounterMetricFamily]:
        """For the registry."""
        family = CounterMetricFamily(self._name, self._documentation, labels=self._labels)
        for labels, total in self._totals.items():
            family.add_metric(labels, total)
        yield family
