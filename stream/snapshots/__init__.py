"""Published versions: manifests, blobs, the head, and the stores that keep them."""
