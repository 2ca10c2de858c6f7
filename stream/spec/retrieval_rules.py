"""Rules of the spec's table `retrieval` that its types can't express, each with a remedy."""

from stream.spec.spec import Spec
from stream.spec.spec_rules import Reject
from stream.spec.statistic_kinds import LEARN_LABELS, kind_of
from stream.spec.suggestions import near


def check_retrieval(spec: Spec, reject: Reject) -> None:
    """Call `reject` with path and reason at the first rule that is broken."""
    retrieval = spec.retrieval
    quotas = {source: quota for source, quota in retrieval.quotas().items() if quota}
    if (total := sum(quotas.values())) > retrieval.count:
        given = ", ".join(f"{source} {quota}" for source, quota in quotas.items())
        why = f"the quotas ({given}) are {total} candidates, over count = {retrieval.count}: raise it, or lower them"
        reject(("retrieval", max(quotas, key=quotas.__getitem__)), f"[retrieval]: {why}")
    if retrieval.same and not retrieval.same_by:
        reject(("retrieval", "same"), '[retrieval]: same needs columns to go by, such as same_by = ["item.category"]')
    columns = spec.columns()
    unshared = {"item.id", *(f"{n}_band" for n, c in columns.items() if c.type == "date")}  # which a page's time says
    known = [n for n, c in columns.items() if n.startswith("item.") and c.type in ("category", "categories")]
    known = [name for name in known if name not in unshared]
    for column in retrieval.same_by:
        if column not in known:
            why = f"{column!r} is no category of an item here; {near(column, known)}"
            reject(("retrieval", column), f"[retrieval] same_by: {why}")
    by_item = [one.of for one in spec.statistics.values() if _counts_labels(one.kind) and one.by == ["item.id"]]
    for source, missing in (("new", "" not in by_item), ("trending", not by_item)):
        if source in quotas and missing:
            why = 'is counted by a statistic of labels by the item alone: add one with by = ["item.id"]'
            what = "how often an item was shown" if source == "new" else "how often an item is installed"
            reject(("retrieval", source), f"[retrieval] {source}: {what} {why}")


def _counts_labels(kind: str) -> bool:
    return kind_of(kind).learn == LEARN_LABELS
