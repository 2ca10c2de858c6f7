"""What a source yields, and the first pages of it."""

from producers.source import InvalidEvent, SourceElement, first_pages
from stream.events.types import Item
from tests.support.producer_worlds import install, page


def test_the_first_pages_keep_their_labels() -> None:
    """A limit counts pages; installs of the last ones are played until its window is over, no others."""
    first, second, later = page("r0", 0), page("r1", 1_000), page("r2", 1_500)
    own, others, end = install("i1", 2_900), install("i2", 2_950, request_id="r2"), install("i3", 3_000)
    source: list[SourceElement] = [
        Item("a"),
        first,
        InvalidEvent("line 3", "no"),
        second,
        later,
        own,
        others,
        end,
        page("r4", 3_100),
    ]
    assert list(first_pages(source, 2, 2_000)) == [Item("a"), first, InvalidEvent("line 3", "no"), second, own]


def test_a_source_with_fewer_pages_is_played_whole() -> None:
    """A limit above the number of pages leaves nothing out."""
    source: list[SourceElement] = [page("r0", 0), install("i0", 90_000)]
    assert list(first_pages(source, 2, 2_000)) == source
