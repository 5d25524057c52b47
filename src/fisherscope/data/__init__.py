"""Named sets, folders, Parquet files and arrays: samples with names and keys."""
