"""What is on disk: Arrow schemas and the manifest. This floor imports pyarrow and the standard library only."""
