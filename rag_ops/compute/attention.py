"""Attention: row by row in bfloat16 on a CPU; and masks made without looking, so that batches queue up on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

UNSEEN = "ragbeam_sdpa"  # the name by which transformers knows them


def attend_by_row(both: torch.Tensor, lengths: Sequence[int], heads: int, scale: float = 1.0) -> torch.Tensor:
    """Self-attention of texts padded on the right, one text after the other, so that its scores stay in the cache.

    Products are in the dtype of `both`, the softmax in float32. A text's result depends on its own tokens alone.

    Args:
        both: queries, keys and values, (texts * tokens, 3 * width).
        lengths: number of tokens of each text; what lies behind is padding.
        heads: number of heads.
        scale: factor of the products of queries and keys; 1 if the queries are scaled already.

    Returns:
        (texts * tokens, width).
    """
    texts, tokens = len(lengths), both.shape[0] // len(lengths)
    queries, keys, values = both.view(texts, tokens, 3, heads, -1).permute(2, 0, 3, 1, 4)
    attended = both.new_empty(texts, tokens, heads, queries.shape[-1])
    for text, length in enumerate(lengths):
        scores = torch.matmul(queries[text], keys[text].transpose(1, 2)).float()
        if scale != 1:
            scores.mul_(scale)
        scores[:, :, length:] = float("-inf")
        shares = torch.softmax(scores, -1, out=scores).to(both.dtype)
        attended[text] = torch.matmul(shares, values[text]).transpose(0, 1)
    return attended.view(texts * tokens, -1)


def never_look_at_masks(model: Any) -> None:
    """Gives a model that attends by torch's SDPA masks that are always made, also if nothing is padded.

    transformers asks at every batch whether the mask is all ones, to leave it out; that answer waits until the GPU has
    finished all batches before. Other attention than SDPA stays as it is.
    """
    if model.config._attn_implementation == "sdpa":
        AttentionInterface.register(UNSEEN, sdpa_attention_forward)
        AttentionMaskInterface.register(UNSEEN, _mask)
        model.set_attn_implementation(UNSEEN)


def _mask(*args: Any, **kwargs: Any) -> Any:
    return sdpa_mask(*args, **{**kwargs, "allow_is_bidirectional_skip": False})
