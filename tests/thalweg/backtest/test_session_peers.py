"""Session peers by hand: the figures are those that the published code, session-rec, prints for the same sessions."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from stream.events.types import Install
from thalweg.backtest.session_peers import SessionOptions, session_peers
from thalweg.backtest.user_sessions import UserSessions

PUBLISHED = SessionOptions(rules_last=1, rules_steps=10, knn_last=1, knn_alpha=0.5)
SESSIONS = {"1": "abc", "2": "bcd", "3": "acde", "4": "eab", "5": "dc", "me": "ab"}


def sessions_of(texts: Mapping[str, str]) -> UserSessions:
    """Each letter an install, one session after the other; items a to f are known."""
    sessions = UserSessions()
    for item in "abcdef":
        sessions.item(item)
    time_ms = 0
    for user, items in texts.items():
        for item in items:
            time_ms += 1
            sessions.update(Install(user, item, time_ms, f"{user}-{item}"))
    return sessions


def scores(peer: str, options: SessionOptions = PUBLISHED, sessions: UserSessions | None = None) -> dict[str, float]:
    """What the peer gives to the items that the user `me`, who has a and b, hasn't."""
    sessions = sessions or sessions_of(SESSIONS)
    named = {one.name: one for name in ("popular", "rules", "knn") for one in session_peers([name], sessions, options)}
    found = named[peer].score("me")
    return {item: float(found[sessions.item(item)]) for item in "cdef"}


def test_popular_is_the_installs_of_the_window() -> None:
    """An item's score is how many of the last `popular_last` installs of all users are of it."""
    assert scores("popular") == {"c": 4, "d": 3, "e": 2, "f": 0}
    assert scores("popular", SessionOptions(popular_last=7)) == {"c": 1, "d": 1, "e": 1, "f": 0}


def test_rules_weigh_what_came_after_the_last_item_by_its_distance() -> None:
    """Score of j = Σ over sessions with j at x ≤ `rules_steps` positions behind the last item: 1 / x^`rules_decay`."""
    assert scores("rules") == pytest.approx({"c": 2, "d": 0.5, "e": 0, "f": 0})
    near = SessionOptions(rules_last=1, rules_steps=1)
    assert scores("rules", near) == pytest.approx({"c": 2, "d": 0, "e": 0, "f": 0})
    flat = SessionOptions(rules_last=1, rules_decay=0)
    assert scores("rules", flat) == pytest.approx({"c": 2, "d": 1, "e": 0, "f": 0})


def test_rules_of_items_before_the_last_one_count_by_their_position() -> None:
    """With `rules_last` = n the rules of the n newest items add up, each divided by its position from the end."""
    of_b, of_a = {"c": 2, "d": 0.5, "e": 0, "f": 0}, {"c": 1.5, "d": 0.5, "e": 1 / 3, "f": 0}
    wanted = {item: of_b[item] + of_a[item] / 2 for item in of_b}
    assert scores("rules", SessionOptions(rules_last=2)) == pytest.approx(wanted)


def test_item_knn_is_the_shrunk_cosine_with_the_last_items() -> None:
    """Score of j = Σ over the `knn_last` newest items i: nᵢⱼ / ((nᵢ + s)^a · (nⱼ + s)^(1 − a)); s = 20, a = .5."""
    without_me = sessions_of({**SESSIONS, "me": ""})
    of_b = {"c": 0.08513, "d": 0.04348, "e": 0.04446, "f": 0}
    of_a = {"c": 0.08513, "d": 0.04348, "e": 0.08891, "f": 0}
    both = {item: of_b[item] + of_a[item] for item in of_b}
    norm = np.sqrt(23 / 24)  # the published figures are of a and b in 3 sessions; the user's own makes them 4
    found = scores("item-knn")
    assert {item: value / norm for item, value in found.items()} == pytest.approx(of_b, abs=1e-5)
    found = scores("item-knn", SessionOptions(knn_last=2, knn_alpha=0.5))
    assert {item: value / norm for item, value in found.items()} == pytest.approx(both, abs=1e-5)
    assert scores("item-knn", sessions=without_me) == dict.fromkeys("cdef", 0)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, {"c": 1.375, "d": 0.625, "e": 0.875, "f": 0}),
        ({"vsknn_k": 2}, {"c": 0.75, "d": 0, "e": 0.75, "f": 0}),
        ({"vsknn_sample": 3}, {"c": 0.625, "d": 0.625, "e": 0.875, "f": 0}),
    ],
)
def test_v_sknn_adds_the_similarities_of_sessions_that_have_the_item(
    options: dict[str, int], wanted: dict[str, float]
) -> None:
    """Score of j = Σ over neighbours with j: similarity / x. Similarity = Σ over the items of both: (p / n) / n, by the
    position p in the session of length n; x is the position of the newest such item from the end. Neighbours are the
    `vsknn_k` most similar of the `vsknn_sample` newest sessions with an item of this one."""
    assert scores("v-sknn", SessionOptions(**options)) == pytest.approx(wanted)


def test_v_sknns_decay_is_the_power_of_both_weights() -> None:
    """With decay 0 each item of both counts 1 / n and the position of the newest doesn't matter."""
    found = scores("v-sknn", SessionOptions(vsknn_decay=0))
    assert found == pytest.approx({"c": 1 + 0.5 + 0.5, "d": 0.5 + 0.5, "e": 0.5 + 1, "f": 0})


def test_an_install_that_is_taken_back_was_never_there() -> None:
    """After a retraction all peers say what they say without the install; a second one of an item changes nothing."""
    sessions = sessions_of(SESSIONS)
    sessions.update(Install("me", "f", 100, "1"))
    sessions.update(Install("2", "a", 101, "2"))
    assert not sessions.update(Install("2", "a", 102, "3"))
    assert scores("popular", sessions=sessions)["f"] == 1
    assert sessions.update(Install("2", "a", 103, "2", retracted=True))
    assert sessions.update(Install("me", "f", 104, "1", retracted=True))
    assert not sessions.update(Install("me", "f", 105, "1", retracted=True))
    for peer in ("popular", "rules", "item-knn", "v-sknn"):
        assert scores(peer, sessions=sessions) == scores(peer)


def test_sessions_grow_without_bounds() -> None:
    """Rows keep their order while they grow and move, and newer users and items find room."""
    sessions, random = UserSessions(), np.random.default_rng(0)
    wanted: dict[str, list[int]] = {}
    for time_ms in range(20_000):
        user, item = f"u{random.integers(0, 1_500)}", f"i{int(random.integers(0, 60) ** 1.9)}"
        number = sessions.item(item)
        if number not in wanted.setdefault(user, []):
            wanted[user].append(number)
        sessions.update(Install(user, item, time_ms, str(time_ms)))
    assert len(wanted) > 1_024
    for user, items in wanted.items():
        assert sessions.session(user).tolist() == items
    installs = np.bincount(np.concatenate(list(wanted.values())), minlength=len(sessions))
    assert sessions.installs.tolist() == installs.tolist()


def test_the_page_on_peers_says_all_defaults() -> None:
    """docs/peers.md has each option with its default."""
    page = (Path(__file__).parents[3] / "docs" / "peers.md").read_text()
    for name, default in asdict(SessionOptions()).items():
        assert f"`{name}` {default:g}" in page
