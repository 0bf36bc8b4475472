"""Settings that several parts must agree on if none is given, and bounds. Imports nothing, so that flags stay quick."""

THREADS = 2  # a setting, not a guess: vectors must not depend on how many cores a machine has
ENCODER_BATCH_TOKENS = {"cpu": 512, "cuda": 16_384}  # tokens of a batch: fits a core's caches, fills a GPU
TARGET_RECALL = 0.95  # recall that --spec auto aims at
SHARD_MEMORY = "2GiB"  # memory for an index shard, as --shard_memory gives it
MAX_THREADS = 1024
MAX_DOCS = 10_000  # passages of a question
MAX_SHARDS = 100_000
