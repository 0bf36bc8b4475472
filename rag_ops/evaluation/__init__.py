"""How right answers are: figures, sweeps, the report."""
