"""Each arm's own rates in the store, at a base rate of 1 %.

`python -m benchmarks.tuning --world store` draws equally many for each, on runs that no experiment reports. Its best
were tried in longer runs, where deep's was unstable; Vowpal Wabbit has rates from before that are as good (decision
30), and wide & deep those of the spec (31).
"""

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import structs

from stream.spec.columns import Cross
from stream.spec.spec import Spec
from thalweg.backtest.peers import PeerRates

STORE: Final = "store"  # the spec that they belong to; other specs' arms all run on the spec's own rates
TUNED: Final[Mapping[str, Mapping[str, float]]] = {
    "wide": {
        "alpha": 0.1713,
        "l1": 2.0,
        "l2": 1.0,
        "item.id": 2.0,
        "user.history x item.id": 4.0,
        "user.history x item.category": 0.06,
    },
    "deep": {
        "learning_rate": 0.04289,
        "embedding_dim": 16.0,
        "embedding_rate": 0.03041,
        "layers": 2.0,
    },
    "vw": {"alpha": 0.1518, "beta": 2.25, "l1": 0.5, "l2": 0.0},
}

HIDDEN_UNITS: Final[Mapping[float, list[int]]] = {1: [64], 2: [128, 64]}  # of a tower of so many `layers`


def spec_of_arm(spec: Spec, arm: str) -> Spec:
    """The spec with this arm's rates."""
    return spec_with(spec, TUNED[arm]) if spec.name == STORE and arm in TUNED else spec


def peer_rates(spec: Spec) -> PeerRates:
    """Vowpal Wabbit's rates beside this spec; its defaults where it wasn't tuned."""
    return PeerRates(**TUNED["vw"]) if spec.name == STORE else PeerRates()


def spec_with(spec: Spec, rates: Mapping[str, float]) -> Spec:
    """The spec with these rates. A cross's is `alpha` × its own factor, such as "user.history x item.id", or `history`
    for those of the history."""
    wide, deep = spec.wide, spec.deep
    if "alpha" in rates:
        alpha = rates["alpha"]
        crosses: list[list[str] | Cross] = [
            Cross(of=one.of, alpha=alpha * _factor(one.of, rates)) for one in spec.crosses()[len(wide.features) :]
        ]
        wide = structs.replace(wide, alpha=alpha, l1=rates["l1"], l2=rates["l2"], crosses=crosses)
    if "learning_rate" in rates:
        deep = structs.replace(
            deep,
            learning_rate=rates["learning_rate"],
            embedding_dim=int(rates.get("embedding_dim", deep.embedding_dim)),
            embedding_rate=rates.get("embedding_rate", deep.embedding_rate),
            hidden_units=HIDDEN_UNITS[rates["layers"]] if "layers" in rates else deep.hidden_units,
        )
    return structs.replace(spec, wide=wide, deep=deep)


def _factor(columns: Sequence[str], rates: Mapping[str, float]) -> float:
    of_history = rates.get("history", 1.0) if "user.history" in columns else 1.0
    return rates.get(" x ".join(columns), of_history)
