"""The command line: options, one error line, progress, events."""
