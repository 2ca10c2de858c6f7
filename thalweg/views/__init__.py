"""What operators look at: a page's life, dead letters, tables."""
