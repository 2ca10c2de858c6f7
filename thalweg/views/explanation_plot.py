"""One item's explanation as a horizontal bar chart (PNG)."""

from pathlib import Path
from typing import Final

from stream.events.named_explanations import Explanation
from thalweg.views.explanation_tables import BIAS, DEEP, ORDER, REST, WIDE, Term, terms_of, title_of
from thalweg.views.figure_file import save_figure

TERMS_MAX: Final = 24
LABEL_MAX: Final = 60  # characters
COLOURS: Final = {
    WIDE: "#0072b2",
    DEEP: "#cc79a7",
    BIAS: "#555555",
    REST: "#56b4e9",
}  # safe for colour-blind
LEGENDS: Final = {
    BIAS: "bias", WIDE: "wide: a weight that fired", REST: "wide: all other weights",
    DEEP: "deep: what knowing a column adds",
}  # fmt: skip


def write_png(path: Path, found: Explanation) -> None:
    """The terms of the logit of the one item in `found`, the largest on top. Raises DataError."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    of_logit = [term for term in terms_of(found.items[0]) if term.part not in ORDER]
    terms = sorted(of_logit, key=lambda term: abs(term.value))[-TERMS_MAX:]
    figure, axes = plt.subplots(figsize=(11, 1.6 + 0.3 * len(terms)), layout="constrained")
    for part, legend in LEGENDS.items():
        bars = {at: term.value for at, term in enumerate(terms) if term.part == part}
        if not bars:
            continue
        drawn = axes.barh([*bars], [*bars.values()], color=COLOURS[part], label=legend)
        axes.bar_label(drawn, fmt="{:+.2f}", padding=3, fontsize=8)
    axes.set_yticks(range(len(terms)), [_label(term) for term in terms], fontsize=9)
    axes.axvline(0.0, color="black", linewidth=0.8)
    axes.margins(x=0.12)
    axes.set_xlabel("logit")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", fontsize=8)
    figure.suptitle(_no_formula(f"{title_of(found)}; version {found.version}"), fontsize=10)
    save_figure(figure, path)


def _label(term: Term) -> str:
    name = term.name
    return _no_formula(name if len(name) <= LABEL_MAX else f"{name[: LABEL_MAX - 1]}…")


def _no_formula(text: str) -> str:
    return text.replace("$", r"\$")
