"""The model among River's: the same predictions as without it, in River's own loop and under River's own checks."""

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import river.checks
from river import compose, datasets, evaluate, linear_model, metrics, preprocessing
from river.datasets import synth

from learner.estimator import WideAndDeep
from learner.training.model import Model
from stream.events.types import INSTALLED, WINDOW_CLOSED, Examples, Impression
from stream.features.page_features import Catalogue, build_page
from stream.runtime.errors import SpecError

SMALL: dict[str, Any] = {"hidden_units": (8, 4), "embedding_dim": 4}
Row = tuple[dict[str, Any], bool]


def rows(count: int, seed: int = 0) -> list[Row]:
    """Most like war, some only art, the old a little of everything."""
    random = np.random.default_rng(seed)
    made: list[Row] = []
    for _ in range(count):
        user, age, genre = int(random.integers(20)), float(random.integers(20, 60)), str(random.choice(["war", "art"]))
        tags = [f"t{n}" for n in random.integers(5, size=random.integers(3))]
        y = random.random() < (0.8 if (user % 4 > 0) == (genre == "war") else 0.1) + (0.1 if age > 40 else 0.0)
        made.append(({"user": f"u{user}", "genre": genre, "tags": tags, "age": age}, bool(y)))
    return made


def auc(data: list[Row], model: Any, **how: Any) -> float:
    """By River's progressive validation."""
    judge = metrics.ROCAUC()  # type: ignore[no-untyped-call]  # River's class has no types
    return float(evaluate.progressive_val_score(data, model, judge, **how).get())  # type: ignore[arg-type]  # names are texts


def scored(model: WideAndDeep, data: list[Row]) -> list[float]:
    """P(True) of each, then it is learned."""
    found = []
    for x, y in data:
        found.append(model.predict_proba_one(x)[True])
        model.learn_one(x, y)
    return found


def test_it_predicts_what_the_model_does_without_it() -> None:
    """The same examples as pages that were built by hand, through the model alone: the same predictions."""
    data = rows(200)
    estimator = WideAndDeep(
        wide=["user", ["user", "genre"]], deep=["genre", "tags", "age"],
        statistics={"liked": {"kind": "rate", "by": ["user"]}, "seen": {"kind": "count", "by": ["genre"]}},
        alpha=0.5, **SMALL,
    )  # fmt: skip
    found = scored(estimator, data)
    assert estimator.model is not None
    model = Model(estimator.model.spec)
    assert [cross.of for cross in model.spec.crosses()] == [
        ["context.more"], ["context.x.user"], ["context.x.user", "context.x.genre"],
    ]  # fmt: skip
    nobody = Catalogue(model.layout).rows(["nobody"]) * 0
    for n, (x, y) in enumerate(data):
        context = {f"x.{name}": value for name, value in x.items()}
        words = build_page(model.layout, model.layout.user("", {}, [], context), Catalogue(model.layout), nobody)
        model.statistics.fill(words, n + 1)
        page = Impression("", n + 1, "", ["nobody"], features=words.tobytes())
        reason = INSTALLED if y else WINDOW_CLOSED
        model.learn([Examples(page, [n + 1], [0], [int(y)], [1.0], [reason], [1])], n)
    np.testing.assert_allclose(found[1:], model.progress.state.recent[0, 0, 1 : len(data)], rtol=1e-5)
    assert np.std(found[100:]) > 0.05


def test_copies_go_on_as_the_original() -> None:
    """A copy, as pickles and River make them, has learned the same and learns the same; neither touches the other."""
    data = rows(150)
    whole = WideAndDeep(**SMALL)
    half = WideAndDeep(**SMALL)
    expected = scored(whole, data)
    scored(half, data[:80])
    copied = copy.deepcopy(half)
    assert scored(copied, data[80:]) == expected[80:]
    assert scored(half, data[80:]) == expected[80:]
    assert whole.clone().predict_proba_one(data[0][0]) == {False: 0.5, True: 0.5}, "a clone hasn't learned"


def test_it_runs_beside_rivers_own() -> None:
    """In River's loop, on River's data, over numbers and texts, it does what a linear model can't: see crosses."""
    data = list(synth.Agrawal(seed=1).take(1_000))
    ours = auc(data, WideAndDeep())
    encoded = preprocessing.StandardScaler() | linear_model.LogisticRegression()
    theirs = auc(data, encoded)
    assert ours > theirs + 0.1
    assert ours > 0.75


def test_it_runs_in_rivers_pipelines_and_with_delayed_labels() -> None:
    """As the last step of a pipeline; each example predicted when it comes, learned when its label does."""
    model = compose.Discard("age") | WideAndDeep(**SMALL)
    data = [({**x, "at": n}, y) for n, (x, y) in enumerate(rows(600))]
    assert auc(data, model, moment="at", delay=20) > 0.6
    assert not any("age" in name for name in model["WideAndDeep"].model.spec.context)


def checks() -> list[Callable[[Any], None]]:
    """River's own checks of an estimator, over the data of River's that needs no other package."""

    def phishing(_model: Any, scale: int = 1) -> Iterator[Any]:
        yield list(datasets.Phishing().take(60 * scale))
        yield [(x, np.bool_(y)) for x, y in datasets.Phishing().take(60)]

    patch = pytest.MonkeyPatch()
    patch.setattr(river.checks, "_yield_datasets", phishing)
    with patch.context():
        found = list(river.checks.yield_checks(WideAndDeep()))
    patch.undo()
    return found


@pytest.mark.parametrize("check", checks(), ids=lambda check: check.__name__)
def test_rivers_own_checks(check: Callable[[Any], None]) -> None:
    """Whatever River asks of its own classifiers: features come, go and change order, copies, no side effects."""
    check(WideAndDeep(**SMALL).clone())


def test_features_may_come_late_and_change_kind() -> None:
    """What had no column at first is learned all the same: new names, texts where numbers were, numbers for texts."""
    model = WideAndDeep(**SMALL)
    model.learn_one({"age": 3.0, "user": "ann"}, True)
    for n in range(200):
        model.learn_one({"age": "unknown" if n % 2 else 3.0, "user": float(n % 5)}, bool(n % 2))
        model.learn_one({"colour": "red" if n % 2 else "blue", "tags": ["a"] if n % 2 else ["b"]}, bool(n % 2))
        model.learn_one({"size": 1.0 if n % 2 else -80.0}, bool(n % 2))
    for good, bad in (
        ({"age": "unknown"}, {"age": 3.0}), ({"colour": "red"}, {"colour": "blue"}), ({"tags": ["a"]}, {"tags": ["b"]}),
        ({"size": 1.1}, {"size": -90.0}),
    ):  # fmt: skip
        assert model.predict_proba_one(good)[True] > 0.8 > 0.2 > model.predict_proba_one(bad)[True]


def test_the_order_of_features_is_of_no_account() -> None:
    """Names are sorted: the same features in another order are the same example."""
    data = rows(60)
    turned = [(dict(reversed(x.items())), y) for x, y in data]
    assert scored(WideAndDeep(**SMALL), data) == scored(WideAndDeep(**SMALL), turned)


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf, np.float32("nan")])
def test_what_is_no_number_is_missing(value: Any) -> None:
    """None, NaN and infinities are as if the feature weren't there, and everything stays finite."""
    data = rows(100)
    without = [({k: v for k, v in x.items() if n % 3 or k != "age"}, y) for n, (x, y) in enumerate(data)]
    given = [({k: v if n % 3 or k != "age" else value for k, v in x.items()}, y) for n, (x, y) in enumerate(data)]
    whole = {"wide": ["user"], "deep": ["age", "genre"], **SMALL}
    assert scored(WideAndDeep(**whole), given) == scored(WideAndDeep(**whole), without)


@pytest.mark.parametrize("y", ["spam", None, math.nan, 2, -1, 0.5, [1]])
def test_a_label_that_is_none_is_refused(y: Any) -> None:
    """Two classes: anything but True, False, 1, 0 is an error that says so, and nothing is learned of it."""
    data = rows(50)
    model, other = WideAndDeep(**SMALL), WideAndDeep(**SMALL)
    scored(model, data[:30])
    scored(other, data[:30])
    with pytest.raises(ValueError, match="two classes"):
        model.learn_one(data[30][0], y)
    assert scored(model, data[30:]) == scored(other, data[30:])


@pytest.mark.parametrize("weight", [0.0, -1.0, math.nan, math.inf, 1e7, 1e-300])
def test_a_weight_that_cant_be_is_refused(weight: float) -> None:
    """Above 0 also in 32 bits, and finite, or an error; a good one counts."""
    model, heavy, light = WideAndDeep(**SMALL), WideAndDeep(**SMALL), WideAndDeep(**SMALL)
    with pytest.raises(ValueError, match="w is 1e-06 to 1e"):
        model.learn_one({"user": "ann"}, True, weight)
    assert model.model is None
    heavy.learn_one({"user": "ann"}, True, w=5.0)
    light.learn_one({"user": "ann"}, True)
    assert heavy.predict_proba_one({"user": "ann"})[True] > light.predict_proba_one({"user": "ann"})[True]


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"wide": [], "deep": []}, "parts must name"),
        ({"alpha": -1.0}, "wide.alpha"),
        ({"alpha": math.inf}, "finite"),
        ({"hidden_units": [0]}, "hidden_units"),
        ({"wide": [["a", "a"]]}, "different columns"),
        ({"statistics": {"s": {"kind": "rat", "by": ["a"]}}}, "did you mean 'rate'"),
        ({"statistics": {"s": {"kind": "rate", "by": []}}}, "one field or a pair"),
    ],
)
def test_parameters_that_cant_be_are_refused_at_once(parameters: dict[str, Any], words: str) -> None:
    """Before any example, with what is wrong."""
    with pytest.raises(SpecError, match=words):
        WideAndDeep(**parameters)


def test_each_part_can_be_left_out() -> None:
    """`[]` leaves a part out; both halves learn on their own."""
    choices: list[dict[str, Any]] = [{"wide": []}, {"deep": []}, {}]
    for parameters in choices:
        model = WideAndDeep(**parameters)
        data = rows(800)
        found = np.array(scored(model, data)[400:])
        labels = np.array([y for _, y in data[400:]])
        assert found[labels].mean() > found[~labels].mean() + 0.05, parameters
        assert model.model is not None
        assert (model.model.deep is None) == ("deep" in parameters)
