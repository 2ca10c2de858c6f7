"""The log: its protocol, Kafka and memory behind it, topics' administration, dead letters."""
