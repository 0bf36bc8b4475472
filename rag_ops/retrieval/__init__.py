"""Indexes: designed, built, searched, measured; and the passages found."""
