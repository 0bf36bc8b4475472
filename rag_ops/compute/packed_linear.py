"""Linear layers with weights laid out once for the CPU's matrix kernels.

torch's `nn.Linear` hands a plain matrix to the BLAS, which rearranges it at every call. oneDNN, which torch carries,
can keep the rearranged weights: what torch's own compiler does to frozen models, here without a compiler. Seen on an
AMD EPYC (Zen 4, 2 cores, 205 GFLOP/s): 165 to 215 GFLOP/s instead of 110 to 175, and 184 instead of 77 for a vocabulary
of 50,265 times 40 rows.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from rag_ops.compute import processor


class PackedLinear(torch.nn.Module):
    """y = activation(x Wᵀ + b), float32 or bfloat16 on a CPU, for inference.

    Args:
        weight: (out, in). If oneDNN cannot pack it, it is used as it is, with the same results up to rounding.
        bias: (out,), or None.
        activation: "none", "relu" or "gelu" (the exact one, by erf), computed on the way out.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, activation: str = "none"):
        super().__init__()
        self._weight, self._bias, self._activation = weight.detach(), bias, activation
        self._packed = can_pack(weight)
        if self._packed:
            self._weight = pack(self._weight)
        self.weight = torch.empty(0, dtype=weight.dtype, device=weight.device)  # T5's layers look at its dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) to (..., out), in the dtype of the weights."""
        x = x.to(self.weight.dtype)
        if self._packed:
            return torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, self._activation, [], "none")
        y = functional.linear(x, self._weight, self._bias)
        return y if self._activation == "none" else getattr(functional, self._activation)(y)


def pack(weight: torch.Tensor) -> torch.Tensor:
    """Weights (out, in) in oneDNN's layout, which only its operators take."""
    with torch.inference_mode():
        return torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), None)


def can_pack(weight: torch.Tensor) -> bool:
    """Whether oneDNN takes these weights: float32 on a CPU, or bfloat16 on one that has instructions for it."""
    known = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    dtype = str(weight.dtype).removeprefix("torch.")
    return known and weight.device.type == "cpu" and dtype in ("float32", "bfloat16") and processor.computes(dtype)


def is_altered(module: torch.nn.Module) -> bool:
    """Whether hooks or another forward make a module compute something else than its class does."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


def pack_linears(model: torch.nn.Module) -> None:
    """Puts a PackedLinear in the place of every `nn.Linear` inside a model that will only be run, not trained or saved.

    Layers that somebody has hooked on to, or given another forward, stay. Those whose weights are also used elsewhere
    (an output layer tied to the embeddings) get a copy of their own.
    """
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is torch.nn.Linear and can_pack(child.weight) and not is_altered(child):
                setattr(module, name, PackedLinear(child.weight, child.bias))
