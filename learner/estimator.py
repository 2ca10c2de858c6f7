"""The model as a River classifier: dicts of features in, probabilities out, beside River's own models."""

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, Final

import msgspec
import numpy as np
from river import base

from learner.checkpoints.checkpoint import Checkpoint, Meta, restore, take
from learner.training.model import Model
from stream.events.types import INSTALLED, WEIGHT_MAX, WEIGHT_MIN, WINDOW_CLOSED, Examples, Impression, Value
from stream.features.page_features import Catalogue, build_page
from stream.spec.spec import Spec
from stream.spec.spec_file import checked_spec, decode_spec, encode_spec
from stream.tables.dtypes import U64

MORE: Final = "more"  # the column that values without their own column share


class WideAndDeep(base.Classifier):
    """Joint Wide & Deep (Cheng et al. 2016) for two classes, learned example by example.

    Texts, bools and lists of texts are categories; numbers are read as quantiles. None, NaN and infinite numbers are
    missing values. The first learned example fixes the columns; later features of a new name, or with a text where a
    number was, share one more column.

    Parameters
    ----------
    wide
        Features of the part that memorises: names of categories, lists of names for their cross-products. A number
        named here is a category (an id). None: every text and list of the first example, and all numbers by their
        size; []: no wide part.
    deep
        Features of the part that generalises, of any kind. None: all of the first example; []: no deep part.
    statistics
        Streaming numbers for the deep part, by one category or a pair, such as
        `{"seen": {"kind": "count", "by": ["user"]}}`. Kinds are a spec's kinds by fields, such as `rate`, `count` and
        `residual`, over labels learned before.
    alpha, l1, l2
        FTRL-Proximal's learning rate and regularisation, of the wide part.
    base_rate
        The share of positives that you expect: predictions start there.
    learning_rate, hidden_units, embedding_dim
        AdaGrad's rate, the ReLU layers and the width of embeddings, of the deep part.
    min_count
        The sighting at which a category's value gets an embedding of its own.
    seed
        Initialises the layers.

    Raises SpecError for invalid parameters; `model` is the model behind it, once it has learned something.

    Examples
    --------
    >>> from river import datasets, evaluate, metrics
    >>> auc = evaluate.progressive_val_score(datasets.Phishing(), WideAndDeep(), metrics.ROCAUC())
    >>> bool(auc.get() > 0.95)
    True

    >>> model = WideAndDeep(wide=["user", ["user", "genre"]], deep=["genre", "age"])
    >>> for _ in range(9):
    ...     model.learn_one({"user": "ann", "genre": ["drama", "war"], "age": 41}, True)
    >>> model.predict_one({"user": "ann", "genre": ["war"], "age": 41})
    True
    """

    def __init__(  # River clones estimators by the keyword parameters of their constructor
        self,
        wide: Sequence[str | Sequence[str]] | None = None,
        deep: Sequence[str] | None = None,
        statistics: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        alpha: float = 0.05,
        l1: float = 0.0,
        l2: float = 0.0,
        base_rate: float = 0.5,
        learning_rate: float = 0.02,
        hidden_units: Sequence[int] = (128, 64),
        embedding_dim: int = 16,
        min_count: int = 2,
        seed: int = 0,
    ) -> None:
        self.wide, self.deep, self.statistics = wide, deep, statistics
        self.alpha, self.l1, self.l2, self.base_rate = alpha, l1, l2, base_rate
        self.learning_rate, self.hidden_units = learning_rate, hidden_units
        self.embedding_dim, self.min_count, self.seed = embedding_dim, min_count, seed
        self.model: Model | None = None
        self._spec({"": ""})  # invalid parameters are rejected now, not at the first example

    def learn_one(self, x: Mapping[Any, Any], y: Any, w: float = 1.0) -> None:
        """Learn one example. Raises ValueError when y isn't True or False (or 1 or 0), or w out of bounds."""
        if not isinstance(y, bool | np.bool_ | int | float | np.number) or y not in (0, 1):
            raise ValueError(f"y is True or False (or 1 or 0), not {y!r}: this model knows two classes")
        if not WEIGHT_MIN <= w <= WEIGHT_MAX:
            raise ValueError(
                f"w is {WEIGHT_MIN:g} to {WEIGHT_MAX:g}, not {w!r}: leave out examples that must not be learned"
            )
        features = _plain(x)
        if self.model is None:
            self._set_model(Model(self._spec(features), self.seed))
        assert self.model is not None
        number = self.model.examples + 1  # its id, and its time: a half-life of "100ms" is one of 100 examples
        page = Impression("page", number, "user", ["item"], features=self._page(self.model, features).tobytes())
        reason = INSTALLED if y else WINDOW_CLOSED
        self.model.learn([Examples(page, [number], [0], [int(y)], [float(w)], [reason], [number])], number)
        assert not self.model.rejected, f"its own page was rejected: {self.model.rejected}"
        self.model.installs.clear()  # no publisher takes them

    def predict_proba_one(self, x: Mapping[Any, Any], **_: Any) -> dict[Any, float]:
        """P(False), P(True); a half each before anything was learned."""
        p = 0.5 if self.model is None else float(self.model.predict(self._page(self.model, _plain(x)))[0])
        return {False: 1.0 - p, True: p}

    def _spec(self, features: Mapping[str, Value | None]) -> Spec:
        """The spec of a model with this first example. Raises SpecError."""
        texts = sorted(name for name, value in features.items() if isinstance(value, str | list))
        crosses = [
            [c] if not isinstance(c, list | tuple) else list(c) for c in (texts if self.wide is None else self.wide)
        ]
        deep = sorted(features) if self.deep is None else list(map(str, self.deep))
        statistics = {name: dict(one) for name, one in (self.statistics or {}).items()}
        kinds = {str(name): "categories" for names in crosses for name in names}
        kinds |= {str(name): "categories" for one in statistics.values() for name in one.get("by", [])}
        kinds = {**{name: "categories" if name in texts else "number" for name in deep}, **kinds, MORE: "categories"}
        raw = {
            "name": "river",
            "parts": [part for part in ("wide", "deep") if getattr(self, part) is None or len(getattr(self, part))],
            "user": {"id": "category"},
            "item": {"id": "category"},
            "context": {_column(name).split(".", 1)[1]: kind for name, kind in kinds.items()},
            "statistics": {
                name: {**one, "by": list(map(_column, one.get("by", [])))} for name, one in statistics.items()
            },
            "wide": {
                "alpha": self.alpha, "l1": self.l1, "l2": self.l2, "features": [_column(MORE)],
                "crosses": [list(map(_column, names)) for names in crosses],
            },
            "label": {"base_rate": self.base_rate},
            "publish": {"gate": {"holdout": 0.0}},  # it learns every example
            "deep": {
                "features": [*map(_column, [*deep, MORE]), "statistics.*"], "embedding_dim": self.embedding_dim,
                "hidden_units": list(self.hidden_units), "learning_rate": self.learning_rate,
                "min_count": self.min_count, "micro_batch": 1, "warm_start": {"window": 1},
            },
        }  # fmt: skip
        return checked_spec(raw, "WideAndDeep")

    def _set_model(self, model: Model) -> None:
        self.model = model
        self._kinds = {name: column.type for name, column in model.layout.columns.items()}
        self._catalogue = Catalogue(model.layout)  # empty: row 0 is an unknown item

    def _page(self, model: Model, features: Mapping[str, Value | None]) -> U64:
        """The example as a page of one item, its features in the context's columns."""
        context: dict[str, Value] = {}
        more: list[str] = []
        for name, value in features.items():
            column = _column(name)
            kind = self._kinds.get(column)
            if value is None:
                continue
            if fits := kind == "categories" or (kind == "number" and isinstance(value, float)):
                context[column.split(".", 1)[1]] = value
            named = self.wide is not None and (kind is not None or self.deep is not None)
            if (kind != "categories" and not named) or (kind == "number" and not fits):
                more += _as_texts(name, value)
        context[_column(MORE).split(".", 1)[1]] = sorted(more)
        words = build_page(model.layout, model.layout.user("", {}, [], context), self._catalogue, np.zeros(1, np.int64))
        model.statistics.fill(words, model.examples + 1)
        return words

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: the parameters, and the model's spec and checkpoint."""
        state = {name: value for name, value in self.__dict__.items() if name not in ("_kinds", "_catalogue")}
        if self.model is not None:
            checkpoint = take(self.model, 0, 0, 0)
            state["model"] = encode_spec(self.model.spec), msgspec.json.encode(checkpoint.meta), checkpoint.arrays
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """What `__getstate__` returned."""
        self.__dict__.update(state)
        if state["model"] is not None:
            spec, meta, arrays = state["model"]
            checkpoint = Checkpoint(msgspec.json.decode(meta, type=Meta), arrays)
            self._set_model(restore(decode_spec(spec), checkpoint, self.seed))


def _column(name: Any) -> str:
    """A feature's column. `MORE` can't clash with one: theirs have a dot."""
    return f"context.{name}" if name is MORE else f"context.x.{name}"


def _plain(x: Mapping[Any, Any]) -> dict[str, Value | None]:
    """Features as texts, lists of texts, or finite numbers; None: missing."""
    return {str(name): _value(value) for name, value in x.items()}


def _value(value: Any) -> Value | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool | np.bool_):
        return str(bool(value))
    if isinstance(value, Real):
        number = float(value)
        return number if math.isfinite(number) else None
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    if isinstance(value, list | tuple | np.ndarray):
        return [str(one) for one in value]
    return str(value)


def _as_texts(name: str, value: Value) -> list[str]:
    """Categories for the shared column: a number by its size, four steps to each power of two."""
    if isinstance(value, float):
        part, power = math.frexp(value)
        return [f"{name}~{int(8 * part)} {power}"]
    return [f"{name}={text}" for text in ([value] if isinstance(value, str) else value)]
