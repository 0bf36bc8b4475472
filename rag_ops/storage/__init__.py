"""Files on any fsspec store: written whole or not at all, and the stages made of them."""
