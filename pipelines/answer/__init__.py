"""answer: question files in, a Parquet table of answers out."""
