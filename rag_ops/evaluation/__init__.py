"""Measures how good answers are: figures, sweeps, the report."""
