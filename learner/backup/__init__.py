"""Backups: the learner's state and what Kafka alone knows, as content-addressed blobs in a folder or a bucket."""
