"""The local stack: Kafka and Redis as processes, their status, and what a machine lacks to run them."""
