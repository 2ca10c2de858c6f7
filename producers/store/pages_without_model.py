"""Features of pages from before there is a model: those that a model would have logged which has learned nothing."""

from stream.events.types import Item, RankReply, User
from stream.features.page_features import Catalogue, Layout, build_page
from stream.features.statistics import Statistics, StatisticsProgram
from stream.spec.spec import Spec


class PagesWithoutModel:
    """Items and users as they were sent; `reply` makes a page of them. `layout`: of its features."""

    def __init__(self, spec: Spec) -> None:
        self.layout = Layout(spec)
        self.history_last = self.layout.history_last
        self._catalogue = Catalogue(self.layout)
        self._statistics = Statistics(StatisticsProgram(spec, self.layout))
        self._users: dict[str, User] = {}

    def warm_up(self, item: Item | User) -> None:
        """Load the kernels, for which the first page would wait."""
        if isinstance(item, Item):
            self.reply(RankReply("", "", [], [], 0), [item.item], {})

    def put(self, entity: Item | User) -> None:
        """Take a new or changed item or user."""
        if isinstance(entity, Item):
            self._catalogue.put(entity)
        else:
            self._users[entity.user] = entity

    def reply(self, reply: RankReply, items: list[str], context: dict[str, str | float]) -> RankReply:
        """The reply of a ranker whose model has learned nothing: all items score the same."""
        user = self._users.get(reply.user, User(reply.user))
        columns = self.layout.user(reply.user, user.attributes, [], context)
        words = build_page(self.layout, columns, self._catalogue, self._catalogue.rows(items), reply.time_ms)
        self._statistics.fill(words, reply.time_ms)
        return RankReply(
            reply.request_id, reply.user, items, [0.5] * len(items), 0, features=words.tobytes(), time_ms=reply.time_ms
        )
