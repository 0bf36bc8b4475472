"""Reads question files, cuts them into blocks, and joins the answers to their rows."""
