"""Generates RAG-Token answers from questions and their passages."""
