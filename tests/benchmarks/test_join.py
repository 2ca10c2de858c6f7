"""What the joiner's benchmark counts by, where it can be wrong without a joiner."""

from itertools import chain

import numpy as np
import pytest

from benchmarks.join_faults import relearned
from benchmarks.page_template import PageTemplate
from stream.events.codec import decode_events
from stream.events.types import Impression, Install
from stream.joiner.join import Joiner
from stream.joiner.kernels.record_scan import EVENTS_END
from stream.joiner.label_rules import LabelRules
from stream.joiner.record_events import scan_records


def test_an_id_is_learned_again_where_it_was_forgotten() -> None:
    """An id counts when it comes again after as many distinct others as a learner remembers, or more; copies don't."""
    assert relearned([1, 2, 2, 1], 2) == 0
    assert relearned([1, 2, 2, 3, 1], 2) == 1
    assert relearned([1, 2, 1, 3, 1], 2) == 0
    assert relearned([1, 2, 1, 1], 0) == 2


@pytest.mark.parametrize("features_bytes", [0, 1_230])
def test_patched_records_are_pages_like_any(features_bytes: int) -> None:
    """The kernels take them; ids differ, time goes on, and every install is of a page of its record."""
    raw = list(PageTemplate(features_bytes).records(5 * 64, 64, users=10_000, begin_ms=10**12, pages_a_ms=5))
    events, bad = zip(*map(decode_events, raw), strict=True)
    assert not any(bad)
    found = scan_records(raw, range(5), [0] * 5)
    assert np.diff(found.records[:, EVENTS_END], prepend=0).tolist() == [64 + 3, 64 + 3, 64 + 3, 64 + 3, 64 + 4]
    pages = [event for event in chain(*events) if isinstance(event, Impression)]
    assert len({page.request_id for page in pages}) == 5 * 64
    assert [page.time_ms for page in pages] == [10**12 + k // 5 for k in range(5 * 64)]
    assert {len(page.features) for page in pages} == {features_bytes}
    join = Joiner(LabelRules("eager", window_ms=10_000))
    installed = sum(sum(example.labels) for n, part in enumerate(events) for example in join.feed(part, n, 2 * 10**12))
    installs = [event for event in chain(*events) if isinstance(event, Install)]
    assert installed == len({(one.user, one.item) for one in installs}) == 16
