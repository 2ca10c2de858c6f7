"""A counter whose value is stored elsewhere: in a checkpoint, in a kernel's numbers."""

from collections.abc import Iterator

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector


class Total(Collector):
    """Exported as the counter `name`_total. It may start at any value, and be reset to a smaller one."""

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
