"""Devices, threads, and batches that fit them."""
