"""Numbers of 8 bits and their products are what integers and fractions by hand are."""

import torch

from rag_ops.retrieval import eight_bits


def test_the_product_is_exact():
    generator = torch.Generator().manual_seed(0)
    low = torch.randint(-128, 128, (5, 130), dtype=torch.int8, generator=generator)
    others = torch.randint(-128, 128, (9, 130), dtype=torch.int8, generator=generator)
    assert torch.equal(eight_bits.product(low, others), low.int() @ others.int().T)


def test_numbers_are_whole_steps_and_the_largest_is_127_of_them():
    numbers = torch.tensor([[254.0, -2.0, 0.9], [0.0, 0.0, 0.0]])
    steps = eight_bits.steps_of(numbers.abs().amax(1, keepdim=True))
    assert eight_bits.to_8_bits(numbers, steps).tolist() == [[127, -1, 0], [0, 0, 0]]
