"""Pages with made features, and the numbers that an encoder reads from them."""

from producers.features import FeatureBuilder
from stream.events.types import Impression
from stream.features.encoder import Encoder, one_page
from stream.features.page_features import words_of
from stream.spec.spec import Spec


def numbers_of(spec: Spec, builder: FeatureBuilder, shown: Impression) -> dict[str, float]:
    """The statistics in a page of one item, by name."""
    encoder = Encoder(spec, builder.layout)
    read = encoder.deep_input(one_page(words_of(shown.features, builder.layout, 1))).numbers[0]
    return {name.removeprefix("statistics."): float(v) for name, v in zip(encoder.deep_numbers, read, strict=True)}


def shown(builder: FeatureBuilder, event: Impression) -> Impression:
    """The page as it was taken."""
    taken = builder.process(event).event
    assert isinstance(taken, Impression)
    return taken
