"""Sources of events by name: read to the end, or replayed into Kafka."""
