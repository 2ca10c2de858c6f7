"""Every ranker drops the profiles of erased users."""

import threading

from ranker.serving.erased_users import ErasedUsers
from ranker.serving.recent_profiles import RecentProfiles
from stream.events.topics import ERASED
from stream.events.types import Erase
from stream.history.profiles import UserProfile
from stream.joiner.output_records import ledger_record
from stream.log.memory_log import MemoryLog
from tests.support.waiting import wait_until

PROFILE = UserProfile(["i"], {"age": 1.0})


def test_the_ledger_is_followed_from_now_on() -> None:
    """What was read before is dropped wholly; then each user that is erased, behind an invalid record, too."""
    log, dropped, stop = MemoryLog({ERASED.name: 1}, lambda: 1), list[str](), threading.Event()
    log.send(*ledger_record(Erase("old", 5)))
    follower = ErasedUsers(log, dropped.append, lambda: dropped.append("*"))
    thread = threading.Thread(target=follower.run, args=(stop,))
    thread.start()
    wait_until(lambda: dropped == ["*"])
    log.send(ERASED.name, 0, b"\xc1", b"k")
    log.send(*ledger_record(Erase("u", 5)))
    wait_until(lambda: dropped == ["*", "u"])
    stop.set()
    thread.join()


def test_a_deployment_without_the_topic_ranks() -> None:
    """One that an earlier release made: nobody is erased there, and the thread, whose end is the ranker's, goes on."""
    stop, asked = threading.Event(), list[str]()

    class Asked(MemoryLog):
        def ends(self, topic: str) -> dict[int, int]:
            asked.append(topic)
            stop.set()
            return super().ends(topic)

    ErasedUsers(Asked({}, lambda: 1), lambda user: None, lambda: None).run(stop)
    assert asked == [ERASED.name]


def test_of_an_erased_user_nothing_is_kept_for_a_while() -> None:
    """A read that began before the erasure doesn't bring the profile back; other users' and later ones are kept."""
    now_s = 0.0
    recent = RecentProfiles(lambda: now_s, ttl_s=10.0, weight_max=100)
    recent.put({"u": PROFILE, "v": PROFILE})
    recent.erase("u")
    recent.put({"u": PROFILE})
    assert (recent.get("u"), recent.get("v")) == (None, PROFILE)
    now_s = 10.0
    recent.put({"u": PROFILE})
    assert recent.get("u") == PROFILE
    recent.clear()
    assert recent.get("u") is None
