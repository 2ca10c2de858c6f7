"""The Wide & Deep model, its optimisers, the training loop, checkpoints and the publish gate."""
