"""What a model is: the spec, read from TOML and checked."""
