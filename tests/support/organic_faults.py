"""Faults in the organic installs of `examples` that an audit must find."""

from collections.abc import Callable, Sequence

import msgspec

from stream.events.types import Organic

SABOTAGE: dict[str, Callable[[Sequence[Organic]], Sequence[Organic]]] = {
    "organic_unlearned": lambda emitted: emitted[1:],
    "organic_learned": lambda emitted: [*emitted, *(msgspec.structs.replace(one, item="claimed") for one in emitted)],
}
