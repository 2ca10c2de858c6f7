"""Words: categories, tags, countries, devices, ids and titles. All made up; no real brands."""

from functools import cache
from typing import Final

from stream.tables.dtypes import I64

# Category: its words in titles.
CATEGORIES: Final[dict[str, tuple[str, ...]]] = {
    "action games": ("Raid", "Blades", "Strike"),
    "puzzle games": ("Blocks", "Riddles", "Tiles"),
    "strategy games": ("Empire", "Tactics", "Frontier"),
    "racing games": ("Drift", "Rally", "Circuit"),
    "board games": ("Checkers", "Dominoes", "Dice"),
    "word games": ("Anagrams", "Letters", "Crosswords"),
    "casual games": ("Bubbles", "Farm", "Jump"),
    "role playing": ("Quest", "Legends", "Realms"),
    "music": ("Tuner", "Beats", "Player"),
    "photo": ("Camera", "Filters", "Collage"),
    "video": ("Editor", "Clips", "Studio"),
    "messaging": ("Chat", "Messenger", "Letters"),
    "social": ("Circles", "Meetup", "Feed"),
    "dating": ("Match", "Hearts", "Hello"),
    "news": ("Headlines", "Daily", "Briefing"),
    "weather": ("Forecast", "Radar", "Sky"),
    "maps": ("Navigator", "Routes", "Trails"),
    "travel": ("Trips", "Flights", "Hotels"),
    "food": ("Recipes", "Kitchen", "Delivery"),
    "fitness": ("Workout", "Runner", "Yoga"),
    "health": ("Sleep", "Calm", "Journal"),
    "shopping": ("Market", "Deals", "Basket"),
    "finance": ("Budget", "Wallet", "Ledger"),
    "business": ("Invoices", "Meetings", "Planner"),
    "office": ("Notes", "Scanner", "Sheets"),
    "education": ("Lessons", "Flashcards", "School"),
    "languages": ("Vocabulary", "Phrases", "Grammar"),
    "books": ("Reader", "Stories", "Library"),
    "kids": ("Painting", "Animals", "Bedtime"),
    "tools": ("Cleaner", "Launcher", "Torch"),
}
ADJECTIVES: Final = [
    "Quiet",
    "Bright",
    "Little",
    "Golden",
    "Silent",
    "Rapid",
    "Gentle",
    "Lucky",
    "Hidden",
    "Northern",
    "Clever",
    "Velvet",
    "Copper",
    "Amber",
    "Swift",
    "Cosy",
    "Crystal",
    "Paper",
    "Electric",
    "Honest",
    "Mellow",
    "Wandering",
    "Daring",
    "Simple",
]
NOUNS: Final = [
    "Harbor",
    "Meadow",
    "Lantern",
    "Otter",
    "Comet",
    "Willow",
    "Pebble",
    "Falcon",
    "River",
    "Orchard",
    "Marble",
    "Thimble",
    "Canyon",
    "Sparrow",
    "Beacon",
    "Cloud",
    "Maple",
    "Anchor",
    "Fox",
    "Island",
    "Kettle",
    "Prairie",
    "Summit",
    "Badger",
]
TAGS: Final = [
    "offline",
    "multiplayer",
    "relaxing",
    "competitive",
    "cooperative",
    "pixel-art",
    "realistic",
    "minimal",
    "colourful",
    "family",
    "one-hand",
    "short-sessions",
    "long-form",
    "daily-challenge",
    "leaderboards",
    "subscription",
    "no-ads",
    "open-source",
    "private",
    "cloud-sync",
    "widgets",
    "voice",
    "camera",
    "location",
    "health-data",
    "drawing",
    "reading",
    "listening",
    "learning",
    "planning",
    "sharing",
    "chatting",
    "streaming",
    "editing",
    "scanning",
    "tracking",
    "budgeting",
    "cooking",
    "travelling",
    "exercise",
    "meditation",
    "parenting",
    "pets",
    "nature",
    "space",
    "history",
    "science",
    "sports",
    "fashion",
    "retro",
    "fantasy",
    "horror",
    "humour",
    "mystery",
    "romance",
    "trivia",
    "cards",
    "building",
    "survival",
    "simulation",
]
COUNTRIES: Final = ["US", "IN", "BR", "DE", "JP", "GB", "FR", "MX", "ID", "TR", "PL", "NG"]
DEVICES: Final = ("phone", "tablet", "desktop")
AGE_RATINGS: Final = (4, 9, 12, 17)


@cache
def user_name(user: int) -> str:
    """The id of a user by index."""
    return f"user-{user:05d}"


@cache
def app_name(app: int) -> str:
    """The id of an app by index."""
    return f"app-{app:04d}"


def app_index(name: str) -> int:
    """The index of an app by id; -1 if it isn't one."""
    number = name.removeprefix("app-")
    return int(number) if number != name and number.isascii() and number.isdigit() else -1


def request_id(number: int) -> str:
    """The id of a page by number."""
    return f"page-{number}"


def title(category: int, words: I64) -> str:
    """A title from three numbers, such as `Quiet Harbor Notes`."""
    own = tuple(CATEGORIES.values())[category]
    return f"{ADJECTIVES[words[0] % len(ADJECTIVES)]} {NOUNS[words[1] % len(NOUNS)]} {own[words[2] % len(own)]}"
