"""The table of an experiment, beside the paper's; its figures as one flat object."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final, NamedTuple

import numpy as np
from rich.table import Table

from stream.tables.dtypes import F64
from thalweg.experiment.paired import SEEDS_MIN, PairedGain, paired_gain
from thalweg.experiment.seed_figures import ArmFigures, SeedFigures

BASELINE: Final = "wide"  # as in the paper
NORMAL: Final = 1.96  # standard errors of a 95 % interval
NO_GAIN: Final = PairedGain(*5 * [math.nan])


class PaperRow(NamedTuple):
    """Cheng et al. 2016, table 1: offline AUC, online acquisition gain over the wide model."""

    auc: float
    gain: float


PAPER: Final = {"wide": PaperRow(0.726, 0.0), "deep": PaperRow(0.722, 0.029), "wide_deep": PaperRow(0.728, 0.039)}


@dataclass(frozen=True)
class Row:
    """An arm over all seeds: means, and gains over the baseline, paired by seed. NaN: not measured."""

    arm: str
    auc: float
    group_auc: float
    page_auc: float
    page_ndcg: float
    errors: Mapping[str, float]  # standard errors of the mean over seeds, of the figures in ERRORS
    calibration: float
    installs: float  # per 1,000 items
    expected: float  # per 1,000 items
    raw_installs: float
    raw_expected: float
    gain: PairedGain  # of expected installs
    gain_installs: PairedGain
    same_pages: float  # expected installs per 1,000 items, on pages that all rank
    gain_same_pages: PairedGain
    gap_closed: float
    coverage: float
    regret: float  # expected installs per 1,000 items below the oracle's


def rows(seeds: Sequence[SeedFigures], baseline: str = BASELINE) -> list[Row]:
    """Of each arm, the shadows last. Without the baseline's arm no gains."""
    return [_row(seeds, name, baseline) for name in (*seeds[0].arms, *seeds[0].shadows)]


def gain_over(seeds: Sequence[SeedFigures], arm: str, baseline: str, *, of: str = "expected") -> PairedGain:
    """An arm's relative gain over another's, by seed; of expected or counted installs.

    None where an arm has no page in some seed, or the baseline no install: as in short runs at low rates.
    """
    if baseline not in seeds[0].arms or arm == baseline:
        return NO_GAIN
    values, base = (np.array([getattr(_arm(seed, name), of) for seed in seeds]) for name in (arm, baseline))
    if not (np.isfinite(values).all() and (base > 0).all()):
        return NO_GAIN
    return gain_of(values, base)


def same_pages_gain(seeds: Sequence[SeedFigures], arm: str, baseline: str) -> PairedGain:
    """An arm's relative gain over another's, by seed, of expected installs on pages that both have ranked."""
    if arm == baseline or not all({arm, baseline} <= set(seed.same_pages) for seed in seeds):
        return NO_GAIN
    values, base = (np.array([seed.same_pages[name] for seed in seeds]) for name in (arm, baseline))
    return gain_of(values, base)


def gain_of(values: F64, baseline: F64) -> PairedGain:
    """The gain of values over a baseline, both [seeds]; with few seeds its interval is Student's t."""
    gain = paired_gain(values, baseline, 0)
    return gain if len(values) >= SEEDS_MIN else gain._replace(low=gain.t_low, high=gain.t_high)


def figures(seeds: Sequence[SeedFigures], baseline: str = BASELINE) -> dict[str, float]:
    """One flat object: by arm `auc_ARM`, `expected_ARM`, `acquisition_gain_ARM`, …; of wide_deep shorter ones, too."""
    found: dict[str, float] = {
        "seeds": len(seeds),
        "pages": seeds[0].pages,
        "base_rate": _mean(seeds, lambda s: s.base_rate),
    }
    for row in rows(seeds, baseline):
        one = {
            "auc": row.auc, "group_auc": row.group_auc, "page_auc": row.page_auc, "page_ndcg": row.page_ndcg,
            "calibration": row.calibration, "installs": row.installs,
            "expected": row.expected, "raw_installs": row.raw_installs, "raw_expected": row.raw_expected,
            "gap_closed": row.gap_closed, "coverage": row.coverage, "regret": row.regret,
            "acquisition_gain": row.gain.gain, "gain_low": row.gain.low, "gain_high": row.gain.high,
            "gain_t_low": row.gain.t_low, "gain_t_high": row.gain.t_high,
            "installs_gain": row.gain_installs.gain, "installs_gain_low": row.gain_installs.low,
            "installs_gain_high": row.gain_installs.high, "same_pages": row.same_pages,
            "same_pages_gain": row.gain_same_pages.gain, "same_pages_gain_low": row.gain_same_pages.low,
            "same_pages_gain_high": row.gain_same_pages.high,
        }  # fmt: skip
        one |= {f"error_{name}": error for name, error in row.errors.items()}
        found |= {f"{key}_{row.arm}": value for key, value in one.items()}
    for name, values in regrets(seeds).items():
        found |= {f"regret_{name}_{period}": float(value) for period, value in enumerate(values, 1)}
    if "wide_deep" in seeds[0].arms:
        found |= {"gain_low": found["gain_low_wide_deep"], "gain_high": found["gain_high_wide_deep"],
                  "gap_closed": found["gap_closed_wide_deep"]}  # fmt: skip
        for other in ("deep", "vw", "popular"):
            for name, over in (
                ("gain_over", gain_over(seeds, "wide_deep", other)),
                ("same_pages_gain_over", same_pages_gain(seeds, "wide_deep", other)),
            ):
                found |= {
                    f"{name}_{other}": over.gain,
                    f"{name}_{other}_low": over.low,
                    f"{name}_{other}_high": over.high,
                }
    found["versions_rejected"] = sum(seed.versions_rejected for seed in seeds)
    return {name: value for name, value in found.items() if math.isfinite(value)}


def table(seeds: Sequence[SeedFigures], title: str, baseline: str = BASELINE) -> Table:
    """All arms, the paper's figures beside ours."""
    heads = (
        "arm", "AUC", "paper", "group AUC", "page AUC", "calibration", "installs ‰", "expected ‰",
        f"gain over {baseline}", "paper", "gain by installs", "on the same pages", "gap closed", "apps shown",
    )  # fmt: skip
    caption = (
        "AUC: all traffic, each page predicted when it was shown; group AUC within users, page AUC within pages;\n"
        "±: 95 % by bootstrap over users. ‰: per 1,000 shown items. Gains: of the installs to be expected of what was\n"
        "shown, by the world's truth, and of installs as counted; 95 %, paired by seed. Both are adjusted for how the\n"
        "arms' users differ. On the same pages: of what each would have shown on every tenth page, whoever served it.\n"
        "Gap closed: between popular and oracle. oracle and random serve nobody: what they would have shown everywhere."
    ) + few_seeds(len(seeds))
    made = Table(*heads, title=title, caption=caption, title_justify="left", caption_justify="left")
    for column in made.columns[1:]:
        column.justify = "right"
    for row in rows(seeds, baseline):
        paper = PAPER.get(row.arm)
        made.add_row(
            row.arm, _number(row.auc, 4), f"{paper.auc:.3f}" if paper else "", _with_error(row, "group_auc"),
            _with_error(row, "page_auc"), _number(row.calibration, 3), _number(row.installs, 2),
            _number(row.expected, 2), gain_text(row.gain), f"{paper.gain:+.1%}" if paper else "",
            gain_text(row.gain_installs), gain_text(row.gain_same_pages), _share(row.gap_closed), _share(row.coverage),
        )  # fmt: skip
    return made


def regrets(seeds: Sequence[SeedFigures]) -> Mapping[str, F64]:
    """Of each arm and `random`: expected installs per 1,000 items below the oracle's, over time; mean over seeds.

    In a short run an arm may have no page in a period: such seeds are left out of its mean, and arms without any page.
    """
    arms = {name: [seed.arms[name].regret for seed in seeds] for name in seeds[0].arms}
    arms["random"] = [seed.shadows["random"].regret for seed in seeds]
    means = {name: np.ma.masked_invalid(values).mean(axis=0).filled(np.nan) for name, values in arms.items()}
    return {name: values for name, values in means.items() if np.isfinite(values).any()}


def few_seeds(seeds: int) -> str:
    """What a caption adds where a bootstrap over seeds can't be a 95 % interval; empty with enough seeds."""
    return "" if seeds >= SEEDS_MIN else f"\nWith fewer than {SEEDS_MIN} seeds intervals are Student's t."


def gain_text(gain: PairedGain) -> str:
    """A gain with its interval, if it has one; empty: no gain.

    >>> gain_text(PairedGain(0.0391, 0.031, 0.0469, 0.03, 0.048))
    '+3.9 % [+3.1, +4.7]'
    """
    if not math.isfinite(gain.gain):
        return ""
    if not math.isfinite(gain.low):
        return f"{100 * gain.gain:+.1f} %"
    return f"{100 * gain.gain:+.1f} % [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]"


def _row(seeds: Sequence[SeedFigures], arm: str, baseline: str) -> Row:
    def mean(name: str) -> float:
        return _mean(seeds, lambda seed: getattr(_arm(seed, arm), name))

    def learner(name: str) -> float:
        return _mean(seeds, lambda seed: getattr(seed.learners[arm], name)) if arm in seeds[0].learners else math.nan

    return Row(
        arm, learner("auc"), learner("group_auc"), learner("page_auc"), learner("page_ndcg"), _errors(seeds, arm),
        learner("calibration"), mean("installs"), mean("expected"),
        mean("raw_installs"), mean("raw_expected"),
        gain_over(seeds, arm, baseline), gain_over(seeds, arm, baseline, of="installs"),
        _mean(seeds, lambda seed: seed.same_pages.get(arm, math.nan)), same_pages_gain(seeds, arm, baseline),
        mean("gap_closed"),
        mean("coverage"), _mean(seeds, lambda seed: _known_mean(_arm(seed, arm).regret)),
    )  # fmt: skip


def _errors(seeds: Sequence[SeedFigures], arm: str) -> dict[str, float]:
    """Of the mean over seeds, which have users of their own."""
    if arm not in seeds[0].learners:
        return {}
    found = [seed.learners[arm].errors for seed in seeds]
    return {name: math.sqrt(sum(one[name] ** 2 for one in found)) / len(found) for name in found[0]}


def _arm(seed: SeedFigures, name: str) -> ArmFigures:
    found: Mapping[str, ArmFigures] = {**seed.arms, **seed.shadows}
    return found[name]


def _mean(seeds: Sequence[SeedFigures], of: Callable[[SeedFigures], float]) -> float:
    return float(np.mean([of(seed) for seed in seeds]))


def _known_mean(values: Sequence[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return fmean(known) if known else math.nan


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else ""


def _with_error(row: Row, name: str) -> str:
    value, error = getattr(row, name), row.errors.get(name, math.nan)
    return _number(value, 4) + (f" ±{NORMAL * error:.4f}" if math.isfinite(value + error) else "")


def _share(value: float) -> str:
    return f"{value:.1%}" if math.isfinite(value) else ""
