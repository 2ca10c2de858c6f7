"""The spec of a model: read from TOML and validated."""
