"""The audit: the join done a second time, offline and by definition, and compared with what stands in the log."""
