"""Attention masks that are made without looking at them, so that batches queue up on a GPU."""

from __future__ import annotations

from typing import Any

from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

UNSEEN = "ragbeam_sdpa"  # the name by which transformers knows them


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
