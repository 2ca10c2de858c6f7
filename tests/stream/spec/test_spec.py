"""The spec: what it means, what it refuses and with which words, and how it travels."""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.features.page_features import Layout
from stream.joiner.label_rules import label_rules
from stream.runtime.errors import SpecError
from stream.spec.columns import Column, Cross
from stream.spec.retrieval import Kept
from stream.spec.spec import Spec
from stream.spec.spec_file import decode_spec, encode_spec, load_spec, parse_spec
from stream.spec.values import duration_ms
from tests.support.feature_pages import SPEC

SPECS = sorted((Path(__file__).resolve().parents[3] / "specs").glob("*.toml"))

TEXT = """\
name = "shop"                     # 1
parts = ["wide", "deep"]
[user]
id = "category"
age = { type = "number", bands = [18, 40] }
history = { of = "item.id", last = 5 }
[item]
id = "category"
tags = "categories"
price = "number"                  # 10
[context]
position = { type = "number", serve_as = 1 }
[statistics]
rate = { kind = "rate", by = ["item.id"], prior = 5 }
taste = { kind = "residual", by = ["user.id", "item.tags"], half_life = "1h" }
alike = { kind = "affinity", of = "item.id", to = "user.history" }
[wide]
alpha = 0.1
l1 = 0.5
features = ["user.id"]            # 20
crosses = [
  ["user.history", "item.id"],
  { of = ["user.age_band", "item.tags"], alpha = 0.2 },
]
[deep]
features = ["user.age", "item.tags", "context.position", "statistics.*"]
hidden_units = [8, 4]
quantiles = 8
warm_start = { every = 300, window = 200 }
[label]                           # 30
policy = "eager"
window = "2s"
[publish]
every = "250ms"
[publish.gate]
calibration = [0.8, 1.25]
[slices]
"item.tags" = ["new", "old"]
"user.age_band" = ["0", "2"]
"""

EAGER_2S = 'policy = "eager"\nwindow = "2s"'
DELAYED = 'policy = "delayed_negative"\nwindow = "2s"\n'
ORGANIC = 'rate = { kind = "count", of = "organic", by = ["item.id"], half_life = "7d" }'

# (what stands in TEXT, what a person wrote instead, the line that is named, the words that help)
REFUSALS = [
    # unknown keys, on every level
    ('name = "shop"', 'nmae = "shop"', 1, "unknown key 'nmae' at the top level; did you mean 'name'"),
    ("[label]", "[labels]", 30, "unknown key 'labels' at the top level; did you mean 'label'"),
    ("[label]", "[zzz]", 30, "unknown key 'zzz' at the top level; known are context, deep"),
    ("l1 = 0.5", "l_1 = 0.5", 19, "unknown key 'l_1' in [wide]; did you mean 'l1'"),
    ("quantiles = 8", "quantile = 8", 28, "unknown key 'quantile' in [deep]; did you mean 'quantiles'"),
    ("quantiles = 8", "alpha = 8", 28, "unknown key 'alpha' in [deep]"),
    ("{ every = 300", "{ evry = 300", 29, "unknown key 'evry' in [deep.warm_start]; did you mean 'every'"),
    ("calibration =", "calibrate =", 36, "unknown key 'calibrate' in [publish.gate]; did you mean 'calibration'"),
    ('every = "250ms"', 'evry = "1s"', 34, "unknown key 'evry' in [publish]; did you mean 'every'"),
    ('window = "2s"', 'windw = "2s"', 32, "unknown key 'windw' in [label]; did you mean 'window'"),
    ("prior = 5", "priors = 5", 14, "unknown key 'priors' in [statistics.rate]; did you mean 'prior'"),
    ('half_life = "1h"', "last = 5", 15, "unknown key 'last' in [statistics.taste]"),
    ("alpha = 0.2 }", "alfa = 0.2 }", 23, "unknown key 'alfa' in [wide.crosses]; did you mean 'alpha'"),
    ("bands = [18, 40]", "band = [18, 40]", 5, "unknown key 'band' in [user.age]; did you mean 'bands'"),
    ("serve_as = 1", "serves_as = 1", 12, "unknown key 'serves_as' in [context.position]; did you mean 'serve_as'"),
    # choices
    ('tags = "categories"', 'tags = "categorie"', 9, "item.tags can't be 'categorie'; did you mean 'categories'"),
    ('{ type = "number", b', '{ type = "numbr", b', 5, "user.age.type can't be 'numbr'; did you mean 'number'"),
    ('kind = "residual"', 'kind = "residal"', 15, "taste.kind can't be 'residal'; did you mean 'residual'"),
    ('["wide", "deep"]', '["wide", "dep"]', 2, "parts can't be 'dep'; did you mean 'deep'"),
    ('window = "2s"', 'organic = "exmples"', 32, "label.organic can't be 'exmples'; did you mean 'examples'"),
    (
        'window = "2s"',
        "organic = 1",
        32,
        'label.organic: it is true or false, or where they are emitted: "topic" or "examples"',
    ),
    ('policy = "eager"', 'policy = "eagre"', 31, "label.policy can't be 'eagre'; did you mean 'eager'"),
    ('policy = "eager"', 'policy = "delayed_negative"', 31, 'such as delays = ["1s", "10s", "1m", "10m"]'),
    (EAGER_2S, f'{DELAYED}delays = ["1s", "2500ms"]', 33, "no install comes after the window (2s)"),
    (EAGER_2S, f"{DELAYED}delays = {['1s'] * 9}", 33, "label.delays has 9 entries, 8 at most"),
    (EAGER_2S, f'{DELAYED}delays = ["1"]', 33, "Expected a duration, such as 250ms"),
    # values
    ('name = "shop"', 'name = "my shop"', 1, "letters, digits"),
    ('name = "shop"', 'name = "shop\\n"', 1, "letters, digits"),
    ('name = "shop"', 'name = ".."', 1, "without a dot in front"),
    ("alpha = 0.1", 'alpha = "fast"', 18, "wide.alpha: Expected `float`"),
    ("alpha = 0.1", "alpha = 0", 18, "wide.alpha: Expected `float` > 0.0"),
    ("l1 = 0.5", "l1 = inf", 19, "wide.l1 must be a finite number"),
    ("l1 = 0.5", "l1 = nan", 19, "wide.l1"),
    ("alpha = 0.2", "alpha = inf", 23, "wide.crosses.alpha must be a finite number"),
    ("bands = [18, 40]", "bands = [18, inf]", 5, "user.age.bands must be a finite number"),
    ("serve_as = 1", "serve_as = nan", 12, "context.position.serve_as must be a finite number"),
    ("[8, 4]", "[8, 0]", 27, "deep.hidden_units: Expected `int` >= 1"),
    ("quantiles = 8", "quantiles = 1", 28, "deep.quantiles: Expected `int` >= 2"),
    ("prior = 5", "prior = 0", 14, "statistics.rate.prior: Expected `float` > 0.0"),
    ("last = 5", "last = 0", 6, "user.history.last: Expected `int` >= 1"),
    ('window = "2s"', 'window = "2 s"', 32, "label.window: Expected a duration, such as 250ms"),
    ('window = "2s"', 'window = "2s\\n"', 32, "label.window is 1 ms to a hundred years"),
    ('window = "2s"', 'window = "40000d"', 32, "label.window is 1 ms to a hundred years"),
    ('window = "2s"', 'window = "0s"', 32, "label.window is 1 ms to a hundred years"),
    ('window = "2s"', 'window = "0.4ms"', 32, "label.window is 1 ms to a hundred years"),
    ("quantiles = 8", f"min_count = {10**20}", 28, "deep.min_count: Expected `int` <= 65534"),
    ("quantiles = 8", f"max_rows = {10**20}", 28, "deep.max_rows: Expected `int` <= 1000000000"),
    ("window = 200", "window = 30_000_000_000", 29, "deep.warm_start.window: Expected `int` <= 10000000"),
    ("[8, 4]", "[1_000_000_000, 4]", 27, "weights are over 100,000,000: fewer hidden_units"),
    ("[8, 4]", "[10_000, 10_000]", 27, "[deep]: 100,450,001 weights are over 100,000,000"),
    ("alpha = 0.1", "alpha = 1e39", 18, "wide.alpha must be a finite number, of 3.4e38 at most"),
    ('half_life = "1h"', 'half_life = "0s"', 15, "statistics.taste.half_life is 1 ms to a hundred years"),
    ('every = "250ms"', f'every = "{"9" * 400}s"', 34, "publish.every is"),
    ("[0.8, 1.25]", "[1.25, 0.8]", 36, "gate.calibration is [low, high]"),
    ("[0.8, 1.25]", "[0.8]", 36, "publish.gate.calibration: Expected `array`"),
    ('["wide", "deep"]', "[]", 2, "parts must name wide, deep, or both"),
    ('["wide", "deep"]', '["wide", "wide"]', 2, "once each"),
    # columns
    ('tags = "categories"', "tags = { bands = [1] }", 9, "item.tags: give it a type"),
    ('tags = "categories"', 'tags = { type = "categories", bands = [1] }', 9, "item.tags: bands cut a number"),
    ("bands = [18, 40]", "bands = [40, 18]", 5, "user.age: bands cut a number, at rising values"),
    ("bands = [18, 40]", "bands = [18, 18]", 5, "at rising values"),
    ("history = {", 'age_band = "category"\nhistory = {', 6, "user.age_band is the column of user.age's bands"),
    ("history = {", 'likes = { of = "item.id" }\nhistory = {', 7, "one history is enough"),
    ('of = "item.id", last', 'of = "item.tags", last', 6, "a history is a column of [user]"),
    ('price = "number"', 'price = { of = "item.id" }', 10, "a history is a column of [user]"),
    ('id = "category"\nage', 'uid = "category"\nage', 3, '[user] needs id = "category"'),
    ('id = "category"\ntags', 'id = "number"\ntags', 8, '[item] needs id = "category"'),
    (", serve_as = 1", "", 12, "context.position isn't known at ranking time: fix its value"),
    ('position = { type = "number"', 'position = { type = "category"', 12, "context.position is a number"),
    ("serve_as = 1", "serve_as = 1, bands = [3]", 12, "context.position is a number without bands"),
    ('price = "number"', 'price = { type = "number", serve_as = 1 }', 10, "serve_as is for categories"),
    ("[statistics]", 'who = { type = "categories", serve_as = "a" }\n[statistics]', 13, "serve_as is for categories"),
    ("[statistics]", 'who = { type = "category", serve_as = 1 }\n[statistics]', 13, "serve_as of a category is a text"),
    ("serve_as = 1", 'serve_as = "1"', 12, "context.position: serve_as of a number is a number"),
    ("[statistics]", 'who = { type = "category", serve_as = "a" }\n[statistics]\n'
     'x = { kind = "rate", by = ["context.who"] }', 15, "statistics are of logged values, so they can't go by it"),
    ("history = {", 'joined = "date"\nhistory = {', 6, "user.joined: a date is a column of [item]"),
    ('price = "number"', 'price = { type = "date", bands = [2, 1] }', 10, "bands cut a number, at rising values"),
    ('["user.history", "item.id"]', '["user.history.newst", "item.id"]', 22, "did you mean 'user.history.newest'?"),
    ('["user.history", "item.id"]', '["item.price.rank", "item.id"]', 22, "is no category here"),
    ('["user.age", "item.tags"', '["item.tags.rank", "item.tags"', 26, "'item.tags.rank' isn't declared"),
    ("[slices]", "[retrieval]\ntrend = 5\n[slices]", 38, "key 'trend' in [retrieval]; did you mean 'trending'"),
    ("[slices]", "[retrieval]\npopular = 90\nnew = 20\n[slices]", 38,
     "the quotas (new 20, popular 90) are 110 candidates, over count = 100"),
    ("[slices]", "[retrieval]\nsame = 5\n[slices]", 38, "same needs columns to go by, such as same_by"),
    ("[slices]", '[retrieval]\nsame = 5\nsame_by = ["item.tag"]\n[slices]', 39,
     "'item.tag' is no category of an item here; did you mean 'item.tags'"),
    ("[slices]", '[retrieval]\ntrending_half_life = "1 day"\n[slices]', 38, "a duration, such as"),
    ("[slices]", '[retrieval]\ntrending_half_life = "0s"\n[slices]', 38, "trending_half_life is 1 ms to"),
    ("[slices]", '[retrieval.kept]\nhalf_life = "0d"\n[slices]', 38, "kept.half_life is 1 ms to"),
    ("[slices]", '[retrieval]\nsame = 5\nsame_by = ["item.id"]\n[slices]', 39, "is no category of an item here"),
    ("[slices]", '[explore]\nkind = "thompson"\nprior = 1e-320\n[slices]', 39, "prior: Expected `float` >= 1e-06"),
    ('[statistics]\nrate = { kind = "rate", by = ["item.id"], prior = 5 }', "[retrieval]\nnew = 5\n[statistics]", 14,
     "how often an item was shown is counted by a statistic of labels by the item alone: add one"),
    ("[slices]", '[slices]\n"page.hours" = ["0"]', 38, "did you mean 'page.hour'?"),
    ("[statistics]", '[page]\nutc_offset = "2h"\n[statistics]', 14, "page.utc_offset: Expected an offset"),
    ("[statistics]", '[page]\nutc_ofset = "+02:00"\n[statistics]', 14, "in [page]; did you mean 'utc_offset'"),
    # statistics
    ('rate = { kind = "rate", by', 'rate = { kind = "rate", of = "organic", by', 14,
     'organic installs have no label: of = "organic" is for count and since, not rate'),
    ('rate = { kind = "rate", by = ["item.id"], prior = 5 }', ORGANIC.replace("item.id", "item.tags"), 14,
     "has only a user and an item: by item.id, user.id, or both"),
    ('rate = { kind = "rate", by = ["item.id"], prior = 5 }', ORGANIC.replace('["item.id"]', "[]"), 14,
     "by item.id, user.id, or both"),
    ('rate = { kind = "rate", by = ["item.id"], prior = 5 }', ORGANIC, 14, 'set organic = "examples" in [label]'),
    ('rate = { kind = "rate", by = ["item.id"], prior = 5 }', ORGANIC.replace("organic", "installs"), 14,
     'set organic = "examples" in [label]'),
    ('kind = "rate", by', 'kind = "rate", of = "installs", by', 14,
     'organic installs have no label: of = "installs" is for count and since, not rate'),
    ('kind = "rate", by', 'kind = "count", of = "sales", by', 14, "count goes by one field or a pair"),
    ('by = ["item.id"], prior', 'by = ["item.ids"], prior', 14, "is no category here; did you mean 'item.id'"),
    ('by = ["item.id"], prior', 'by = ["item.price"], prior', 14, "'item.price' is no category here"),
    ('by = ["item.id"], prior', "by = [], prior", 14, "rate goes by one field or a pair"),
    ('by = ["user.id", "item.tags"]', 'by = ["user.id", "item.tags", "item.id"]', 15, "by one field or a pair"),
    ('by = ["user.id", "item.tags"]', 'by = ["user.id", "user.id"]', 15, "by one field or a pair"),
    ('to = "user.history"', 'to = "user.age"', 16, "affinity is of"),
    ('kind = "rate", by', 'kind = "affinity", by', 14, "affinity is of"),
    # parts
    ('["user.history", "item.id"],', '["user.histry", "item.id"],', 22, "did you mean 'user.history'"),
    ('["user.history", "item.id"],', "[],", 22, "a cross has 1 to 4 different columns, not []"),
    ('of = ["user.age_band", "item.tags"]', "of = []", 23, "a cross has 1 to 4 different columns, not []"),
    ('["user.history", "item.id"],', '["item.id", "item.id"],', 22, "a cross has 1 to 4 different columns"),
    ('["user.history", "item.id"],', '"item.id",', 22, 'a cross is a list of columns, such as ["user.id", "item.id"]'),
    ("alpha = 0.2", "alpha = 0", 23, "wide.crosses.alpha: Expected `float` > 0.0"),
    ("alpha = 0.2", 'expire = "0s"', 23, "is 1 ms to a hundred years"),
    ("alpha = 0.1", 'half_life = "0s"', 18, "wide.half_life is 1 ms to a hundred years"),
    ("alpha = 0.1", 'half_life = "soon"', 18, "wide.half_life: Expected a duration, such as 250ms"),
    ("alpha = 0.2", 'half_life = "30d"', 23, "unknown key 'half_life'"),
    ("quantiles = 8", 'half_life = "40000d"', 28, "deep.half_life is 1 ms to a hundred years"),
    ("quantiles = 8", "half_life = 30", 28, "deep.half_life"),
    ('tags = "categories"', "tags = 3", 9, 'a column is "category", "categories", "number" or "date", or a table'),
    ('features = ["user.id"]', 'features = ["user.age"]', 20, "'user.age' is no category here (a number needs bands)"),
    ('"context.position", "stat', '"context.hour", "stat', 26, "'context.hour' isn't declared"),
    ('"statistics.*"', '"statistics.tast"', 26, "did you mean 'statistics.taste'"),
    # slices
    ('"user.age_band" = [', '"user.age" = [', 39, "[slices]: 'user.age' is no category here"),
    ('"user.age_band" = [', '"user.age_bnd" = [', 39, "did you mean 'user.age_band'"),
    ('["0", "2"]', "[0, 2]", 39, "Expected `str`"),
    ('["0", "2"]', '["0", "3"]', 39, "user.age_band has the bands 0 (below 18) to 2, not '3'"),
    ('["0", "2"]', '["0-18"]', 39, "not '0-18'"),
    ('["new", "old"]', "[]", 38, "item.tags takes values, once each"),
    ('["new", "old"]', '["new", "new"]', 38, "once each"),
    ('["new", "old"]', '["new", ""]', 38, "none empty"),
    ('["new", "old"]', f'["new", "{"x" * 39}"]', 38, "is over 48 bytes"),
    ('["new", "old"]', f"{[str(i) for i in range(99)]}", 37, "101 values are over 100"),
    # explore
    ("[publish]\n", '[explore]\nkind = "thomson"\n[publish]\n', 34, "'thomson'; did you mean 'thompson'"),
    ('{ of = ["user.age_band", "item.tags"], alpha = 0.2 },\n]', ']\n[explore]\nkind = "ucb"', 25, "ucb needs a wide"),
    ("[publish]\n", "[explore]\nepsilon = 1.0\n[publish]\n", 34, "explore.epsilon: Expected `float` < 1"),
    # not TOML
    ("quantiles = 8", "quantiles = ", 28, "not TOML"),
]  # fmt: skip


def refusal(text: str) -> str:
    """What a spec of this text is refused with."""
    with pytest.raises(SpecError) as refused:
        parse_spec(text, "shop.toml")
    return str(refused.value)


@pytest.mark.parametrize(("there", "wrong", "line", "words"), REFUSALS, ids=[f"{r[2]}-{r[1][:30]}" for r in REFUSALS])
def test_a_refusal_names_file_line_and_remedy(there: str, wrong: str, line: int, words: str) -> None:
    """Whatever is wrong, the message says where and what to write instead."""
    assert TEXT.count(there) == 1
    said = refusal(TEXT.replace(there, wrong))
    assert said.startswith("shop.toml")
    assert re.search(rf"line {line}\b", said), said
    assert words in said


def test_parts_without_features_are_refused() -> None:
    """A part that has nothing to read: name something, or leave the part out."""
    lines = TEXT.splitlines(keepends=True)
    wide = "".join([*lines[:19], *lines[24:]])
    assert "line 17" in refusal(wide)
    assert "leave wide out of parts" in refusal(wide)
    assert parse_spec(wide.replace('["wide", "deep"]', '["deep"]')).crosses() == []
    deep = "".join([*lines[:25], *lines[26:]])
    assert "line 25" in refusal(deep)
    assert "leave deep out of parts" in refusal(deep)
    assert parse_spec(deep.replace('["wide", "deep"]', '["wide"]')).deep_features() == []


def test_a_base_rate_needs_what_keeps_the_bias_there() -> None:
    """FTRL without β and λ2 has no weight before the first gradient."""
    text = TEXT.replace('policy = "eager"', 'policy = "eager"\nbase_rate = 0.01')
    text = text.replace("[wide]", "[wide]\nbeta = 0.0")
    parse_spec(text.replace("[wide]", "[wide]\nl2 = 1.0"))
    assert "wide.beta / alpha + wide.l2 is 0.01 to 1e+06: it is 0 " in refusal(text)
    assert "it is 1e-05" in refusal(text.replace("beta = 0.0", "beta = 1e-6"))
    for wrong in ("0.0", "1.0"):
        assert "base_rate" in refusal(TEXT.replace('policy = "eager"', f'policy = "eager"\nbase_rate = {wrong}'))


def test_a_missing_table_is_named_though_it_has_no_line() -> None:
    """What isn't there can't have a line, but has a name."""
    assert "shop.toml: Object missing required field `name`" in refusal(TEXT.split("\n", 1)[1])
    assert '[item] needs id = "category"' in refusal('name = "a"\n[user]\nid = "category"\n')


def test_a_key_is_looked_for_in_its_own_table() -> None:
    """Inline tables, dotted headers and tables of entries: the line is the wrong key's, not its namesake's."""
    text = TEXT + '[statistics.other]\nkind = "rate"\nby = ["item.id"]\nlast = 3\n'
    assert "line 43" in refusal(text)
    assert "[statistics.other]" in refusal(text)
    text = TEXT.replace('[label]                           # 30\npolicy = "eager"\nwindow = "2s"', "")
    assert "line 2" in refusal(text.replace('parts = ["wide", "deep"]', 'label = { every = "2s" }'))


def test_a_file_that_cant_be_read_is_named(tmp_path: Path) -> None:
    """Not there, a folder, not text: the file and what to do."""
    with pytest.raises(SpecError, match="name a spec with --spec"):
        load_spec(tmp_path / "none.toml")
    with pytest.raises(SpecError, match="can't be read"):
        load_spec(tmp_path)
    (tmp_path / "latin.toml").write_bytes('name = "é"'.encode("latin-1"))
    with pytest.raises(SpecError, match=r"latin\.toml: not UTF-8"):
        load_spec(tmp_path / "latin.toml")
    (tmp_path / "wrong.toml").write_text(TEXT.replace("l1 =", "l3 ="))
    with pytest.raises(SpecError, match=r"wrong\.toml \(line 19\)"):
        load_spec(tmp_path / "wrong.toml")


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.name)
def test_the_repository_s_specs_load(path: Path) -> None:
    """Each world's spec, named like its file."""
    assert load_spec(path).name == path.stem


def test_a_spec_spelled_out() -> None:
    """Columns with their bands, crosses with single features first, `statistics.*` in the order of their table."""
    spec = parse_spec(TEXT)
    assert list(spec.columns()) == [
        "user.id", "user.age", "user.age_band", "user.history", "item.id", "item.tags", "item.price",
        "context.position",
    ]  # fmt: skip
    assert spec.columns()["user.age_band"] == Column(type="category")
    assert spec.crosses() == [
        Cross(of=["user.id"]), Cross(of=["user.history", "item.id"]),
        Cross(of=["user.age_band", "item.tags"], alpha=0.2),
    ]  # fmt: skip
    assert spec.deep_features()[-3:] == ["statistics.rate", "statistics.taste", "statistics.alike"]


@given(st.floats(0, 1e6, allow_subnormal=False).map(lambda x: round(x, 3)), st.sampled_from(["ms", "s", "m", "h", "d"]))
def test_durations(number: float, unit: str) -> None:
    """A number and its unit, to the millisecond."""
    ms = {"ms": 1, "s": 1e3, "m": 6e4, "h": 36e5, "d": 864e5}[unit]
    assert duration_ms(f"{number:.3f}{unit}") == round(number * ms)


@pytest.mark.parametrize("spec", [parse_spec(TEXT), SPEC, *map(load_spec, SPECS)], ids=lambda spec: spec.name)
def test_a_spec_travels_whole(spec: Spec) -> None:
    """What a manifest carries is the same spec: the same columns in the same order, the same fingerprint."""
    there = decode_spec(encode_spec(spec))
    assert there == spec
    assert there.fingerprint() == spec.fingerprint()
    assert list(there.columns()) == list(spec.columns())
    assert list(there.statistics) == list(spec.statistics)


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b'{"name": "a"}', encode_spec(SPEC)[:-9], b'{"name": "a", "more": 1}', b"\xff"]
)
def test_a_published_spec_that_cant_be_read_is_refused(raw: bytes) -> None:
    """Bytes that aren't a spec, or one that breaks the rules, or one of a later kind."""
    with pytest.raises(SpecError, match="published spec"):
        decode_spec(raw)


CHANGES = [
    ('["wide", "deep"]', '["wide"]'),
    ("bands = [18, 40]", "bands = [18, 41]"),
    ("last = 5", "last = 6"),
    ('price = "number"', 'price = "category"'),
    ('price = "number"', 'cost = "number"'),
    ('price = "number"', 'price = "date"'),
    ("[statistics]", '[page]\nutc_offset = "+02:00"\n[statistics]'),
    ('["user.history", "item.id"]', '["user.history.newest", "item.id"]'),
    ("serve_as = 1", "serve_as = 2"),
    ("prior = 5", "prior = 6"),
    ('half_life = "1h"', 'half_life = "2h"'),
    ("alpha = 0.1", "alpha = 0.3"),
    ("alpha = 0.2", "alpha = 0.3"),
    ("l1 = 0.5", "l1 = 0.6"),
    ('["user.history", "item.id"]', '["item.id", "user.history"]'),
    ('features = ["user.id"] ', 'features = ["user.id", "item.id"] '),
    ('"user.age", "item.tags"', '"item.tags", "user.age"'),
    ("[8, 4]", "[4, 8]"),
    ("quantiles = 8", "quantiles = 9"),
    ("every = 300", "every = 301"),
    ('policy = "eager"', 'policy = "wait"'),
    ('window = "2s"', 'window = "3s"'),
    # the order of a table's entries is the order of a page's columns and of the deep part's inputs
    ('tags = "categories"\nprice = "number"', 'price = "number"\ntags = "categories"'),
]


def test_a_fingerprint_changes_with_whatever_changes_the_model() -> None:
    """Each change on its own gives another; so does the order of statistics, which are inputs in that order."""
    prints = [parse_spec(TEXT).fingerprint()]
    for there, other in CHANGES:
        assert TEXT.count(there) == 1 or there == 'tags = "categories"\nprice = "number"', there
        text = TEXT.replace('price = "number"                  # 10', 'price = "number"').replace(there, other)
        assert text != TEXT
        prints.append(parse_spec(text).fingerprint())
    spec = parse_spec(TEXT)
    turned = msgspec.structs.replace(spec, statistics=dict(reversed(spec.statistics.items())))
    prints.append(turned.fingerprint())
    assert len(set(prints)) == len(prints)


@pytest.mark.parametrize(
    ("there", "other"),
    [
        ('name = "shop"', 'name = "other"'),
        ('every = "250ms"', 'every = "1s"'),
        ('policy = "eager"', 'policy = "eager"\norganic = true'),
        ('policy = "eager"', 'policy = "eager"\nbase_rate = 0.01'),
        ('policy = "eager"', 'policy = "eager"\norganic = "examples"'),
        ("[0.8, 1.25]", "[0.5, 2.0]"),
        ("[statistics]", '[explore]\nkind = "epsilon"\nepsilon = 0.2\n[statistics]'),
        ("quantiles = 8", "quantiles = 8\nembedding_dim = 32"),
        ("alpha = 0.1", "alpha = 1e-1"),
        ("[statistics]", '[page]\nutc_offset = "+00:00"\n[statistics]'),
        ("[slices]", "[retrieval]\nnew = 5\n[slices]"),
    ],
)
def test_a_fingerprint_stays_when_the_model_does(there: str, other: str) -> None:
    """Name, publishing, retrieval and organic installs aside; a default written out is still the default."""
    assert TEXT.count(there) == 1
    assert parse_spec(TEXT.replace(there, other)).fingerprint() == parse_spec(TEXT).fingerprint()


TUNABLES = ("alpha = 0.1", "alpha = 0.2", "l1 = 0.5", "every = 300", 'policy = "eager"', 'window = "2s"')


def test_an_identity_changes_with_what_features_mean_only() -> None:
    """Rates, bounds, windows and cadences are tunables; columns, statistics, crosses and shapes aren't."""
    spec = parse_spec(TEXT)
    text = TEXT.replace('price = "number"                  # 10', 'price = "number"')
    for there, other in CHANGES:
        changed = parse_spec(text.replace(there, other))
        assert (changed.identity() == spec.identity()) is (there in TUNABLES), there
    turned = msgspec.structs.replace(spec, statistics=dict(reversed(spec.statistics.items())))
    assert turned.identity() != spec.identity()
    utc = parse_spec(TEXT.replace("[statistics]", '[page]\nutc_offset = "+02:00"\n[statistics]'))
    assert utc.identity() != spec.identity()
    written = TEXT.replace("[statistics]", '[page]\nutc_offset = "+00:00"\n[statistics]')
    assert parse_spec(written.replace('name = "shop"', 'name = "other"')).identity() == spec.identity()


scalars: "st.SearchStrategy[Any]" = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
keys = st.sampled_from(["name", "user", "item", "id", "wide", "deep", "statistics", "crosses", "kind", "of", "gate"])
anything = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4))


@given(st.dictionaries(keys, anything, max_size=5))
def test_any_tables_at_all_are_a_spec_or_a_spec_error(tables: dict[str, Any]) -> None:
    """A published spec of any content raises nothing else."""
    try:
        spec = decode_spec(msgspec.json.encode({"name": "a", **tables}))
    except SpecError:
        return
    assert decode_spec(encode_spec(spec)) == spec


def test_the_spec_that_explains_columns_is_one() -> None:
    """The example of docs/columns.md is read, and has the columns that it talks about."""
    spec = parse_spec(Path("docs/columns.md").read_text().split("```toml")[1].split("```")[0])
    assert {"user.history.newest", "page.hour", "page.weekday", "item.price.rank"} <= spec.columns().keys()


def test_organic_says_where_installs_without_a_page_go() -> None:
    """False: nowhere; true is the topic alone, as "topic" is; "examples" is both."""
    wanted: dict[str, tuple[str, ...]] = {
        "false": (), "true": ("topic",), '"topic"': ("topic",), '"examples"': ("topic", "examples"),
    }  # fmt: skip
    for said, places in wanted.items():
        spec = parse_spec(TEXT.replace('window = "2s"', f'window = "2s"\norganic = {said}'))
        assert spec.label.organic_in == places
        rules = label_rules(spec)
        assert (rules.organic, rules.organic_examples) == ("topic" in places, "examples" in places)
        assert decode_spec(encode_spec(spec)) == spec


def test_a_statistic_of_organic_installs_leaves_others_features_as_they_were() -> None:
    """Pages logged before there were any keep their layout: `of` was there, and says it."""
    plain = parse_spec(TEXT)
    assert f"{Layout(plain).hash:016x}" == "9eb5d3e083abb29d"
    text = TEXT.replace('window = "2s"', 'window = "2s"\norganic = "examples"')
    counted = parse_spec(text.replace("[wide]\n", ORGANIC.replace("rate =", "counted =") + "\n[wide]\n"))
    assert counted.fingerprint() != plain.fingerprint()


def test_the_example_of_retrieval_is_read() -> None:
    """The example of docs/retrieval.md is a valid section of a spec that has what it needs."""
    section, kept = (part.split("```")[0] for part in Path("docs/retrieval.md").read_text().split("```toml")[1:])
    text = TEXT.replace('tags = "categories"', 'tags = "categories"\ncategory = "category"')
    retrieval = parse_spec(f"{text}\n{section}\n{kept}").retrieval
    assert retrieval.quotas() == {"together": 40, "neighbours": 20, "same": 5, "trending": 10, "new": 5, "popular": 0}
    assert retrieval.kept == Kept(), "the second example has the defaults"
