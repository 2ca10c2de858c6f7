"""The log: its protocol, its implementations on Kafka and in memory, topic administration, dead letters."""
