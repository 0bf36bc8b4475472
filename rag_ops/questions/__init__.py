"""Question files in, blocks of questions and rows of answers out."""
