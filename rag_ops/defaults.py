"""Settings that several parts must agree on if none is given, and bounds. Imports nothing, so that flags stay quick."""

THREADS = 2  # a setting, not a guess: answers must not depend on how many cores a machine has
# Tokens and rows of a batch at most. A core's caches hold the one; the other takes a GPU longer than its launch does.
ENCODER_BATCH_TOKENS = {"cpu": 512, "cuda": 32_768}
ENCODER_BATCH_ROWS = {"cpu": 64, "cuda": 512}  # bounds the empty rows of short lengths
# Context tokens of a batch of questions; and where most of them are not read
ANSWER_BATCH_TOKENS = {"cpu": 8192, "cuda": 131_072}
LAZY_BATCH_TOKENS = {"cpu": 32_768, "cuda": 131_072}
DIRECT_LOOKS = 24  # of BART's decoder, for each passage: queries that cost about as much as its keys and values
# What --compute_dtype auto means; "auto" is a device that only the worker knows.
COMPUTE_DTYPES = {"cpu": "float32", "cuda": "bfloat16", "auto": "float32"}
# What stands before a passage's text where a model reads it.
TITLE, TITLE_SECTION = CONTEXTS = ("title", "title_section")
MIN_FIDELITY = 0.99  # recall@20 of float32's neighbours that vectors in a narrow dtype must have
TARGET_RECALL = 0.95  # recall that --spec auto aims at
SHARD_MEMORY = "2GiB"  # memory for an index shard, as --shard_memory gives it
PASSAGE_MEMORY = "2GiB"  # for what a causal generator has read of passages, as --passage_memory gives it
PASSAGE_CACHE_SIZE = "20GiB"  # for the same in files, as --passage_cache_size gives it
MAX_THREADS = 1024
SEARCH_DOCS = 100  # passages that search gives a question
MAX_DOCS = 10_000  # passages of a question
MAX_SHARDS = 10_000  # of 50,000 passages each, ten times what all Wikipedias have
