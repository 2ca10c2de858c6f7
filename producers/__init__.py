"""Data sets and replays that write events to the log."""
