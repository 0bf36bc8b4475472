"""Finding, loading and composing models on disk; and the encoder."""
