"""search: question files in, a Parquet table of ranked passages out."""
