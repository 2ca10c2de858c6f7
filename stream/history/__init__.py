"""What each user installed, and when."""
