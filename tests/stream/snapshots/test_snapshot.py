"""What a content and a manifest are as bytes, and what is refused when the bytes are wrong."""

import struct
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Annotated

import msgpack  # type: ignore[import-untyped]  # ships no types
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stream.runtime.errors import BadSnapshot
from stream.snapshots import payload as payload_module
from stream.snapshots.manifest import (
    DELTAS_MAX,
    MANIFEST_BYTES_MAX,
    Golden,
    PartVersion,
    decode_manifest,
    encode_manifest,
    encoded_as,
)
from stream.snapshots.memory_store import MemoryStore
from stream.snapshots.payload import (
    ARRAY_CODE,
    BLOB_BYTES_MAX,
    DTYPES,
    SEGMENT_BYTES_MAX,
    Array,
    Payload,
    by_segment,
    digest_of,
    digests_of,
    pack,
    pack_blobs,
    split,
    unpack,
)
from stream.snapshots.store import fetch
from tests.support.small_versions import raw_of, version_of

CONTENT: Payload = {
    "keys": np.array([1, 2**63], np.uint64),
    "weights": np.array([[0.5, -1.0]], np.float32),
}
CONTENT_1 = """
82a46b657973c7170192a33c7538910201000000000000000000000000000080a777656967687473d80192a33c66349201020000003f00
0080bf
"""
MANIFEST = version_of(2, 1, 3, digests_of(raw_of(1)), digests_of(raw_of(2)))
MANIFEST_1 = """
92c4105f8c74b06b109bf1b262f884fc064cdac501308fa56d6f64656ca16da776657273696f6e02a6706172656e7401ab66696e676572
7072696e74a26631a473706563c40473706563a5746f6b656e03a66f6666736574810014a86578616d706c657310ac77617465726d6172
6b5f6d73cd03e8aa6c6561726e65645f6d73cd07d0aa637265617465645f6d73cd0bb8a76d65747269637381a3617563cb3fe800000000
0000a5706172747381a47769646583a46261736591d9206238373566643535363734363936633535383665363563616233653062303235
a66d657267656490a664656c7461739191d9203066663038653930643539616165393038316562646636613136383636336539a9696e67
6573745f6d7391cd07cfa6676f6c64656e9182a86665617475726573c40470616765a673636f72657391cb3fe0000000000000
"""

arrays = st.sampled_from(DTYPES).flatmap(
    lambda kind: hnp.arrays(
        np.dtype(kind),
        hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=5),
        elements={"allow_nan": False, "allow_infinity": False} if kind.startswith("<f") else None,
    )
)
contents = st.dictionaries(st.text("abc_", max_size=8), arrays, max_size=4)


@contextmanager
def memory_below(bytes_max: int) -> Iterator[None]:
    """Fails when Python takes more on the way."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < bytes_max, f"{peak} bytes were taken"


def ext(head: object, body: bytes) -> bytes:
    """A content of one array, whatever its head says."""
    packed: bytes = msgpack.packb({"a": msgpack.ExtType(ARRAY_CODE, msgpack.packb(head) + body)})
    return packed


def sealed(body: bytes) -> bytes:
    """Bytes under their right digest, as a manifest's are."""
    return msgspec.msgpack.encode((bytes.fromhex(digest_of(body)), body))


@given(contents)
def test_round_trip(content: dict[str, np.ndarray]) -> None:
    """A content comes back with its names, dtypes, shapes and values, read-only, whatever the order of its names."""
    raw = pack(content)
    assert pack(dict(reversed(content.items()))) == raw
    back = unpack(raw)
    assert back.keys() == content.keys()
    for name, array in content.items():
        assert (back[name].dtype, back[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(back[name], array)
        assert not back[name].flags.writeable
        assert back[name].flags.aligned


def test_strides_do_not_show() -> None:
    """A transposed or strided array is packed as what it says."""
    array = np.arange(12, dtype=np.int32).reshape(3, 4)
    np.testing.assert_array_equal(unpack(pack({"a": array.T[::2]}))["a"], array.T[::2])


def test_golden_content() -> None:
    """The bytes of a content stay what they were in the first release."""
    raw = bytes.fromhex(CONTENT_1)
    assert pack(CONTENT) == raw
    assert {name: array.tolist() for name, array in unpack(raw).items()} == {
        "keys": [1, 2**63],
        "weights": [[0.5, -1.0]],
    }


def test_golden_manifest() -> None:
    """A manifest of the first release says what it said; its bytes stay in a store that has them."""
    raw = bytes.fromhex(MANIFEST_1)
    assert decode_manifest(raw) == decode_manifest(encode_manifest(MANIFEST)) == MANIFEST
    assert encoded_as(raw, MANIFEST) == raw
    later = msgspec.structs.replace(MANIFEST, version=3)
    assert encoded_as(raw, later) == encoded_as(b"", later) == encode_manifest(later)


def test_manifest_grows_at_will() -> None:
    """A manifest with a field that this release doesn't know is read without it."""
    fields = {**msgspec.to_builtins(MANIFEST, builtin_types=(bytes,)), "later": [1, {"a": 2}]}
    assert decode_manifest(sealed(msgspec.msgpack.encode(fields))) == MANIFEST


@given(contents, st.data())
def test_content_with_a_bit_flipped(content: dict[str, np.ndarray], data: st.DataObject) -> None:
    """A content whose digest nobody checked is either refused or still finite arrays no larger than its bytes."""
    raw = bytearray(pack(content))
    at = data.draw(st.integers(0, 8 * len(raw) - 1))
    raw[at // 8] ^= 1 << at % 8
    try:
        back = unpack(bytes(raw))
    except BadSnapshot:
        return
    assert sum(array.nbytes for array in back.values()) <= len(raw)
    assert all(np.isfinite(array).all() for array in back.values())


@given(st.binary(max_size=200))
def test_noise(raw: bytes) -> None:
    """Bytes that nobody packed never end in another error than BadSnapshot."""
    with suppress(BadSnapshot):
        unpack(raw)
    with pytest.raises(BadSnapshot):
        decode_manifest(raw)


def test_content_truncated_or_prolonged() -> None:
    """A content that lacks an end, or has more after it, is refused."""
    raw = pack(CONTENT)
    for n in range(len(raw)):
        with pytest.raises(BadSnapshot):
            unpack(raw[:n])
    with pytest.raises(BadSnapshot):
        unpack(raw + b"\xc0")


@pytest.mark.parametrize(
    "raw",
    [
        ext(["<f4", [2**40]], b""),
        ext(["<f4", [2**32, 2**32]], b""),  # 2**64 numbers: nothing may wrap around
        ext(["<f4", [0, 2**39]], b""),
        ext(["<f4", [3]], b"\0" * 8),
        ext(["<f4", [1]], b"\0" * 8),
        ext(["<f4", [-1]], b"\0" * 4),
        ext(["<f4", [True]], b"\0" * 4),
        ext(["<f4", [1.0]], b"\0" * 4),
        ext(["<f4", [1, 1, 1]], b"\0" * 4),
        ext(["|O", [1]], b"\0" * 8),
        ext([["<f4"], [1]], b"\0" * 4),
        ext(["<f4"], b"\0" * 4),
        ext({}, b""),
        ext(["<f4", [1]], struct.pack("<f", float("nan"))),
        ext(["<f8", [1]], struct.pack("<d", float("-inf"))),
        msgpack.packb({"a": msgpack.ExtType(2, b"")}),
        msgpack.packb({"a": msgpack.ExtType(ARRAY_CODE, b"")}),
        msgpack.packb({"a": msgpack.Timestamp(1)}),
        msgpack.packb({"a": 1}),
        msgpack.packb({"a": b""}),
        msgpack.packb({"a": {}}),
        msgpack.packb({1: msgpack.ExtType(ARRAY_CODE, b"")}),
        msgpack.packb([]),
        b"\x81\xc7",
        b"\x82" + 2 * ext(["<f4", [0]], b"")[1:],  # one name twice
        b"\x81" + msgpack.packb(b"a") + ext(["<f4", [0]], b"")[3:],  # a name of bytes
    ],
)
def test_content_that_lies(raw: bytes) -> None:
    """Shapes, kinds and numbers that can't be true are refused."""
    with pytest.raises(BadSnapshot):
        unpack(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"\x81\xa1a" + b"\xc9" + (2**32 - 1).to_bytes(4, "big") + b"\x01",  # an array of 4 GiB, it says
        b"\xdf\xff\xff\xff\xff",  # a map of 4 G entries
        b"\x81\xa1a\xdd\xff\xff\xff\xff",  # a list
        b"\x81\xa1a" + b"\xdc\xff\xff" + b"\x80" * 65_535,
        b"\x81\xa1a" * 100_000,  # nested
        # 256 maps of 255 maps of ... without end: 1 MiB that would be 64 MiB
        b"\xde\x01\x00" + b"".join(msgpack.packb(str(i)) + b"\x8f" + b"\xa1a\x80" * 15 for i in range(256)) * 80,
    ],
)
def test_content_that_asks_for_room(raw: bytes) -> None:
    """Sizes are held against the bytes that are there before anything is made of them."""
    with memory_below(4 * len(raw) + 1_000_000), pytest.raises(BadSnapshot):
        unpack(raw)


def test_content_with_a_number_that_is_not_finite_is_not_packed() -> None:
    """NaN never gets out, and the message names where it is."""
    with pytest.raises(BadSnapshot, match="weights"):
        pack({"weights": np.array([1.0, np.nan], np.float32)})


def test_oversize_content() -> None:
    """A content over its limit is refused before it is copied, on both sides."""
    huge = np.broadcast_to(np.uint8(0), SEGMENT_BYTES_MAX + 1)
    with memory_below(1_000_000), pytest.raises(BadSnapshot, match="over"):
        pack({"a": huge})
    with memory_below(1_000_000), pytest.raises(BadSnapshot, match="over"):
        unpack(Sized())


class Sized(bytes):
    """Bytes that say they are many."""

    def __len__(self) -> int:
        return SEGMENT_BYTES_MAX + 1


def test_content_of_no_contents_kind() -> None:
    """What no reader would take is a mistake of ours, told where it is made."""
    for array in (np.zeros(2, np.float16), np.zeros(2, ">f4"), np.zeros((1, 1, 1), np.float32), np.zeros(2, object)):
        with pytest.raises(AssertionError, match="a: a payload can't contain"):
            pack({"a": array})


def test_cut() -> None:
    """A content's blobs, joined in the order of its name, are the content; equal blobs are stored once."""
    raw = b"\0" * (2 * BLOB_BYTES_MAX) + b"\1"
    blobs, digests = split(raw), digests_of(raw)
    assert [len(blob) for blob in blobs.values()] == [BLOB_BYTES_MAX, 1]
    assert [*blobs] == [digests[0], digests[2]]
    assert digests[0] == digests[1]
    assert b"".join(blobs[digest] for digest in digests) == raw
    assert [*split(b"")] == digests_of(b"") == [digest_of(b"")]


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of four blobs of 1 KiB, at most three of them."""
    limits = {"BLOB_BYTES_MAX": 1_024, "SEGMENT_BLOBS": 4, "SEGMENT_BYTES_MAX": 4_096, "HEADS_BYTES_MAX": 256}
    for name, value in {**limits, "SEGMENTS_MAX": 3}.items():
        monkeypatch.setattr(payload_module, name, value)


def put(payload: Payload) -> tuple[MemoryStore, list[str]]:
    """A payload in a store, and its digests."""
    store, blobs = MemoryStore("m"), pack_blobs(payload)
    store.put_blobs(dict(blobs))
    return store, [digest for digest, _ in blobs]


@pytest.mark.usefixtures("small_segments")
@given(rows=st.integers(0, 360), width=st.integers(1, 4), others=st.integers(0, 90))
def test_a_large_payload_comes_back_whole(rows: int, width: int, others: int) -> None:
    """However many segments it takes: each array as it was, read-only; all segments but the last are full."""
    payload: dict[str, Array] = {
        "a": np.arange(others, dtype=np.int64),
        "keys": np.arange(rows, dtype=np.uint64),
        "rows": np.arange(rows * width, dtype=np.float32).reshape(rows, width),
        "z": np.zeros((0, 3), np.float32),
    }
    store, digests = put(payload)
    found = fetch(store, digests)
    assert found.keys() == payload.keys()
    for name, array in payload.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()
        assert not found[name].flags.writeable
    sizes = [len(b"".join(map(store.get_blob, some))) for some in by_segment(digests)]
    assert all(3 * 1_024 < size <= 4_096 for size in sizes[:-1])
    assert len(sizes) == max(1, -(-(len(digests)) // 4))


@pytest.mark.usefixtures("small_segments")
def test_a_payload_of_one_segment_is_that_of_earlier_builds() -> None:
    """Up to the limit the bytes are those of one map."""
    payload = {"rows": np.arange(480, dtype=np.int64)}
    assert pack_blobs(payload) == payload_module.digested_blobs(pack(payload))
    with pytest.raises(BadSnapshot, match="cut it"):
        pack({"rows": np.arange(481, dtype=np.int64)})
    assert len(put({"rows": np.arange(481, dtype=np.int64)})[1]) == 5


@pytest.mark.usefixtures("small_segments")
def test_a_payload_over_all_segments_is_not_packed() -> None:
    """The message says which bounds to lower."""
    pack_blobs({"rows": np.arange(3 * 480, dtype=np.int64)})
    with pytest.raises(BadSnapshot, match="max_statistics"):
        pack_blobs({"rows": np.arange(3 * 480 + 1, dtype=np.int64)})


@pytest.mark.usefixtures("small_segments")
def test_segments_that_do_not_fit_together_are_refused() -> None:
    """Another dtype, another width, or an order that cuts elsewhere: BadSnapshot, and nothing is joined."""
    store, digests = put({"a": np.arange(480, dtype=np.int64)})
    for other in ({"a": np.arange(480, dtype=np.uint64)}, {"a": np.zeros((9, 2), np.int64)}):
        more, named = put(other)
        store.put_blobs({digest: more.get_blob(digest) for digest in named})
        with pytest.raises(BadSnapshot, match="a has another type or width"):
            fetch(store, digests + named)
    for wrong in (digests[1:] + digests[:1], digests[:3], [*digests, *digests[1:]], []):
        with pytest.raises(BadSnapshot):
            fetch(store, wrong)


class OneSegment(msgspec.Struct):
    """A part as readers of earlier builds knew it."""

    base: Annotated[list[str], msgspec.Meta(max_length=128)]


def test_readers_of_earlier_builds_reject_a_large_payload() -> None:
    """They knew one segment: they say so instead of serving what they would understand."""
    part = PartVersion(["0" * 32] * 129)
    manifest = decode_manifest(encode_manifest(msgspec.structs.replace(MANIFEST, parts={"wide": part})))
    assert manifest.parts["wide"] == part
    with pytest.raises(msgspec.ValidationError, match="length <= 128"):
        msgspec.msgpack.decode(msgspec.msgpack.encode(part), type=OneSegment)


def test_a_manifest_has_room_for_the_largest_payloads() -> None:
    """A base of all segments, a merged delta of a quarter, of two parts."""
    part = PartVersion(["0" * 32] * 4_096, ["1" * 32] * 1_024, [["2" * 32] * 4] * DELTAS_MAX)
    assert decode_manifest(encode_manifest(msgspec.structs.replace(MANIFEST, parts={"a": part, "b": part})))
    with pytest.raises(BadSnapshot, match="length <= 4096"):
        encode_manifest(msgspec.structs.replace(MANIFEST, parts={"a": PartVersion(["0" * 32] * 4_097)}))


def test_manifest_with_a_bit_flipped() -> None:
    """No bit of a manifest can change unseen."""
    raw = encode_manifest(MANIFEST)
    for at in range(8 * len(raw)):
        wrong = bytearray(raw)
        wrong[at // 8] ^= 1 << at % 8
        with pytest.raises(BadSnapshot):
            decode_manifest(bytes(wrong))


def test_manifest_truncated_or_prolonged() -> None:
    """A manifest that lacks an end, or has more after it, is refused."""
    raw = encode_manifest(MANIFEST)
    for n in range(len(raw)):
        with pytest.raises(BadSnapshot):
            decode_manifest(raw[:n])
    with pytest.raises(BadSnapshot):
        decode_manifest(raw + b"\0")


WRONG: dict[str, dict[str, object]] = {
    "metric without a value": {"metrics": {"auc": float("nan")}},
    "golden score over 1": {"golden": [Golden(b"", [1.5])]},
    "golden score without a value": {"golden": [Golden(b"", [float("nan")])]},
    "version 0": {"version": 0, "parent": 0},
    "version that Lua can't count": {"version": 2**53},
    "token 0": {"token": 0},
    "parent of its own age": {"parent": 2},
    "negative offset": {"offset": {0: -1}},
    "part without a base": {"parts": {"wide": PartVersion([])}},
    "digest of another length": {"parts": {"wide": PartVersion(["ab"])}},
    "digest that names another key": {"parts": {"wide": PartVersion(["0" * 30 + ":*"])}},
    "digest and a line's end": {"parts": {"wide": PartVersion(["0" * 32 + "\n"])}},
    "too many deltas": {"parts": {"wide": PartVersion(["0" * 32], deltas=[["0" * 32]] * (DELTAS_MAX + 1))}},
    "too many bytes": {"spec": b"\0" * MANIFEST_BYTES_MAX},
    "text for a number": {"examples": "8"},
    "deep part of a later version": {"parts": {"deep": PartVersion(["0" * 32], version=3)}},
}


def test_a_manifest_may_say_up_to_which_version_its_deep_part_has_learned() -> None:
    """Manifests of earlier builds don't, and are read as before."""
    wide = MANIFEST.parts["wide"]
    for part, version in ((wide, 0), (msgspec.structs.replace(wide, version=1), 1)):
        again = decode_manifest(encode_manifest(msgspec.structs.replace(MANIFEST, parts={"wide": wide, "deep": part})))
        assert (again.deep_version, again.parts["deep"]) == (version, part)
    assert MANIFEST.deep_version == 0, "without a deep part"


@pytest.mark.parametrize("changes", WRONG.values(), ids=WRONG.keys())
def test_manifest_that_nobody_could_use(changes: dict[str, object]) -> None:
    """What a manifest may not say is refused by who writes it and by who reads it."""
    wrong = msgspec.structs.replace(MANIFEST, **changes)
    with pytest.raises(BadSnapshot):
        encode_manifest(wrong)
    with pytest.raises(BadSnapshot):
        decode_manifest(sealed(msgspec.msgpack.encode(wrong)))


@pytest.mark.parametrize(
    "field",
    [
        lambda: {"parts": {"wide": {"base": [], "deltas": [[]] * 900_000}}},
        lambda: {"parts": {str(i): {"base": []} for i in range(70_000)}},
        lambda: {"metrics": {str(i): 0.0 for i in range(60_000)}},
        lambda: {"golden": [{"features": b"", "scores": []}] * 40_000},
        lambda: {"ingest_ms": [0] * 900_000},
        lambda: {"later": [{}] * 900_000},
    ],
    ids=["deltas", "parts", "metrics", "golden", "ingest_ms", "later"],
)
def test_manifest_that_asks_for_room(field: Callable[[], dict[str, object]]) -> None:
    """A manifest of a million empty things takes no more room than its bytes."""
    added = field()
    raw = sealed(msgpack.packb({**msgspec.to_builtins(MANIFEST, builtin_types=(bytes,)), **added}))
    assert len(raw) <= MANIFEST_BYTES_MAX
    with memory_below(3 * MANIFEST_BYTES_MAX):
        if "later" in added:
            assert decode_manifest(raw) == MANIFEST
        else:
            with pytest.raises(BadSnapshot):
                decode_manifest(raw)
