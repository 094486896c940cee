"""QK-clip for plain multi-head attention, in any model: the other half of MuonClip.

    clip = QKClip(model, threshold=100.0)
    with clip:
        loss = model(...).loss
    loss.backward()
    optimizer.step()
    clip.step()

Latent attention has its own rule, `qk_clip` in muonclip.py (Kimi K2 report, arXiv 2507.20534, 2.1).

Shape legend:  B batch  H query heads  G key heads  T queries  S keys  d head dimension
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from baltoro.config import BaltoroError
from baltoro.model.attention import max_logits

BLOCK = 128  # queries whose scores are held at a time
ARGUMENTS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")


class QKClip(TorchFunctionMode):
    """Watches every `scaled_dot_product_attention` of modules that have `q_proj` and `k_proj`.

    Rotary embedding between the projections and the product does no harm: it commutes with scaling
    a head. A norm of queries or keys would undo the scaling, so such modules are refused.
    """

    def __init__(self, model: nn.Module, threshold: float = 100.0):
        super().__init__()
        self.threshold = threshold
        self.attentions = {n: m for n, m in model.named_modules() if is_plain_attention(m)}
        if not self.attentions:
            raise BaltoroError(
                "found no attention with q_proj and k_proj in this model. For latent attention "
                "use qk_clip of baltoro.train.muonclip."
            )
        self.seen: dict[str, Tensor] = {}  # largest logits (H) since the last step
        self.head_dim: dict[str, int] = {}
        self._within: list[str] = []
        for name, module in self.attentions.items():
            if getattr(module, "q_norm", None) is not None:
                raise BaltoroError(
                    f"{name} normalizes its queries, so its logits are bounded already and "
                    "scaling its projections would change nothing. It needs no QK-clip."
                )
            module.register_forward_pre_hook(lambda _, __, name=name: self._within.append(name))
            module.register_forward_hook(lambda *_: self._leave(), always_call=True)

    def _leave(self) -> None:
        self._within.pop()

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and self._within:
            self.record(self._within[-1], dict(zip(ARGUMENTS, args, strict=False)) | kwargs)
        return func(*args, **kwargs)

    @torch.no_grad()
    def record(self, name: str, given: dict[str, Any]) -> None:
        """Take note of the largest logit of each head in one call of the attention product."""
        q, k = given["query"].detach(), given["key"].detach()
        k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
        scale = given.get("scale")
        scale = q.shape[-1] ** -0.5 if scale is None else scale
        if given.get("is_causal"):
            largest = max_logits(q, k, scale)
        else:
            largest = masked_max_logits(q, k, given.get("attn_mask")) * scale
        before = self.seen.get(name)
        self.seen[name] = largest if before is None else torch.maximum(before, largest)
        self.head_dim[name] = q.shape[-1]

    @torch.no_grad()
    def step(self) -> dict[str, Tensor]:
        """Shrink the heads that passed the threshold; the largest logits (H) of each attention.

        Raises `BaltoroError` if no attention was seen since the last step.
        Query and key share the factor by its square root. Where several query heads share a key
        head, the queries take all of it, so that heads which did not pass are left alone.
        """
        if not self.seen:
            raise BaltoroError(
                "no scaled_dot_product_attention was seen since the last step, so nothing says "
                "which heads to clip. Compute the loss inside `with clip:`, and load a model of "
                'transformers with attn_implementation="sdpa": its other kinds pass it by.'
            )
        seen, self.seen = self.seen, {}
        for name, largest in seen.items():
            q_proj, k_proj = projections_of(self.attentions[name])
            gamma = torch.where(largest > 0, (self.threshold / largest).clamp(max=1.0), 1.0)
            d = self.head_dim[name]
            if k_proj.weight.shape[0] == len(gamma) * d:
                scale_heads(q_proj, gamma.sqrt())
                scale_heads(k_proj, gamma.sqrt())
            else:
                scale_heads(q_proj, gamma)
        return seen


def is_plain_attention(module: nn.Module) -> bool:
    return len(projections_of(module)) == 2


def projections_of(module: nn.Module) -> list[nn.Linear]:
    """Those of queries and keys, as far as the module has them."""
    found = (getattr(module, name, None) for name in ("q_proj", "k_proj"))
    return [p for p in found if isinstance(p, nn.Linear)]


def scale_heads(projection: nn.Linear, factors: Tensor) -> None:
    """Multiply the rows of each head, and its part of the bias."""
    factors = factors.type_as(projection.weight)
    projection.weight.unflatten(0, (len(factors), -1)).mul_(factors[:, None, None])
    if projection.bias is not None:
        projection.bias.unflatten(0, (len(factors), -1)).mul_(factors[:, None])


def masked_max_logits(q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
    """Largest q k^T of each head (H) that the mask lets through; (T, S) is never held whole.

    `mask` broadcasts to (B, H, T, S): false, or minus infinity, hides a key.
    """
    best = q.new_full((q.shape[1],), float("-inf"))
    for start in range(0, q.shape[2], BLOCK):
        rows = slice(start, start + BLOCK)
        scores = q[:, :, rows] @ k.transpose(-1, -2)
        if mask is not None:
            part = mask if mask.shape[-2] == 1 else mask[..., rows, :]
            hidden = ~part if part.dtype == torch.bool else part == float("-inf")
            lowest = torch.finfo(part.dtype).min if part.is_floating_point() else None
            hidden = hidden if lowest is None else hidden | (part <= lowest)
            scores = scores.masked_fill(hidden, float("-inf"))
        best = torch.maximum(best, scores.amax(dim=(0, 2, 3)))
    return best
