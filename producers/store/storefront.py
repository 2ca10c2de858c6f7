"""The store's front: asks rankers for the pages that are due, shows their answers, and sends what users do.

It knows a log and a world, no service: pages are ranked by whatever its arms' `Rankers` ask. `ask`, `receive` and
`send` never wait, so that one thread can play the store beside its services, or against services of other processes.
"""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Final, NamedTuple

import numpy as np

from producers.batching_producer import BatchingProducer
from producers.features import Histories
from producers.store.arm import Arm, ChosenPage, selected
from producers.store.pages import Outcomes, PageBatch
from producers.store.pages_without_model import PagesWithoutModel
from producers.store.rankers import LogRankers, Rankers
from producers.store.world import StoreWorld
from stream.events.codec import encode
from stream.events.topics import EVENTS, ITEMS, USERS
from stream.events.types import Impression, Install, Item, RankReply, RankRequest, User
from stream.log.protocol import Log, partition_of
from stream.spec.spec import Spec
from stream.tables.dtypes import F64, I64

PAGE_ITEMS: Final = 10
PAGES_MAX: Final = 32  # of one batch of requests
DEADLINE_MS: Final = 3_600_000  # of a request: users of a made-up store wait for their page


class Reply(NamedTuple):
    """A reply as it came: when (see Replied), and the time of its request."""

    reply: RankReply
    replied_ms: int
    page_ms: int


class RankedCandidates(NamedTuple):
    """All that one page's reply has ranked: indices of the page's candidates, int64 [n], and their features."""

    candidates: I64
    features: bytes


class ShownPages(NamedTuple):
    """Pages that were shown, B of them."""

    pages: PageBatch
    arms: I64  # int64 [B]
    shown: I64  # int64 [B, k], candidates as indices of pages.candidates' rows
    probabilities: F64  # float64 [B, C], P(install | examined) of each candidate
    outcomes: Outcomes
    features: list[bytes]
    replies: list[Reply]
    expected: F64  # float64 [B], installs to be expected of what was shown, by the world's truth
    oracle: F64  # float64 [B], of the best page of the same candidates
    popular: F64  # float64 [B], of the most popular ones
    random: F64  # float64 [B], of random ones
    whole: dict[int, RankedCandidates]  # by page of the batch: those whose reply has all candidates


class Failed(NamedTuple):
    """A page that nobody sees: its user and time, and why there's no list to show; `kind`: the ranker's word for it."""

    user: str
    page_ms: int
    reason: str
    kind: str = ""


class _Asked(NamedTuple):
    pages: PageBatch
    page: int
    arm: int
    candidates: I64  # asked for
    names: list[str]  # of these
    k: int  # how many shall be ranked: those that are shown, or all


class Answered(NamedTuple):
    """A request and its reply."""

    asked: _Asked
    reply: Reply


class Storefront:
    """Plays a world against rankers. `assign`: the name of a user's arm. `histories`: sent with requests, if given.

    `rankers_of`: those of an arm's log. `whole_every`: every Nth page has all candidates in its reply, for whoever
    compares rankings; what is shown is the same.

    While a ranker has no model, its pages get the features that a model would have logged which has learned nothing.
    """

    def __init__(
        self,
        log: Log,
        world: StoreWorld,
        arms: Sequence[Arm],
        assign: Callable[[str], str],
        spec: Spec,
        producer: BatchingProducer,
        histories: Histories | None = None,
        rankers_of: Callable[[Log], Rankers] = LogRankers,
        whole_every: int = 0,
    ) -> None:
        self.world, self.arms = world, arms
        self.failed: list[Failed] = []  # since whoever reads it last emptied it
        self._assign, self._producer, self._histories, self._whole_every = assign, producer, histories, whole_every
        self._indices = {arm.name: index for index, arm in enumerate(arms)}
        self._partitions = {name: log.partitions(name) for name in (EVENTS.name, ITEMS.name, USERS.name)}
        self._rankers = {key: rankers_of(one) for key, one in {id(arm.log): arm.log for arm in arms}.items()}
        self._asked: dict[str, _Asked] = {}
        self._without_model = PagesWithoutModel(spec)

    @property
    def pending(self) -> int:
        """Requests without a reply."""
        return len(self._asked)

    def open(self) -> None:
        """Send all items and users, and what users have installed before."""
        entities = self.world.entities()
        for entity in entities:
            self._send_entity(entity)
        self._without_model.warm_up(entities[0])
        for install in self.world.past_installs():
            self.send_event(install)
        self._producer.flush()

    def ask(
        self, until_ms: int, pages_max: int = PAGES_MAX, before: Callable[[int], None] = lambda time_ms: None
    ) -> int:
        """Request the next pages that are due before `until_ms`, at most one a user; returns how many.

        `before` is called with the first page's time: what is due by then, such as new items, may be sent first.
        """
        pages = self.world.next_pages(until_ms, pages_max)
        if len(pages.numbers):
            before(int(pages.times_ms[0]))
        requests: dict[int, list[RankRequest]] = {}  # by arm
        for b in range(len(pages.numbers)):
            user = pages.user(b)
            index = self._indices[self._assign(user)]
            arm = self.arms[index]
            is_whole = bool(self._whole_every) and int(pages.numbers[b]) % self._whole_every == 0
            k = pages.candidates.shape[1] if is_whole else PAGE_ITEMS
            candidates = arm.policy.candidates(pages, b, k)
            names = pages.items(b, candidates)
            request_id = pages.request_id(b)
            history = (
                None if self._histories is None else self._histories.newest(user, self._without_model.history_last)
            )
            request = RankRequest(
                request_id, user, arm.policy.ranked_max(k, len(candidates)), int(pages.times_ms[b]),
                pages.context(b), names, DEADLINE_MS, history,
            )  # fmt: skip
            requests.setdefault(index, []).append(request)
            self._asked[request_id] = _Asked(pages, b, index, candidates, names, k)
        for index, some in requests.items():
            self._rankers[id(self.arms[index].log)].ask(some)
        return len(pages.numbers)

    def receive(self) -> ShownPages | None:
        """Show the pages whose replies have come."""
        return self.show(self.replies())

    def replies(self, wait_s: float = 0.0) -> list[Answered]:
        """Replies that come within `wait_s`, in the order of their pages; those with an error are in `failed`."""
        found: list[Answered] = []
        for rankers in self._rankers.values():
            for reply, replied_ms in rankers.replies(wait_s):
                asked = self._asked.pop(reply.request_id, None)
                if asked is None:
                    continue  # another caller's
                page_ms = int(asked.pages.times_ms[asked.page])
                if reply.error:
                    self.failed.append(Failed(reply.user, page_ms, reply.error, reply.kind))
                    continue
                found.append(Answered(asked, Reply(reply, replied_ms, page_ms)))
        found.sort(key=lambda one: int(one.asked.pages.numbers[one.asked.page]))
        return found

    def show(self, answered: Sequence[Answered]) -> ShownPages | None:
        """Show the pages of these replies, if any; impressions and installs are due from their page's time on."""
        if not answered:
            return None
        asked, replies = [one.asked for one in answered], [one.reply for one in answered]
        pages = _joined(asked)
        ranked = [self._choose(one, reply.reply) for one, reply in zip(asked, replies, strict=True)]
        chosen = [self._first(page) for page in ranked]
        shown = np.stack([one.candidates[page.order] for one, page in zip(asked, chosen, strict=True)])
        probabilities = self.world.probabilities(pages)
        best, liked = (
            np.argsort(-of, axis=1, kind="stable")[:, : shown.shape[1]] for of in (probabilities, pages.popularity)
        )
        expected, oracle, popular = (self.world.expected_installs(probabilities, one) for one in (shown, best, liked))
        random = probabilities.mean(1) * self.world.examination.sum()
        outcomes = self.world.show(pages, shown)
        for b, (one, page, reply) in enumerate(zip(asked, chosen, replies, strict=True)):
            impression = Impression(
                reply.reply.request_id, reply.page_ms, reply.reply.user, pages.items(b, shown[b]),
                self.arms[one.arm].name, reply.reply.version, page.scores, [*page.propensities], page.features,
                pages.context(b),
            )  # fmt: skip
            self.world.post(impression, reply.page_ms)
        arms, features = np.array([one.arm for one in asked], np.int64), [page.features for page in chosen]
        whole = {
            b: RankedCandidates(one.candidates[page.order], page.features)
            for b, (one, page) in enumerate(zip(asked, ranked, strict=True))
            if one.k > PAGE_ITEMS
        }
        return ShownPages(
            pages, arms, shown, probabilities, outcomes, features, replies, expected, oracle, popular, random, whole
        )

    def expire(self, before_ms: int, reason: str) -> None:
        """Give up the pages from before `before_ms` that are still without a reply: nobody sees them."""
        for request_id, asked in list(self._asked.items()):  # in time order
            page_ms = int(asked.pages.times_ms[asked.page])
            if page_ms >= before_ms:
                break
            del self._asked[request_id]
            self.failed.append(Failed(asked.pages.user(asked.page), page_ms, reason))

    def send(self, until_ms: int) -> None:
        """Send the events that are due by `until_ms`."""
        for event in self.world.due(until_ms):
            if isinstance(event, Item | User):
                self._send_entity(event)
            else:
                assert isinstance(event, Impression | Install), "the store sends nothing else"
                self.send_event(event)
        self._producer.send_due()

    def close(self) -> None:
        """Leave the rankers; the logs stay open."""
        for rankers in self._rankers.values():
            rankers.close()

    def _choose(self, asked: _Asked, reply: RankReply) -> ChosenPage:
        names = asked.names
        index_of = {name: index for index, name in enumerate(names)}
        found = np.array([index_of[item] for item in reply.items], np.int64)
        policy = self.arms[asked.arm].policy
        if not reply.features:
            found = np.arange(min(len(names), policy.ranked_max(asked.k, len(names))))
            items = [names[index] for index in found]
            reply = self._without_model.reply(reply, items, asked.pages.context(asked.page))
        return policy.choose(reply, found, asked.k)

    def _first(self, page: ChosenPage) -> ChosenPage:
        """What is shown of it."""
        if len(page.order) <= PAGE_ITEMS:
            return page
        order = np.arange(PAGE_ITEMS)
        features = selected(self._without_model.layout, page.features, order)
        return ChosenPage(page.order[:PAGE_ITEMS], page.scores[:PAGE_ITEMS], features, page.propensities[:PAGE_ITEMS])

    def send_event(self, event: Impression | Install) -> None:
        """Send one event now."""
        if isinstance(event, Install) and self._histories is not None:
            self._histories.update(event)
        self._producer.append(partition_of(event.user, self._partitions[EVENTS.name]), encode(event))

    def _send_entity(self, entity: Item | User) -> None:
        self._without_model.put(entity)
        topic, key = (ITEMS.name, entity.item) if isinstance(entity, Item) else (USERS.name, entity.user)
        self._producer.send(topic, partition_of(key, self._partitions[topic]), encode(entity), key.encode())


def _joined(asked: Sequence[_Asked]) -> PageBatch:
    """The pages of these requests, in one batch."""
    runs = [list(run) for _, run in groupby(asked, key=lambda one: id(one.pages))]
    batches = [run[0].pages.take(np.array([one.page for one in run], np.int64)) for run in runs]
    return batches[0] if len(batches) == 1 else PageBatch.concatenated(batches)
