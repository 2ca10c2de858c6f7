"""What every room stands on: errors, settings, logs, health, files that survive a power cut."""
