"""What is in a version, what differs between two, whether a store's versions are whole."""
