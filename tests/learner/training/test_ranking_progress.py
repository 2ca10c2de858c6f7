"""Figures of ranking as labels come: each page and session once, whole, and bounded."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pytest

from learner.training.ranking_figures import RankingFigures, ranking_figures
from learner.training.ranking_kernels import PAGE_ITEMS, PAGES, RECENT, SESSION_ITEMS, SESSIONS
from learner.training.ranking_progress import LATE_MS, PageColumns, RankingProgress

WINDOW_MS = 10_000
HOUR_MS = 3_600_000


class Page(NamedTuple):
    """Some labels of a page: its number, user, time and size, and their positions, predictions, labels."""

    number: int
    user: int
    time_ms: int
    size: int
    positions: Sequence[int]
    predictions: Sequence[float]
    labels: Sequence[int]


def add(progress: RankingProgress, pages: Sequence[Page], *, corrected: bool = False, slices: int = 0) -> None:
    """These labels, in one record; an item is in slice s if its position is s."""
    identities = np.array([(page.number, page.user, page.size) for page in pages], np.int64).reshape(-1, 3)
    counts = [len(page.positions) for page in pages]
    positions = np.array([p for page in pages for p in page.positions], np.int64)
    progress.add(
        np.array([p for page in pages for p in page.predictions], np.float32),
        np.array([y for page in pages for y in page.labels], np.float32),
        positions[:, None] == np.arange(slices),
        np.full(sum(counts), corrected),
        PageColumns(identities, np.repeat(np.arange(len(pages)), counts), positions,
                    np.repeat(np.array([page.time_ms for page in pages], np.float64), counts)),
    )  # fmt: skip


def whole_pages(n: int, seed: int = 0, users: int = 5, size: int = 4) -> list[Page]:
    """Pages with all of their labels, 20 s apart, with hours between every 30th."""
    random = np.random.default_rng(seed)
    return [
        Page(
            k + 1, int(random.integers(1, users + 1)), 20_000 * k + 2 * HOUR_MS * (k // 30), size, range(size),
            random.random(size).tolist(), (random.random(size) < 0.3).astype(int).tolist(),
        )
        for k in range(n)
    ]  # fmt: skip


def end(progress: RankingProgress, time_ms: int, number: int = 10**9) -> None:
    """Pages of one negative item of nobody else, until every slot was looked through."""
    add(progress, [Page(number + k, 999, time_ms, 1, [0], [0.5], [0]) for k in range(PAGES // 2)])


def assert_same(found: RankingFigures, wanted: RankingFigures) -> None:
    """Equal but for rounding."""
    assert found.groups == wanted.groups
    for name, value in wanted.named().items():
        assert found.named()[name] == pytest.approx(value, rel=1e-6, nan_ok=True), name


def wanted_figures(pages: Sequence[Page], groups: Sequence[int]) -> RankingFigures:
    """By definition, of pages in these groups."""
    sizes = [len(page.predictions) for page in pages]
    return ranking_figures(
        np.array([p for page in pages for p in page.predictions], np.float32),
        np.array([y for page in pages for y in page.labels], np.float32),
        np.repeat(np.array(groups), sizes),
    )


def session_groups(pages: Sequence[Page]) -> list[int]:
    """The session of each page of `whole_pages`."""
    return [100 * (k // 30) + page.user for k, page in enumerate(pages)]


def test_pages_and_sessions_are_counted_by_definition() -> None:
    """Once all their labels are there; sessions once they are over."""
    pages, progress = whole_pages(200), RankingProgress(0, WINDOW_MS)
    for k in range(0, 200, 7):
        add(progress, pages[k : k + 7])
    assert_same(progress.lifetime("page"), wanted_figures(pages, range(200)))
    assert progress.window("page") == progress.lifetime("page")
    end(progress, pages[-1].time_ms + 3 * HOUR_MS)
    assert_same(progress.lifetime("session"), wanted_figures(pages, session_groups(pages)))
    assert progress.lifetime("session").groups < progress.lifetime("page").groups
    assert not any(progress.uncounted().values())


def test_labels_may_come_in_several_records() -> None:
    """Positives early, negatives at the close, other pages between: each at its own prediction, a second first label
    of an item doesn't count."""
    pages, progress = whole_pages(90), RankingProgress(0, WINDOW_MS)
    for before, page in zip([None, None, *pages], [*pages, None, None], strict=True):
        for one, wanted in ((page, 1), (before, 0)):
            of = [k for k in range(4) if one is not None and one.labels[k] == wanted]
            if one is not None and of:
                add(progress, [one._replace(positions=of, predictions=[one.predictions[k] for k in of],
                                            labels=[wanted] * len(of))])  # fmt: skip
                add(progress, [one._replace(positions=of[:1], predictions=[0.5], labels=[1 - wanted])][:wanted])
    assert_same(progress.lifetime("page"), wanted_figures(pages, range(90)))
    assert not any(progress.uncounted().values())


def test_corrections_count_until_the_window_is_over() -> None:
    """Under `fake_negative`: at the first predictions; a page counts when its labels are settled, then never again."""
    progress = RankingProgress(0, WINDOW_MS, settles=True)
    pages = whole_pages(60)
    add(progress, [page._replace(labels=[0] * 4) for page in pages[:30]])
    for page in pages[:30]:
        of = [k for k in range(4) if page.labels[k]]
        add(progress, [page._replace(positions=of, predictions=[0.9] * len(of), labels=[1] * len(of))], corrected=True)
    first = pages[0]
    add(progress, [first._replace(positions=[0], predictions=[0.1], labels=[first.labels[0]])], corrected=True)
    over_ms = pages[29].time_ms + WINDOW_MS + LATE_MS + 1
    end(progress, over_ms)
    assert_same(progress.lifetime("page"), wanted_figures(pages[:30], range(30)))
    before = progress.lifetime("page")
    add(progress, [page._replace(labels=[1, 0, 0, 0]) for page in pages[:30]], corrected=True)
    end(progress, over_ms + HOUR_MS, number=2 * 10**9)
    assert progress.lifetime("page") == before


def test_the_same_bits_however_packed_and_over_a_restart() -> None:
    """State and figures, one by one or all at once, copied and resumed in between."""
    pages = whole_pages(300, users=40)
    early = [page._replace(positions=[0], predictions=page.predictions[:1], labels=[1]) for page in pages[:20]]
    packed, singly = RankingProgress(1, WINDOW_MS), RankingProgress(1, WINDOW_MS)
    add(packed, [*early, *pages], slices=1)
    for k, page in enumerate([*early, *pages]):
        add(singly, [page], slices=1)
        if k == 150:
            singly.window("session")
            again = RankingProgress(1, WINDOW_MS)
            again.restore(singly.arrays(), [0, 1])
            singly = again
    for name, array in packed.arrays().items():
        assert array.tobytes() == singly.arrays()[name].tobytes(), name
    assert packed.lifetime("session", 1) == singly.lifetime("session", 1)


def test_pages_that_end_later_wait() -> None:
    """Of the newest examples some may be left for later: a page with one of them is counted then."""
    pages, progress = whole_pages(50), RankingProgress(0, WINDOW_MS)
    add(progress, pages)
    progress.flush(later=4 * 20 + 1)
    partly = progress._state.ranking_sums[0, 0, 2]
    assert partly == wanted_figures(pages[:29], range(29)).groups
    assert_same(progress.lifetime("page"), wanted_figures(pages, range(50)))


def test_slices_are_ranked_among_themselves() -> None:
    """Of a page only the items of the slice; a slice of one item a page has sessions only."""
    pages, progress = whole_pages(90, users=3), RankingProgress(70, WINDOW_MS)
    add(progress, pages, slices=70)
    end_slices(progress, pages[-1].time_ms + 3 * HOUR_MS)
    assert progress.lifetime("page", 1).groups == 0
    of_first = [page._replace(predictions=page.predictions[:1], labels=page.labels[:1]) for page in pages]
    assert_same(progress.lifetime("session", 1), wanted_figures(of_first, session_groups(pages)))
    assert progress.lifetime("session", 70).groups == 0


def end_slices(progress: RankingProgress, time_ms: int) -> None:
    """As `end`, with 70 slices."""
    add(progress, [Page(10**9 + k, 999, time_ms, 1, [0], [0.5], [0]) for k in range(PAGES // 2)], slices=70)


def test_slices_may_change_at_a_restart() -> None:
    """Figures go on by name; what wasn't complete is dropped."""
    pages, before, after = whole_pages(90), RankingProgress(2, WINDOW_MS), RankingProgress(2, WINDOW_MS)
    add(before, pages, slices=2)
    after.restore(before.arrays(), [0, 2, -1])
    assert after.lifetime("page") == before.lifetime("page")
    assert after.window("session", 1) == before.window("session", 2)
    assert after.lifetime("page", 2).groups == 0
    end(after, pages[-1].time_ms + 3 * HOUR_MS)


def test_memory_is_bounded_and_what_is_left_out_is_told() -> None:
    """Pages that wait have PAGES slots, sessions SESSIONS; large pages and those never complete aren't counted."""
    progress = RankingProgress(0, WINDOW_MS)
    waiting = [Page(k + 1, k + 1, 1_000, 2, [0], [0.5], [1]) for k in range(2 * PAGES)]
    add(progress, waiting)
    assert progress.uncounted()["no slot"] == PAGES
    add(progress, [page._replace(positions=[1], predictions=[0.1], labels=[0]) for page in waiting[:PAGES]])
    assert progress.lifetime("page").groups == PAGES
    assert progress.uncounted()["session without slot"] == PAGES - SESSIONS
    n = PAGE_ITEMS + 1
    add(progress, [Page(10**6, 1, 1_000, n, range(n), [0.5] * n, [1] + [0] * (n - 1))])
    assert progress.uncounted()["large"] == 1
    add(progress, [Page(10**6, 1, 1_000, 2, [0], [0.5], [1])])
    end(progress, 1_000 + HOUR_MS)
    assert progress.uncounted()["incomplete"] == 1
    assert progress.lifetime("session").groups == SESSIONS


def test_a_long_session_is_counted_in_pieces() -> None:
    """Of as many items as there is room for."""
    progress, size = RankingProgress(0, WINDOW_MS), 32
    n = 2 * SESSION_ITEMS // size + 1
    add(progress, [Page(k + 1, 7, 1_000 * k, size, range(size), [0.5] * size, [1] + [0] * 31) for k in range(n)])
    assert progress.lifetime("session").groups == 2
    end(progress, 3 * HOUR_MS)
    assert progress.lifetime("session").groups == 3


def test_the_window_forgets() -> None:
    """The last RECENT pages only."""
    progress = RankingProgress(0, WINDOW_MS)
    for n, predictions in ((RECENT, [0.1, 0.9]), (RECENT, [0.9, 0.1])):
        add(progress, [Page(k + 1, 1, 1_000, 2, [0, 1], predictions, [1, 0]) for k in range(n)])
    assert progress.window("page").auc == 1.0
    assert progress.lifetime("page").auc == 0.5


def test_a_prediction_that_is_no_number_ranks_last() -> None:
    """NaN is below all others."""
    progress = RankingProgress(0, WINDOW_MS)
    add(progress, [Page(1, 1, 1_000, 3, [0, 1, 2], [0.5, float("nan"), 0.2], [0, 1, 0])])
    assert progress.lifetime("page").auc == 0.0
