"""How the reader that the demo ships was trained: its questions and texts, and the recipe."""
