"""Models on disk: found, loaded, composed; and the encoder."""
