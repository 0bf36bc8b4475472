"""Files on any fsspec store, written whole or not at all, and stage directories made of them."""
