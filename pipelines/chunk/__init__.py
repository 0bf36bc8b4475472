"""chunk: Wikipedia in, passages out."""
