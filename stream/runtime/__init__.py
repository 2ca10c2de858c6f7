"""Base utilities: errors, settings, logs, health, files that survive a power cut."""
