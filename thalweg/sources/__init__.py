"""Sources by name: read to their end, or played into Kafka."""
