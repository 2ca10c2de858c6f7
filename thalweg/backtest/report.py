"""What a backtest prints and writes: its figures, with intervals, as tables and as one flat object."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from rich.markup import escape
from rich.table import Table

from learner.training.figures import ALL, calibration_text
from thalweg.backtest.backtest import Scores
from thalweg.backtest.judgement import AS_SHOWN, FIGURES, Interval, Judgement, judge

RANKING: Final = FIGURES[FIGURES.index("page_auc") :]
SLICED: Final = ("auc", "page_auc", "session_auc")
TITLES: Final = {
    "auc": "auc", "log_loss": "log loss", "normalised_entropy": "norm. entropy", "calibration": "calibration",
    "page_auc": "page auc", "page_ndcg": "page ndcg@10", "page_hit_rate": "page hr@10",
    "session_auc": "session auc", "session_ndcg": "session ndcg@10", "session_hit_rate": "session hr@10",
}  # fmt: skip

Judgements = Mapping[str, Sequence[Judgement]]  # of each entrant: of all and of each slice


def judgements(scores: Scores) -> Judgements:
    """Of all entrants, and of the order in which items were shown if pages have more than one."""
    predictions = dict(zip(scores.names, scores.predictions, strict=True))
    if scores.positions.any():
        predictions[AS_SHOWN] = -scores.positions.astype(np.float32)
    found: dict[str, list[Judgement]] = {name: [] for name in predictions}
    for of in (np.ones(len(scores.labels), np.bool_), *scores.members.T):
        rows = scores.rows.take(of)
        for name, p in predictions.items():
            found[name].append(judge(p[of], rows, scores.users))
    return found


def figures(scores: Scores, judged: Judgements) -> dict[str, float]:
    """One flat object: `wide.auc`, `wide,deep.log_loss`, `vw.auc[user.gender=F]`, and counts; `…_low` and `…_high` of
    intervals; `vw.auc_gain` over the first entrant."""
    found: dict[str, float] = {"pages": scores.pages, "untold": scores.unlabelled, "broken": scores.rejected}
    for i, name in enumerate(scores.names):
        for part, of in scores.figures(i).items():
            for key, value in of.named().items():
                if np.isfinite(value):  # there is no calibration without an install
                    found[f"{name}.{key}" if part == ALL else f"{name}.{key}[{part}]"] = value
        if not np.isnan(scores.arrivals[i]):
            found[f"{name}.auc_arrival"] = scores.arrivals[i]
        found[f"{name}.examples_s"] = scores.learned / scores.seconds[i]
    for name, parts in judged.items():
        for slice_name, one in zip(("", *scores.slices), parts, strict=True):
            where = f"[{slice_name}]" if slice_name else ""
            for key in RANKING if name == AS_SHOWN else FIGURES:
                found |= named(f"{name.replace(' ', '_')}.{key}", where, one.of(key), with_value=key in RANKING)
    for name in scores.names[1:]:
        for key in FIGURES:
            gain = judged[name][0].gain_over(judged[scores.names[0]][0], key)
            found |= named(f"{name}.{key}_gain", "", gain, with_value=True)
    return found


def named(name: str, where: str, one: Interval, *, with_value: bool) -> dict[str, float]:
    """The entries of one figure: its value if wanted, `…_low` and `…_high`; none where they aren't defined."""
    values = {"": one.value} if with_value else {}
    values |= {"_low": one.low, "_high": one.high}
    return {f"{name}{end}{where}": value for end, value in values.items() if np.isfinite(value)}


def scores_table(scores: Scores) -> Table:
    """All entrants side by side."""
    heads = ("", "auc", "auc_arrival", "log loss", "norm. entropy", "calibration", "examples", "examples/s")
    method = f"each page predicted when it was shown, learned when its label was emitted; {scores.pages:,} pages"
    extra = [f"{scores.unlabelled:,} items without a label"] * bool(scores.unlabelled)
    extra += [f"{scores.rejected:,} events left out"] * bool(scores.rejected)
    shared = (
        f"examples/s: its own predicting and learning; features and join took {scores.seconds_shared:.1f} s for all"
    )
    table = Table(*heads, title="backtest", caption="\n".join(["; ".join([method, *extra]), shared]),
                  title_justify="left", caption_justify="left", min_width=len(shared))  # fmt: skip
    justify(table)
    for i, name in enumerate(scores.names):
        of = scores.figures(i)[ALL]
        arrival = "-" if np.isnan(scores.arrivals[i]) else f"{scores.arrivals[i]:.4f}"
        speed = f"{scores.learned / scores.seconds[i]:,.0f}"
        table.add_row(name, f"{of.auc:.4f}", arrival, f"{of.log_loss:.4f}", f"{of.normalised_entropy():.4f}",
                      calibration_text(of.calibration), f"{of.examples:,}", speed)  # fmt: skip
    return table


def intervals_table(scores: Scores, judged: Judgements) -> Table:
    """Each figure a row, with its 95 % interval; each entrant a column."""
    pages, sessions = judged[scores.names[0]][0].groups
    caption = (
        f"95 % by bootstrap over {scores.users:,} users; {pages:,} pages and {sessions:,} sessions have both labels"
    )
    table = Table("", *judged, title="figures with intervals", caption=caption, title_justify="left",
                  caption_justify="left", min_width=len(caption))  # fmt: skip
    justify(table)
    for key in FIGURES:
        cells = [interval_text(parts[0].of(key)) for parts in judged.values()]
        if AS_SHOWN in judged and key not in RANKING:
            cells[-1] = ""
        if set(cells) - {"-", ""}:
            table.add_row(TITLES[key], *cells)
    return table


def gains_table(scores: Scores, judged: Judgements) -> Table:
    """What the others' figures are above the first entrant's, paired by user."""
    first, *others = scores.names
    table = Table("", *others, title=f"above {first}: 95 %, paired by user", title_justify="left")
    justify(table)
    for key in FIGURES:
        gains = [judged[name][0].gain_over(judged[first][0], key) for name in others]
        if any(np.isfinite(gain.value) for gain in gains):
            table.add_row(TITLES[key], *(interval_text(gain, sign="+") for gain in gains))
    return table


def slices_table(scores: Scores, judged: Judgements, key: str) -> Table:
    """A figure of all entrants by slice."""
    table = Table("slice", "examples", "label rate", *scores.names, title=f"{TITLES[key]} by slice",
                  title_justify="left")  # fmt: skip
    justify(table)
    for s, name in enumerate(scores.slices):
        labels = scores.labels[scores.members[:, s]]
        cells = [interval_text(judged[entrant][1 + s].of(key)) for entrant in scores.names]
        table.add_row(escape(name), f"{len(labels):,}", f"{labels.mean():.3f}" if len(labels) else "-", *cells)
    return table


def tables(scores: Scores, judged: Judgements) -> list[Table]:
    """All of them."""
    found = [scores_table(scores), intervals_table(scores, judged)]
    if len(scores.names) > 1:
        found.append(gains_table(scores, judged))
    if scores.slices:
        found += [slices_table(scores, judged, key) for key in SLICED if _has(judged, key)]
    return found


def _has(judged: Judgements, key: str) -> bool:
    return any(np.isfinite(part.of(key).value) for parts in judged.values() for part in parts[1:]) or key == "auc"


def interval_text(one: Interval, sign: str = "", digits: int = 4) -> str:
    """A figure in a table, with its interval if it has one; - where it isn't defined.

    >>> interval_text(Interval(0.77, 0.7661, 0.774)), interval_text(Interval(0.01, 0.008, 0.0125), "+")
    ('0.7700 [0.7661, 0.7740]', '+0.0100 [+0.0080, +0.0125]')
    """
    if not np.isfinite(one.value):
        return "-"
    form = f"{sign}.{digits}f"
    return f"{one.value:{form}}" + (f" [{one.low:{form}}, {one.high:{form}}]" if one.is_known else "")


def justify(table: Table) -> None:
    """Numbers to the right, all but the first column."""
    for column in table.columns[1:]:
        column.justify = "right"
