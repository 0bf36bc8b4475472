"""Articles from dumps, files and datasets, and the passages cut from them."""
