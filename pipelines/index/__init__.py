"""index: vectors in, an index out."""
