"""Transforms that more than one job uses."""
