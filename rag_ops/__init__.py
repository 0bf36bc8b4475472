"""The work: pure functions and small classes over Arrow tables, NumPy arrays and tensors. Never imports Beam."""
