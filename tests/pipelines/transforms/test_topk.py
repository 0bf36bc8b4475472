"""The coder of top-k arrays: what goes in comes out, in 16 bytes a hit; the merge is of pairs as of all at once."""

import numpy as np

from pipelines.transforms.topk import MergeTopK, TopKCoder
from rag_ops.retrieval.topk import TopK, merge


def test_top_k():
    found = TopK.sorted(np.array([[1.0, 3.0]]), np.array([[5, 6]]), 3)
    back = TopKCoder().decode(TopKCoder().encode(found))
    assert back.rows.tolist() == [[6, 5, -1]]
    assert back.scores.tolist() == found.scores.tolist()
    assert len(TopKCoder().encode(found)) == 16 + 2 * 16


def random_hits(seed: int, questions: int = 7, k: int = 5) -> TopK:
    """Hits of one shard, some of them missing."""
    chance = np.random.default_rng(seed)
    rows = np.stack([chance.permutation(1000)[:k] * 10 + seed for _ in range(questions)])
    return TopK.sorted(chance.normal(size=(questions, k)), np.where(chance.random((questions, k)) < 0.5, -1, rows), k)


def test_no_place_without_a_hit_is_sent():
    found = random_hits(3)
    sent = TopKCoder().encode(found)
    assert len(sent) == 16 + 16 * (found.rows >= 0).sum() < 16 + 16 * found.rows.size
    back = TopKCoder().decode(sent)
    assert (back.rows.tolist(), back.scores.tolist()) == (found.rows.tolist(), found.scores.tolist())
    nothing = TopKCoder().decode(TopKCoder().encode(TopK.empty(4, 2)))
    assert (nothing.rows.tolist(), nothing.scores.tolist()) == ([[-1, -1]] * 4, [[-np.inf] * 2] * 4)


def test_hits_within_a_shard_are_those_of_its_rows():
    found = random_hits(4)
    middle = int(np.median(found.rows[found.rows >= 0]))
    parts = [found.within(0, middle), found.within(middle, 10_000)]
    assert all(set(part.rows.ravel()) > {-1} for part in parts)
    assert parts[0].rows.max() < middle <= parts[1].rows[parts[1].rows >= 0].min()
    again = merge([TopKCoder().decode(TopKCoder().encode(part)) for part in parts], 5)
    assert (again.rows.tolist(), again.scores.tolist()) == (found.rows.tolist(), found.scores.tolist())


def test_accumulators_of_several_workers_give_the_merge_of_all():
    combine, coder = MergeTopK(4), MergeTopK(4).get_accumulator_coder()
    shards = [random_hits(seed) for seed in range(6)]
    accumulators = []
    for part in (shards[:1], shards[1:4], [], shards[4:]):
        accumulator = combine.create_accumulator()
        for hits in part:
            accumulator = combine.add_input(accumulator, hits)
        accumulators.append(coder.decode(coder.encode(accumulator)))
    found, expected = combine.extract_output(combine.merge_accumulators(accumulators)), merge(shards, 4)
    assert (found.rows.tolist(), found.scores.tolist()) == (expected.rows.tolist(), expected.scores.tolist())
