"""embed: passages in, vectors out."""
