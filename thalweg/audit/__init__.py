"""The audit: joins the log a second time, offline and by definition, and compares with what was emitted."""
