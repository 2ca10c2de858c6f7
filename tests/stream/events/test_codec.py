"""Events: their bytes, which never change; their limits; and that bad ones cost only themselves."""

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.events import codec as ev
from stream.events import types
from stream.events.codec import (
    decode_entity,
    decode_events,
    decode_examples,
    decode_organic,
    decode_replies,
    decode_requests,
    decode_training,
    encode,
    encode_record,
    organic_id,
)
from stream.events.types import (
    DeadLetter,
    Erase,
    Examples,
    FeatureName,
    History,
    Impression,
    Install,
    Item,
    Organic,
    RankReply,
    RankRequest,
    Removal,
    ReplyTo,
    Tick,
    User,
)
from stream.runtime.errors import BadEvent

PAGE = Impression("r1", 1_000, "u1", ["a", "b"], "v", 7, [0.5, 0.25], [1.0, 0.5], b"\x01", {"hour": 3.0, "app": "x"})
REPLY = RankReply(
    "q1", "u1", ["a"], [0.5], 7, 10, 20, 100, 300, ["deadline"], b"\x01", "no", 1_000, "invalid", ["new"], [3], [0.25],
    {"kids": 2}, 6, [0.75],
)  # fmt: skip

# The bytes as hex. New fields go to the end with defaults: then these still decode to the same.
GOLDEN = [
    (Erase("u1", 3_000), "930da27531cd0bb8"),
    (
        PAGE,
        "9b01a27231cd03e8a2753192a161a162a1760792cb3fe0000000000000cb3fd000000000000092cb3ff0000000000000cb3fe0000000000000c4010182a4686f7572cb4008000000000000a3617070a178",
    ),
    (Install("u1", "a", 2_000, "i1", "r1"), "9702a27531a161cd07d0a26931a27231c2"),
    (Install("u1", "a", 2_000, "i1", "", True), "9702a27531a161cd07d0a26931a0c3"),
    (Tick(3_000), "9203cd0bb8"),
    (
        Examples(PAGE, [2**64 - 1, 5], [0, 1], [1, 0], [1.0, 2.0], [0, 1], [1_500, 1_501]),
        "98049b01a27231cd03e8a2753192a161a162a1760792cb3fe0000000000000cb3fd000000000000092cb3ff0000000000000cb3fe0000000000000c4010182a4686f7572cb4008000000000000a3617070a17892cfffffffffffffffff0592000192010092cb3ff0000000000000cb400000000000000092000192cd05dccd05dd",
    ),
    (
        RankRequest(
            "q1",
            "u1",
            3,
            1_000,
            {"hour": 3.0},
            ["a"],
            50,
            ["b"],
            {"age": 3.0, "of": ["x", "y"]},
            "m",
            ReplyTo("t", 2),
            ["kids", {"exclude": ["a"]}],
        ),
        "9d05a27131a2753103cd03e881a4686f7572cb400800000000000091a1613291a16282a3616765cb4008000000000000a26f6692a178a179a16d92a1740292a46b69647381a76578636c75646591a161",
    ),
    (
        REPLY,
        "dc001506a27131a2753191a16191cb3fe0000000000000070a1464cd012c91a8646561646c696e65c40101a26e6fcd03e8a7696e76616c696491a36e6577910391cb3fd000000000000081a46b696473020691cb3fe8000000000000",
    ),
    (
        Item("a", {"genres": ["x"], "year": 1995.0}, "A", 2.5),
        "9507a16182a667656e72657391a178a479656172cb409f2c0000000000a141cb4004000000000000",
    ),
    (User("u1", {"age": 24.0}), "9308a2753181a3616765cb4038000000000000"),
    (History("u1", "a", 2_000), "9409a27531a161cd07d0"),
    (Organic("u1", "a", 2_000, "i1", "r1", 2_001), "970ba27531a161cd07d0a26931a27231cd07d1"),
    (FeatureName("context.device", "phone"), "930cae636f6e746578742e646576696365a570686f6e65"),
    (Removal("u1", 2_000, "learner m", {"wide": 3}), "950ea27531cd07d0a96c6561726e6572206d81a47769646503"),
    (DeadLetter(b"\xc1", "BadEvent", "why", "events", 1, 42), "970ac401c1a84261644576656e74a3776879a66576656e7473012a"),
]

# As written before fields were added at their ends: these are read, no longer written.
EARLIER = [
    (
        msgspec.structs.replace(REPLY, retrieval_terms=[]),
        "dc001406a27131a2753191a16191cb3fe0000000000000070a1464cd012c91a8646561646c696e65c40101a26e6fcd03e8a7696e76616c696491a36e6577910391cb3fd000000000000081a46b6964730206",
    ),
    (
        RankRequest(
            "q1", "u1", 3, 1_000, {"hour": 3.0}, ["a"], 50, ["b"], {"age": 3.0, "of": ["x", "y"]}, "m", ReplyTo("t", 2)
        ),
        "9c05a27131a2753103cd03e881a4686f7572cb400800000000000091a1613291a16282a3616765cb4008000000000000a26f6692a178a179a16d92a17402",
    ),
    (
        RankReply("q1", "u1", ["a"], [0.5], 7, 10, 20, 100, 300, ["deadline"], b"\x01", "no", 1_000, "invalid"),
        "9f06a27131a2753191a16191cb3fe0000000000000070a1464cd012c91a8646561646c696e65c40101a26e6fcd03e8a7696e76616c6964",
    ),
    (
        RankRequest("q1", "u1", 3, 1_000, {"hour": 3.0}, ["a"], 50, ["b"], {"age": 3.0, "of": ["x", "y"]}),
        "9a05a27131a2753103cd03e881a4686f7572cb400800000000000091a1613291a16282a3616765cb4008000000000000a26f6692a178a179",
    ),
    (
        RankReply("q1", "u1", ["a"], [0.5], 7, 10, 20, 100, 300, ["deadline"], b"\x01", "no", 1_000),
        "9e06a27131a2753191a16191cb3fe0000000000000070a1464cd012c91a8646561646c696e65c40101a26e6fcd03e8",
    ),
]

names = st.text("ab\x00é漢🙂", min_size=1, max_size=4)
times = st.integers(1, types.TIME_MS_MAX - 1)
numbers = st.floats(allow_nan=False, allow_infinity=False)
contexts = st.dictionaries(names, st.one_of(names, numbers), max_size=3)


@st.composite
def pages(draw: st.DrawFn) -> Impression:
    """A page that breaks no limit."""
    items = draw(st.lists(names, min_size=1, max_size=5, unique=True))
    per_item: st.SearchStrategy[list[float]] = st.one_of(
        st.just([]), st.lists(numbers, min_size=len(items), max_size=len(items))
    )
    return Impression(
        draw(names), draw(times), draw(names), items, draw(names),
        draw(st.integers(0, types.NUMBER_MAX - 1)), draw(per_item), draw(per_item), draw(st.binary(max_size=16)),
        draw(contexts),
    )  # fmt: skip


installs = st.builds(Install, user=names, item=names, time_ms=times, install_id=names, retracted=st.booleans())
sources = st.one_of(pages(), installs, st.builds(Tick, time_ms=times))


@pytest.mark.parametrize(("event", "golden"), GOLDEN, ids=lambda value: type(value).__name__)
def test_golden_bytes(event: msgspec.Struct, golden: str) -> None:
    """The bytes of a released version are written and read as they were."""
    assert encode(event).hex() == golden
    assert msgspec.msgpack.decode(bytes.fromhex(golden), type=type(event)) == event


@pytest.mark.parametrize(("event", "golden"), EARLIER, ids=lambda value: type(value).__name__)
def test_bytes_of_an_earlier_release(event: msgspec.Struct, golden: str) -> None:
    """What an earlier release wrote is read, with the defaults of later fields."""
    assert msgspec.msgpack.decode(bytes.fromhex(golden), type=type(event)) == event


def test_every_event_has_golden_bytes_and_a_tag_of_its_own() -> None:
    """No two events share a tag, and none is without golden bytes."""
    kinds = [k for k in vars(types).values() if isinstance(k, type) and issubclass(k, msgspec.Struct)]
    kinds.remove(ReplyTo)  # a field, not an event
    tags = [kind.__struct_config__.tag for kind in kinds]
    assert len(set(tags)) == len(tags)
    assert {type(event) for event, _ in GOLDEN} == set(kinds)


def test_a_field_of_the_future_is_passed_over() -> None:
    """What a later version appends doesn't disturb this one."""
    later = msgspec.msgpack.encode([[3, 3_000, "new"]])
    assert decode_events(later) == ([Tick(3_000)], [])


@given(st.lists(sources, max_size=6))
def test_what_is_encoded_is_decoded(written: list[Any]) -> None:
    """A record of good events comes back whole."""
    assert decode_events(encode_record(written)) == (written, [])


@given(st.lists(st.one_of(sources, st.sampled_from([b"\xc1", 7, "x", [], [99, 1], [3, "late"], [3, 0]])), max_size=8))
def test_a_bad_event_costs_only_itself(mixed: list[Any]) -> None:
    """The good events of a record are taken in order, each bad one is given back in its own bytes with a reason."""
    parts: list[Any] = [encode(e) if isinstance(e, msgspec.Struct) else msgspec.msgpack.encode(e) for e in mixed]
    good, bad = decode_events(msgspec.msgpack.encode([msgspec.Raw(part) for part in parts]))
    assert good == [e for e in mixed if isinstance(e, msgspec.Struct)]
    assert [raw for raw, _ in bad] == [
        part for e, part in zip(mixed, parts, strict=True) if not isinstance(e, msgspec.Struct)
    ]
    assert all(reason for _, reason in bad)


def test_a_reason_names_the_field_within_its_event() -> None:
    """A dead letter has one event's bytes: the reason's path begins there, wherever in the record the event was."""
    raw = msgspec.msgpack.encode([[3, 5], [3, 6], [2, "u", "i", "late", "x"]])
    (event, reason), *others = decode_events(raw)[1]
    assert (event, others) == (msgspec.msgpack.encode([2, "u", "i", "late", "x"]), [])
    assert reason == "Expected `int`, got `str` - at `$[3]`"


@given(st.one_of(st.binary(max_size=64), st.lists(sources, max_size=3).map(encode_record)), st.data())
def test_no_bytes_are_lost_or_raise(raw: Any, data: st.DataObject) -> None:
    """Whatever the bytes, decoding gives events and reasons and never raises; a record that is no list is bad whole."""
    if raw:
        at = data.draw(st.integers(0, len(raw) - 1))
        raw = raw[:at] + bytes([data.draw(st.integers(0, 255))]) + raw[at + 1 :]
    for decode in (decode_events, decode_training, decode_organic, decode_requests):
        good, bad = decode(raw)
        assert good or bad or msgspec.msgpack.decode(raw) == []
        for original, reason in bad:
            assert original in raw
            assert reason


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x91" * 100_000 + b"\x01",  # deeper than any stack
        b"\xdd\xff\xff\xff\xff",  # says four billion, holds none
        b"\xdd\x00\x0f\xff\x00" + b"\x00" * 0xFFF00,  # a million bad events would be a million dead letters
        bytes(types.RECORD_BYTES_MAX + 1),
        b"\x91\xa2\xff\xff",  # not UTF-8
    ],
    ids=["empty", "deep", "lying", "many", "large", "no-utf8"],
)
def test_a_hostile_record_is_one_dead_letter(raw: Any) -> None:
    """A record that is no list of at most EVENTS_MAX events is bad as a whole: one dead letter."""
    good, bad = decode_events(raw)
    assert good == []
    assert len(bad) == 1


def test_one_event_may_have_64_kib_and_a_record_1_mib() -> None:
    """An event above EVENT_BYTES_MAX is bad, its neighbours aren't; a record above RECORD_BYTES_MAX is bad whole."""
    fits = Impression("r", 1, "u", ["a"], features=bytes(types.EVENT_BYTES_MAX - 30))
    large = Impression("r", 1, "u", ["a"], features=bytes(types.EVENT_BYTES_MAX))
    good, bad = decode_events(encode_record([fits, large, fits]))
    assert good == [fits, fits]
    assert [(raw, "65" in reason and "more than the limit" in reason) for raw, reason in bad] == [(encode(large), True)]
    whole = encode_record([fits] * 17)
    assert len(whole) > types.RECORD_BYTES_MAX
    assert [raw for raw, _ in decode_events(whole)[1]] == [whole]


@pytest.mark.parametrize(
    "change",
    [
        {"time_ms": 0}, {"time_ms": -1}, {"time_ms": types.TIME_MS_MAX}, {"user": ""}, {"request_id": ""},
        {"items": []},
        {"items": ["a", "a"]}, {"items": ["a", ""]}, {"items": [str(i) for i in range(types.ITEMS_MAX + 1)]},
        {"scores": [0.5]}, {"scores": [math.nan, 0.5]}, {"propensities": [math.inf, 0.5]}, {"propensities": [1.0] * 3},
        {"context": {"x": math.nan}}, {"context": {"x": -math.inf}}, {"version": -1}, {"version": types.NUMBER_MAX},
    ],
    ids=str,
)  # fmt: skip
def test_a_page_that_cannot_be_true_is_refused(change: dict[str, Any]) -> None:
    """Absurd times, missing names, columns of other lengths, numbers that aren't finite: a dead letter each."""
    bad_page = msgspec.structs.replace(PAGE, **change)
    good, bad = decode_events(encode_record([PAGE, bad_page, Tick(1)]))
    assert good == [PAGE, Tick(1)]
    assert [raw for raw, _ in bad] == [encode(bad_page)]


@pytest.mark.parametrize("change", [{"user": ""}, {"item": ""}, {"install_id": ""}, {"time_ms": 0}], ids=str)
def test_an_install_that_cannot_be_true_is_refused(change: dict[str, Any]) -> None:
    """An install names user, item and id, at a time that can be."""
    bad_install = msgspec.structs.replace(Install("u", "a", 1, "i"), **change)
    assert decode_events(encode_record([bad_install]))[0] == []


@pytest.mark.parametrize(
    "change",
    [
        {"user": ""}, {"item": ""}, {"install_id": ""}, {"time_ms": 0}, {"ingest_ms": -1},
        {"ingest_ms": types.TIME_MS_MAX},
    ],
    ids=str,
)  # fmt: skip
def test_an_organic_install_that_cannot_be_true_is_refused(change: dict[str, Any]) -> None:
    """It names user, item and id; event time and append time can be."""
    right = Organic("u", "a", 1, "i")
    good, bad = decode_organic(encode_record([msgspec.structs.replace(right, **change), right]))
    assert (good, len(bad)) == ([right], 1)


@pytest.mark.parametrize(
    "change",
    [
        {"ids": []}, {"ids": [1]}, {"ids": [-1, 2]}, {"positions": [0, 2]}, {"positions": [-1, 0]}, {"labels": [0, 2]},
        {"weights": [1.0, 0.0]}, {"weights": [1.0, math.nan]}, {"weights": [math.nan, 1.0]}, {"weights": [1.0, -1.0]},
        {"weights": [1.0, math.inf]}, {"weights": [1.0, 1e7]}, {"reasons": [0, 4]}, {"reasons": [-1, 0]},
        {"ingest_ms": [1]}, {"ingest_ms": [1, -1]}, {"ingest_ms": [1, types.TIME_MS_MAX]}, {"ingest_ms": [1, 2**63]},
        {"page": msgspec.structs.replace(PAGE, user="")},
    ],
    ids=str,
)  # fmt: skip
def test_examples_that_cannot_be_true_are_refused(change: dict[str, Any]) -> None:
    """Columns of one length; labels 0 or 1; weights finite and above 0; positions on the page; times that can be."""
    right = Examples(PAGE, [1, 2], [0, 1], [1, 0], [1.0, 1.0], [0, 1], [1, 1])
    assert decode_examples(encode_record([right])) == ([right], [])
    assert decode_examples(encode_record([msgspec.structs.replace(right, **change)]))[0] == []


def test_a_record_of_examples_holds_organic_installs_too() -> None:
    """In any order, in the bytes that each kind has anywhere; who wants labels alone skips them; a bad one costs
    itself."""
    labelled, organic = Examples(PAGE, [1], [0], [1], [1.0], [0], [1]), Organic("u1", "a", 2_000, "i1", "r1", 2_001)
    kinds = {type(event): bytes.fromhex(golden) for event, golden in GOLDEN if isinstance(event, Examples | Organic)}
    assert decode_training(b"\x92" + kinds[Organic] + kinds[Examples])[0] == [
        event for event, _ in reversed(GOLDEN) if isinstance(event, Examples | Organic)
    ]
    record = encode_record([labelled, organic, labelled])
    assert decode_training(record) == ([labelled, organic, labelled], [])
    assert decode_examples(record) == ([labelled, labelled], [])
    nobodys = msgspec.structs.replace(organic, user="")
    good, bad = decode_training(encode_record([nobodys, organic, Tick(1)]))
    assert (good, [raw for raw, _ in bad]) == ([organic], [encode(nobodys), encode(Tick(1))])


def test_an_organic_installs_id_is_its_user_and_install_id() -> None:
    """One number for the same two texts for ever, another for texts that are only cut elsewhere."""
    assert organic_id("u1", "i1") == 15_154_663_469_962_731_610
    ids = [organic_id(user, name) for user, name in (("u1", "i1"), ("u", "1i1"), ("i1", "u1"), ("u1", "i1\x00"))]
    assert len({*ids, ev.example_id("u1", 0, 0, "i1"), ev.example_id("", 0, 0, "")}) == 6
    assert all(0 <= one < 2**64 for one in ids)


@pytest.mark.parametrize(
    "change",
    [
        {"request_id": ""}, {"user": ""}, {"k": 0}, {"k": types.ITEMS_MAX + 1}, {"candidates": []},
        {"candidates": [""]},
        {"candidates": ["a", "a"]}, {"deadline_ms": -1}, {"time_ms": -5}, {"context": {"x": math.inf}},
        {"attributes": {"age": math.nan}}, {"history": ["x" * types.REQUEST_BYTES_MAX]},
        {"deadline_ms": types.NUMBER_MAX},
    ],
    ids=str,
)  # fmt: skip
def test_a_request_that_cannot_be_answered_is_refused(change: dict[str, Any]) -> None:
    """A request names itself and a user, wants 1 to ITEMS_MAX of distinct items, and holds only finite numbers."""
    right = RankRequest("q", "u")
    assert decode_requests(encode_record([right])) == ([right], [])
    good, bad = decode_requests(encode_record([msgspec.structs.replace(right, **change), right]))
    assert (good, len(bad)) == ([right], 1)


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (b"", Item),
        (encode(User("u")), Item),
        (encode(Item("a", {"year": math.nan})), Item),
        (encode(Item("a", popularity=math.inf)), Item),
        (encode(User("u", {"age": math.inf})), User),
        (encode(Item("")), Item),
        (encode(User("")), User),
        (encode(History("", "a", 1)), History),
        (encode(History("u", "", 1)), History),
        (bytes(types.RECORD_BYTES_MAX + 1), User),
    ],
)
def test_an_entity_that_cannot_be_true_is_refused(raw: Any, kind: type[Any]) -> None:
    """An entity of another kind, without an id, or with numbers that aren't finite, is a BadEvent."""
    with pytest.raises(BadEvent):
        decode_entity(raw, kind)


LONGEST = ["i" * types.ID_BYTES_MAX, "é" * (types.ID_BYTES_MAX // 2), "🙂" * (types.ID_BYTES_MAX // 4)]
WITH_ID = {
    "a page's user": lambda one: Impression("r", 1, one, ["a"]),
    "a page's request": lambda one: Impression(one, 1, "u", ["a"]),
    "a page's item": lambda one: Impression("r", 1, "u", ["a", one]),
    "a page's variant": lambda one: Impression("r", 1, "u", ["a"], one),
    "an install's user": lambda one: Install(one, "a", 1, "i"),
    "an install's item": lambda one: Install("u", one, 1, "i"),
    "an install's id": lambda one: Install("u", "a", 1, one),
    "an install's request": lambda one: Install("u", "a", 1, "i", one),
    "an example's user": lambda one: Examples(Impression("r", 1, one, ["a"]), [1], [0], [1], [1.0], [0], [1]),
    "an organic install's user": lambda one: Organic(one, "a", 1, "i"),
    "an organic install's item": lambda one: Organic("u", one, 1, "i"),
    "an organic install's id": lambda one: Organic("u", "a", 1, one),
    "an organic install's request": lambda one: Organic("u", "a", 1, "i", one),
    "a request's id": lambda one: RankRequest(one, "u"),
    "a request's user": lambda one: RankRequest("q", one),
    "a request's candidate": lambda one: RankRequest("q", "u", candidates=["a", one]),
    "a request's model": lambda one: RankRequest("q", "u", model=one),
    "a request's topic": lambda one: RankRequest("q", "u", reply_to=types.ReplyTo(one, 0)),
    "a request's history": lambda one: RankRequest("q", "u", history=["a", one]),
    "an item": Item,
    "a user": User,
    "a history's user": lambda one: History(one, "a", 1),
    "a history's item": lambda one: History("u", one, 1),
}


@pytest.mark.parametrize("name", WITH_ID)
def test_an_id_has_at_most_256_bytes(name: str) -> None:
    """Counted as UTF-8, in every place where an id stands; the reason says how many and how many are allowed."""
    make: Any = WITH_ID[name]
    for longest in LONGEST:
        assert reasons_of(make(longest)) == []
        (reason,) = reasons_of(make(longest + "x"))
        assert "257 bytes, the limit is 256" in reason


def reasons_of(event: Any) -> list[str]:
    """Why an event's bytes are rejected."""
    if isinstance(event, Item | User | History):
        try:
            decode_entity(encode(event), type(event))
        except BadEvent as bad:
            return [str(bad)]
        return []
    decoders: dict[type, Any] = {Organic: decode_organic, Examples: decode_training, RankRequest: decode_requests}
    return [reason for _, reason in decoders.get(type(event), decode_events)(encode_record([event]))[1]]


def test_a_dead_letter_may_hold_a_whole_record() -> None:
    """The largest record, with its reason around it, is read back."""
    letter = DeadLetter(bytes(types.RECORD_BYTES_MAX), "BadEvent", "why", "events", 0, 1)
    assert decode_entity(encode(letter), DeadLetter) == letter


def test_replies_that_are_none_are_refused() -> None:
    """Bytes that hold no replies are a BadEvent; replies come back whole."""
    reply = RankReply("q", "u", ["a"], [0.5], 1)
    assert decode_replies(encode_record([reply])) == [reply]
    whole = encode(reply)
    assert whole[0] == 0xDC, "a list of more than 15: one more is a later reply's, to be passed over"
    nested = (
        b"\x91" + whole[:2] + bytes([whole[2] + 1]) + whole[3:] + b"\x91" * 100_000 + b"\x01"
    )  # deeper than any stack
    for raw in (b"", b"\xc1", whole, encode_record([Tick(1)]), bytes(types.RECORD_BYTES_MAX + 1), nested):
        with pytest.raises(BadEvent):
            decode_replies(raw)


def test_example_ids_differ_by_each_part() -> None:
    """Request, position, reason and install each make another example; the id of one never changes."""
    assert ev.example_id("r1", 0, types.INSTALLED, "i1") == 0xF2109270F5A20DAF
    ids = {ev.example_id(r, p, w, i) for r in ("r1", "r2") for p in (0, 1, 10) for w in (0, 1) for i in ("", "i1")}
    assert len(ids) == 24
    assert all(0 <= i < 2**64 for i in ids)
