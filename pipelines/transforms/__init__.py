"""Transforms that several jobs share."""
