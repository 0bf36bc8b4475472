"""Settings that several parts must agree on when none is given. It imports nothing, so that flags stay quick."""

THREADS = 2  # a setting, not a guess: vectors must not depend on how many cores a machine has
ENCODER_BATCH_TOKENS = {"cpu": 512, "cuda": 16_384}  # tokens of a batch: fits a core's caches, fills a GPU
TARGET_RECALL = 0.95  # recall that --spec auto aims at
SHARD_MEMORY = "2GiB"  # memory for an index shard, as --shard_memory gives it
