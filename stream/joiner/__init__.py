"""The join of pages and installs, and the service that runs it on Kafka."""
