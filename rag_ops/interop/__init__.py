"""What others read and write: the model card's classes, DPR's files, wiki_dpr."""
