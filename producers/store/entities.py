"""Items and users as the store describes them."""

from collections.abc import Set

from producers.store import names
from producers.store.parameters import START_MS
from producers.store.population import AppTable, UserTable
from stream.events.types import Item, User, Value

FIRST_DAY = START_MS // 86_400_000  # `released` counts days of world time since 1970, as if it began on this day


def describe_app(apps: AppTable, app: int, popularity: float, hidden: Set[str]) -> Item:
    """The item of an app, without hidden columns."""
    attributes: dict[str, Value] = {
        "category": tuple(names.CATEGORIES)[apps.categories[app]],
        "developer": f"dev-{apps.developers[app]:03d}",
        "price": float(apps.prices[app]),
        "age_rating": float(apps.ratings[app]),
        "released": float(FIRST_DAY + int(apps.released_days[app] // 1)),
        "tags": [names.TAGS[tag] for tag in apps.tags[app].tolist() if tag >= 0],
    }
    return Item(
        names.app_name(app), _visible(attributes, hidden), names.title(int(apps.categories[app]), apps.words[app]),
        popularity,
    )  # fmt: skip


def describe_user(users: UserTable, user: int, hidden: Set[str]) -> User:
    """The event of a user, without hidden columns."""
    attributes: dict[str, Value] = {
        "age": float(users.ages[user]),
        "country": names.COUNTRIES[users.countries[user]],
        "device": names.DEVICES[users.devices[user]],
    }
    return User(names.user_name(user), _visible(attributes, hidden))


def _visible(attributes: dict[str, Value], hidden: Set[str]) -> dict[str, Value]:
    return {name: value for name, value in attributes.items() if name not in hidden}
