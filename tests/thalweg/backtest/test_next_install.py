"""The next install: who is asked what, what is known then, and who ranks which items."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from producers.source import PAUSE, SourceElement, WorldEvent
from stream.events.types import Erase, Impression, Install, Item, RetiredItem, Tick
from stream.runtime.errors import SettingsError
from stream.spec.spec import Spec
from stream.tables.dtypes import F32
from tests.support.backtest_world import START_MS, TEXT, camps_spec, slow_world, world, write_lines
from thalweg.backtest.backtest import Backtest, Scores
from thalweg.backtest.contest import peer_options
from thalweg.backtest.entrants import Entrant, ExampleLog, ModelEntrant
from thalweg.backtest.judgement import JudgedRows
from thalweg.backtest.next_install import NextInstalls, Question
from thalweg.backtest.peers import PeerRates, River, VowpalWabbit
from thalweg.backtest.ranks import MISSED, Ranks
from thalweg.backtest.session_peers import SessionOptions
from thalweg.cli.main import app

EVENTS = world(300)
PEERS = ("popular", "rules", "knn")


def install(user: str, item: str, time_ms: int, *, retracted: bool = False) -> Install:
    """An install of a user's own id."""
    return Install(user, item, time_ms, f"{user}-{item}", retracted=retracted)


def asked(events: Sequence[SourceElement], every: int = 1) -> list[SourceElement | Question]:
    """The events with their questions."""
    return list(NextInstalls(camps_spec(), [], [], SessionOptions(), every).with_questions(events))


def judged(events: Sequence[WorldEvent], *entrants: Entrant, every: int = 1, spec: Spec | None = None) -> Scores:
    """The scores of a backtest with all session peers, of the world's spec or another one."""
    spec = spec or camps_spec()
    ours = [ModelEntrant(spec, ["wide"], 0), *entrants]
    questions = NextInstalls(spec, [one.name for one in ours], PEERS, SessionOptions(), every)
    return Backtest(spec, ours, ExampleLog(), next_installs=questions).run(events)


def test_a_user_is_asked_about_before_the_second_in_which_they_install() -> None:
    """One question for each user and second, of all that they install in it; nothing else of the source changes."""
    page, first, other = Impression("p", 900, "u", ["a"]), install("u", "a", 1_000), install("v", "b", 1_500)
    second, back, later = install("u", "b", 1_999), install("v", "b", 2_000, retracted=True), install("u", "c", 2_001)
    events: list[SourceElement] = [Item("a"), page, first, PAUSE, other, second, back, later, Tick(5_000)]
    questions = [Question("u", 1_000, ["a", "b"]), Question("v", 1_500, ["b"]), Question("u", 2_001, ["c"])]
    wanted = [Item("a"), page, *questions[:2], first, PAUSE, other, second, questions[2], back, later, Tick(5_000)]
    assert asked(events) == wanted


def test_every_nth_install_is_asked_about() -> None:
    """By their order in the log; retractions don't count."""
    events = [install("u", str(n), 1_000 * n, retracted=n == 4) for n in range(10)]
    found = [one.items for one in asked(events, 3) if isinstance(one, Question)]
    assert found == [["0"], ["3"], ["7"]]


def test_what_the_user_has_is_not_a_candidate_but_what_was_shown_is() -> None:
    """Without [retrieval] candidates are the most installed items without the user's own; described ones first."""
    questions = NextInstalls(camps_spec(), [], ["popular"], SessionOptions())
    for item in "abc":
        questions.see(Item(item))
    questions.see(Impression("p", 0, "me", ["x", "y"]))
    for user, item in ("ua", "ub", "vb", "wc", ("me", "b")):
        questions.see(install(user, item, 1))
    found = questions.ask(Question("me", 5_000, ["x", "new", "b"]))
    assert found is not None
    assert (found.user, found.time_ms, found.items) == ("me", 5_000, ["a", "c", "x", "y"])
    assert questions.ask(Question("me", 5_000, ["b"])) is None, "the user has it"


def test_an_erased_user_is_asked_about_as_a_stranger() -> None:
    """The session, the context and what retrieval remembers go; what others get by it stays."""
    questions = NextInstalls(camps_spec(TEXT + "[retrieval]\ncount = 3\ntogether = 2"), [], PEERS, SessionOptions())
    for item in "abc":
        questions.see(Item(item))
    for user, item in ("ma", "mb", "ua", "ub"):
        questions.see(install(user, item, 1))
    learner = questions._retrieval._learner
    assert learner is not None
    questions.ask(Question("z", 2, ["c"]))
    questions.see(Erase("m", 5))
    assert [len(questions._sessions.session(user)) for user in "mu"] == [0, 2]
    assert len(learner.memories) == 1
    found = questions.ask(Question("m", 9_000, ["c"]))
    assert found is not None
    assert {"a", "b"} <= set(found.items)


def catalogue_of(questions: NextInstalls) -> Ranks:
    """The ranks in the catalogue so far; no page is judged."""
    questions.see(Impression("p", 9_000, "me", ["a"]))
    rows, shown = np.zeros(0, np.int64), sum(order.shape[1] for order in questions._orders)
    empty = JudgedRows(np.zeros(0, np.float32), rows, rows, rows)
    return questions.ranks(np.zeros((1, 0), np.float32), rows, empty, np.zeros(shown, np.bool_))["catalogue"]


def test_a_retired_item_is_a_candidate_of_nobody() -> None:
    """Neither retrieval nor the session peers rank it, though it was installed and is shown again; all miss it if it's
    installed all the same. Once it's described again it is a candidate.
    """
    questions = NextInstalls(camps_spec(), ["ours"], ["popular"], SessionOptions())
    for item in "abc":
        questions.see(Item(item))
    questions.see(install("u", "a", 1))
    questions.retire("a")
    questions.see(Impression("q", 2, "v", ["a", "b"]))
    found = questions.ask(Question("me", 5_000, ["a", "b"]))
    assert found is not None
    assert found.items == ["b", "c"]
    questions.answer(0, np.array([0.9, 0.1], np.float32))
    ranks = catalogue_of(questions)
    assert ranks.above.tolist() == [[MISSED, 0], [MISSED, 0], [MISSED, 0]]
    assert ranks.sizes.tolist() == [2, 2]
    questions.see(Item("a"))
    again = questions.ask(Question("me", 6_000, ["a"]))
    assert again is not None
    assert again.items[0] == "a"


def test_a_backtest_reads_what_is_retired() -> None:
    """From then on the item is asked about as one that nobody has, and what described it is forgotten."""
    questions = NextInstalls(camps_spec(), ["wide"], ["popular"], SessionOptions())
    backtest = Backtest(camps_spec(), [ModelEntrant(camps_spec(), ["wide"], 0)], ExampleLog(), next_installs=questions)
    first = next(event for event in EVENTS if isinstance(event, Item)).item
    backtest.run([*EVENTS, RetiredItem(first)])
    found = questions.ask(Question("stranger", START_MS + 10**8, ["x"]))
    assert found is not None
    assert first not in found.items
    assert first not in backtest.maker.catalogue.row


def test_equal_scores_are_ordered_by_popularity_for_all() -> None:
    """Of the items that a model scores alike the most installed one is first, as with the session peers."""
    questions = NextInstalls(camps_spec(), ["ours"], ["rules"], SessionOptions())
    for item in "abc":
        questions.see(Item(item))
    for user in ("u", "v"):
        questions.see(install(user, "b", 1))
    assert questions.ask(Question("me", 5_000, ["b", "c"])) is not None
    questions.answer(0, np.full(3, 0.5, np.float32))
    found = catalogue_of(questions)
    assert found.names[:2] == ["ours", "rules"]
    assert found.above[:2].tolist() == [[0, 1], [0, 1]]
    assert found.tied[:2].tolist() == [[0, 1], [0, 1]]


def test_what_the_spec_retrieves_is_asked_about() -> None:
    """Sources, their quotas and their order are those of [retrieval]; a retracted install counts for none."""
    spec = camps_spec(TEXT + "[retrieval]\ncount = 3\ntogether = 2")
    questions = NextInstalls(spec, [], [], SessionOptions())
    for item in "abcdef":
        questions.see(Item(item))
    for n, pair in enumerate(("af", "bf", "af", "bf", "ce", "cd", "cd")):
        for item in pair:
            questions.see(install(f"u{n}", item, n))
    for n in (1, 3):
        questions.see(install(f"u{n}", "f", 7, retracted=True))
    questions.see(install("me", "c", 8))
    found = questions.ask(Question("me", 9_000, ["d"]))
    assert found is not None
    assert found.items == ["d", "e", "a"]


def test_the_spec_s_rank_weight_orders_the_answers() -> None:
    """With it a model that scores all alike leaves the order of retrieval; without it all are tied."""
    for weight, wanted in ((0, (0, 2)), (1, (1, 0))):
        spec = camps_spec(TEXT + f"[retrieval]\nrank_weight = {weight}")
        questions = NextInstalls(spec, ["ours"], [], SessionOptions())
        for item in "abc":
            questions.see(Item(item))
        questions.ask(Question("me", 5_000, ["b"]))
        questions.answer(0, np.full(3, 0.5, np.float32))
        questions.see(Impression("p", 9_000, "me", ["a"]))
        rows = np.zeros(0, np.int64)
        empty = JudgedRows(np.zeros(0, np.float32), rows, rows, rows)
        found = questions.ranks(np.zeros((1, 0), np.float32), rows, empty, np.array([False]))["catalogue"]
        assert (found.above[0, 0], found.tied[0, 0]) == wanted


def test_an_item_that_nobody_knows_is_missed_by_all() -> None:
    """Of an item that comes with its first install, and was neither described nor shown, nothing can be ranked."""
    questions = NextInstalls(camps_spec(), ["ours"], ["popular"], SessionOptions())
    for item in "abc":
        questions.see(Item(item))
    questions.see(install("u", "a", 1))
    assert questions.ask(Question("me", 5_000, ["new", "c"])) is not None
    questions.answer(0, np.array([0.1, 0.9, 0.5], np.float32))
    rows = np.zeros(0, np.int64)
    empty = JudgedRows(np.zeros(0, np.float32), rows, rows, rows)
    questions.see(Impression("p", 9_000, "me", ["a"]))
    found = questions.ranks(np.zeros((1, 0), np.float32), rows, empty, np.array([False]))["catalogue"]
    assert found.names == ["ours", "popular", "retrieval"]
    assert found.above.tolist() == [[MISSED, 1], [MISSED, 1], [MISSED, 2]]
    assert found.tied.tolist() == [[0, 0], [0, 1], [0, 0]], "popular knows nothing of b and c"


def test_questions_change_no_prediction() -> None:
    """Whoever is asked in between predicts pages, and learns, as without: to the bit."""
    spec = camps_spec()
    plain = Backtest(spec, [ModelEntrant(spec, ["wide"], 0), River(spec, PeerRates())], ExampleLog()).run(EVENTS)
    found = judged(EVENTS, River(spec, PeerRates()))
    assert found.ranks
    assert found.predictions.tobytes() == plain.predictions.tobytes()
    assert found.arrivals[0] == plain.arrivals[0]
    assert not plain.ranks


def test_a_rank_knows_nothing_of_its_second_or_of_what_comes_later() -> None:
    """The first installs rank alike whether the log ends after them or goes on."""
    until_ms = START_MS + 600_000
    part = [event for event in EVENTS if getattr(event, "time_ms", 0) < until_ms]
    whole, cut = judged(EVENTS).ranks, judged(part).ranks
    for of in ("catalogue", "retrieved"):
        n = len(cut[of].users)
        assert 0 < n < len(whole[of].users)
        np.testing.assert_array_equal(whole[of].above[:, :n], cut[of].above)
        np.testing.assert_array_equal(whole[of].tied[:, :n], cut[of].tied)


def test_all_rank_the_same_lists() -> None:
    """Where something is left out of the candidates, all miss it there; in the catalogue those of ours alone do."""
    events = slow_world(800)
    spec = camps_spec(TEXT + "[retrieval]\ncount = 4")
    ranks = judged(events, VowpalWabbit(spec, PeerRates()), every=2, spec=spec).ranks
    catalogue, retrieved = ranks["catalogue"], ranks["retrieved"]
    names = ["wide", "vw", "popular", "rules", "item-knn", "v-sknn", "retrieval"]
    assert catalogue.names == retrieved.names == names
    assert set(retrieved.sizes.tolist()) <= {1, 2, 3, 4}
    is_missed = retrieved.above == MISSED
    assert 0.1 < is_missed.mean() < 0.9
    assert (is_missed == is_missed[0]).all()
    np.testing.assert_array_equal(catalogue.above[[0, 1, 6]], retrieved.above[[0, 1, 6]])
    assert (catalogue.above[2:6] + catalogue.tied[2:6] < catalogue.sizes).all()
    for above, tied in zip(retrieved.above, retrieved.tied, strict=True):
        hit = above < MISSED
        assert (above[hit] + tied[hit] < retrieved.sizes[hit]).all()


def test_candidates_are_scored_as_they_would_be_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """Position and other `serve_as` columns are held still: the order of the candidates says nothing."""
    text = TEXT.replace("[statistics]", '[context]\nposition = { type = "number", serve_as = 2 }\n[statistics]')
    spec = camps_spec(text.replace('"item.tags", "statistics.*"', '"item.tags", "context.position"'))
    events: list[WorldEvent] = []
    for event in EVENTS:
        events += [event] * (not isinstance(event, Install))
        if isinstance(event, Impression):  # whoever is shown something takes the first of it
            name = event.request_id
            events.append(Install(event.user, event.items[0], event.time_ms + 1_000, f"{name}-first", name))
    ours = ModelEntrant(spec, ["deep"], 0)
    questions = NextInstalls(spec, ["deep"], [], SessionOptions())
    answers: list[F32] = []
    answer = questions.answer

    def kept(entrant: int, predictions: F32) -> None:
        answers.append(predictions)
        answer(entrant, predictions)

    monkeypatch.setattr(questions, "answer", kept)
    scores = Backtest(spec, [ours], ExampleLog(), next_installs=questions).run(events)
    last = [answer for answer in answers if len(answer) > 3][-1]
    assert len(set(last.tolist())) <= 2, "nothing but the two tags tells candidates apart"
    assert abs(scores.predictions[0, -2] - scores.predictions[0, -1]) > 0.2, "on a page the position does"


def test_peers_options_are_named_with_the_rates() -> None:
    """--peer-rate takes both; counts are whole numbers, and what is wrong is refused with what there is."""
    rates, options = peer_options(["alpha=0.5", "vsknn_k=500", "knn_alpha=0.5"])
    assert (rates.alpha, options.vsknn_k, options.knn_alpha) == (0.5, 500, 0.5)
    assert isinstance(options.vsknn_k, int)
    for wrong in ("vsknn_k=0.5", "vsknn_k=-1", "vsknn=1", "rules_decay=inf"):
        with pytest.raises(SettingsError, match="rules_last"):
            peer_options([wrong])


def test_the_command_prints_and_writes_ranks(tmp_path: Path) -> None:
    """A table for each list; in the JSON each figure with its interval, and the gain over the first entrant."""
    source, spec, written = tmp_path / "events.jsonl", tmp_path / "spec.toml", tmp_path / "out.json"
    write_lines(source, EVENTS)
    spec.write_text(TEXT)
    words = ["backtest", str(source), "--spec", str(spec), "--parts", "wide", "--peer", "popular,rules,knn"]
    result = CliRunner().invoke(app, [*words, "--every", "2", "--json", str(written)])
    assert result.exit_code == 0, result.output
    for title in ("next install, of all items", "of the same candidates", "installed items, among those of their page"):
        assert title in result.output
    found = json.loads(written.read_text())
    for name in ("wide", "popular", "rules", "item-knn", "v-sknn"):
        for of in ("catalogue", "retrieved", "on_page"):
            low, value, high = (found[f"{name}.{of}_ndcg{end}"] for end in ("_low", "", "_high"))
            assert 0 < low < value < high < 1
    assert found["wide.on_page_ndcg"] == pytest.approx(found["wide.page_ndcg"]), "pages of two: the same by definition"
    assert "rules.catalogue_mrr_gain_low" in found
    assert found["catalogue_installs"] == found["retrieved_installs"] > 20
