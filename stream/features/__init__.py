"""A page's columns and statistics, and how they become what the model reads."""
