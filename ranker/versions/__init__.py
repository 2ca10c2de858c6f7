"""From manifests to a model that serves."""
