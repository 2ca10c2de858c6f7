"""`python -m thalweg.views.metrics_table`: docs/metrics.md, the table of all metrics that services export."""

from importlib import import_module

from prometheus_client import REGISTRY

SERVICES = ("stream.joiner.metrics", "learner.training.metrics", "ranker.metrics")  # each registers its own
HEAD = """# Metrics
Every service exports its own at `/metrics`, on loopback by default (`thalweg status` prints the address). Times are in
seconds, sizes in bytes; what only grows is a counter. On Linux there are also `process_cpu_seconds_total`,
`process_resident_memory_bytes` and others of the process itself, without its child processes. This page is written by
`python -m thalweg.views.metrics_table > docs/metrics.md`.

| metric | type | what it is |
|---|---|---|
"""


def table() -> str:
    """The page as text: joiner, learner, ranker, each by name."""
    for service in SERVICES:
        import_module(service)
    rows = []
    for family in REGISTRY.collect():
        if family.name.startswith("thalweg_"):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            rows.append(f"| `{name}` | {family.type} | {family.documentation} |\n")
    return HEAD + "".join(sorted(rows))


if __name__ == "__main__":
    print(table(), end="")
