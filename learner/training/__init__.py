"""From records to learned weights: batches, deduplication, the model, progressive validation."""
