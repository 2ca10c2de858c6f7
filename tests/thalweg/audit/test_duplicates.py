"""What a learner learns twice: it remembers the ids of each partition of `events` apart, and so judges the audit."""

from pathlib import Path

import numpy as np
import pytest

from learner.training.dedup import RecentIds, source_of
from stream.events.codec import encode_record
from stream.events.topics import EXAMPLES
from stream.events.types import WINDOW_CLOSED, Examples, Impression
from stream.log.protocol import Record
from thalweg.audit.duplicates import DuplicateIds
from thalweg.audit.emitted import EmittedScan
from thalweg.audit.spill import bucket_of

T = 1_700_000_000_000


@pytest.mark.parametrize(
    ("keys", "twice"),
    [((b"0", b"1", b"0"), 0), ((b"0", b"0", b"0"), 1), ((b"0", b"1", b"1"), 1), ((None, b"1", None), 0)],
)
def test_what_other_partitions_led_to_meanwhile_pushes_nothing_out(
    keys: tuple[bytes | None, ...], twice: int, tmp_path: Path
) -> None:
    """More examples than are remembered lie between an example and its copy: it's new if they have its key."""
    scan, seen, learned = EmittedScan(tmp_path), RecentIds(ids_max=8), 0
    batches = [[99], [*range(1, 18)], [99]]
    for offset, (key, ids) in enumerate(zip(keys, batches, strict=True)):
        n = len(ids)
        page = Impression("r", T, "u", ["a"])
        examples = Examples(page, ids, [0] * n, [0] * n, [1.0] * n, [WINDOW_CLOSED] * n, [T] * n)
        scan.add(Record(EXAMPLES.name, 0, offset, T, key, encode_record([examples])))
        learned += sum(int(seen.add(np.array([one], np.uint64), source_of(key))[0]) for one in ids)
    duplicates = DuplicateIds()
    duplicates.add(0, list(scan.examples_spill.bucket(bucket_of("u"))))
    assert duplicates.learned_twice(8, first=3)[0] == twice
    assert learned == 18 + twice
