"""Designing, building, searching and measuring indexes; and reading the passages that were found."""
