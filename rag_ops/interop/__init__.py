"""Interfaces and formats of other projects: the model card's classes, DPR's files, wiki_dpr."""
