"""Examples in Parquet files by day: written from the log, read in its order before what the log still has."""
