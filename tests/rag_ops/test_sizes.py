"""Sizes as people write them."""

import pytest

from rag_ops import sizes
from rag_ops.errors import InputError


@pytest.mark.parametrize("text", ["", "2 apples", "-1GiB", "GiB", "1.2.3", "5ib"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(InputError, match="--shard_memory is no size"):
        sizes.parse_size("--shard_memory", text)


@pytest.mark.parametrize("text", ["0", "0.4", "99999999999TiB", "9" * 400])
def test_a_size_that_nothing_has_is_refused(text):
    with pytest.raises(InputError, match="--shard_memory is out of range"):
        sizes.parse_size("--shard_memory", text)
