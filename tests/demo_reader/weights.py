"""Writes the trained weights that `rag_ops.models.warm_start.read_trained` reads."""

import safetensors.torch
import torch
from transformers import BartForConditionalGeneration

from rag_ops.models import checkpoints
from rag_ops.models.warm_start import SCALES

INT8_MAX = 127
SMALLEST_SCALE = 1e-7  # scale of a row of zeros; float16 can hold it


def save_trained(generator: BartForConditionalGeneration, encoder: str, path: str) -> None:
    """Saves the weights of a warm-started generator that training could change; the encoder has the rest.

    Matrices are int8 with a float16 scale for each row, a quarter of their size; vectors are float16.

    Args:
        generator: made by `warm_start_generator`; what stayed as it was has requires_grad False.
        encoder: local directory of the encoder that it was made from.
        path: local file to write.
    """
    stored: dict[str, torch.Tensor] = {}
    for name, parameter in generator.named_parameters():
        if not parameter.requires_grad:
            continue
        weights = parameter.detach()
        if weights.ndim == 1:
            stored[name] = weights.half()
        else:
            scales = (weights.abs().amax(1, keepdim=True) / INT8_MAX).clamp_min(SMALLEST_SCALE).half()
            stored[name] = (weights / scales.float()).round().clamp(-INT8_MAX, INT8_MAX).to(torch.int8)
            stored[name + SCALES] = scales
    layers = str(generator.config.decoder_layers)
    metadata = {"encoder_digest": checkpoints.model_digest(encoder), "decoder_layers": layers}
    safetensors.torch.save_file(stored, path, metadata=metadata)
