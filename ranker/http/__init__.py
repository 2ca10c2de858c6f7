"""HTTP beside Kafka: ranking, events, models and items for whoever speaks JSON or MessagePack."""
