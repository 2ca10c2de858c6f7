"""The console: one web page that shows the loop at work, for people."""
