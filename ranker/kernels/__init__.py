"""What is compiled: tables, caches and products that score a page."""
