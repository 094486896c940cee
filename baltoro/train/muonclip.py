"""MuonClip: Muon with weight decay and matched update size, AdamW for the rest, and QK-clip.

Follows the Kimi K2 report (arXiv 2507.20534), algorithm 1, and Moonlight (arXiv 2502.16982).

Shape legend:  H num_attention_heads    N qk_nope_head_dim    R qk_rope_head_dim    V v_head_dim
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.modules.conv import _ConvNd

from baltoro.model.attention import MultiHeadLatentAttention

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
UPDATE_RMS = 0.2  # AdamW's usual update size, so that both share learning rate and decay


def orthogonalize(matrices: Tensor, steps: int = 5, eps: float = 1e-7) -> Tensor:
    """Nearest semi-orthogonal matrix of each (..., n, m), roughly: singular values near 1.

    A quintic Newton-Schulz iteration. It works in bf16 on accelerators, in f32 on CPUs, where
    bf16 products are slow.
    """
    a, b, c = NEWTON_SCHULZ
    x = matrices.float() if matrices.device.type == "cpu" else matrices.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.transpose(-1, -2)
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + eps)
    for _ in range(steps):
        gram = x @ x.transpose(-1, -2)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.transpose(-1, -2) if tall else x).type_as(matrices)


class MuonClip(torch.optim.Optimizer):
    """Muon for matrices and stacks of matrices, AdamW for everything else.

    Parameters of a group with `muon=True` have two dimensions, or more where the leading ones
    stack independent matrices (experts); each matrix is orthogonalized by itself. Decay is
    decoupled. QK-clip acts on attention weights after the step: see `qk_clip`.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 2e-4,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
    ) -> None:
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "betas": betas,
            "eps": eps,
            "muon": True,
        }
        super().__init__(params, defaults)  # type: ignore[arg-type]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        added = self.param_groups[-1]
        for p in added["params"]:
            if added["muon"] and p.ndim < 2:
                self.param_groups.pop()
                raise ValueError(
                    f"Muon needs matrices, found a parameter of shape {tuple(p.shape)}: "
                    "put it in a group with muon=False."
                )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            (self._muon if group["muon"] else self._adamw)(group, params)
        return loss

    def _muon(self, group: dict[str, Any], params: list[Tensor]) -> None:
        # Matrices of one shape go through the iteration together: small products are slow.
        by_shape: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
        for p in params:
            by_shape[tuple(p.shape[-2:])].append(p)
        for (n, m), alike in by_shape.items():
            directions = [self._nesterov(p, group["momentum"]) for p in alike]
            scale = UPDATE_RMS * math.sqrt(max(n, m))
            updates = self._orthogonalized(alike, directions)
            for weight, update in zip(map(local_part, alike), updates, strict=True):
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(update, alpha=-group["lr"] * scale)

    def _orthogonalized(self, params: list[Tensor], directions: list[Tensor]) -> list[Tensor]:
        """The updates of parameters (..., n, m) that share n and m, from their directions."""
        stacks = [direction.reshape(-1, *direction.shape[-2:]) for direction in directions]
        updates = orthogonalize(torch.cat(stacks)).split([len(stack) for stack in stacks])
        return [update.view_as(d) for update, d in zip(updates, directions, strict=True)]

    def _nesterov(self, p: Tensor, momentum: float) -> Tensor:
        assert p.grad is not None
        gradient, mean = local_part(p.grad), local_part(self._state_of(p, muon=True)["momentum"])
        mean.lerp_(gradient, 1 - momentum)
        return gradient.lerp(mean, momentum)

    def _adamw(self, group: dict[str, Any], params: list[Tensor]) -> None:
        beta1, beta2 = group["betas"]
        for p in params:
            assert p.grad is not None
            state = self._state_of(p, muon=False)
            state["step"] += 1
            weight, gradient = local_part(p), local_part(p.grad)
            mean, square = local_part(state["mean"]), local_part(state["square"])
            mean.lerp_(gradient, 1 - beta1)
            square.lerp_(gradient.square(), 1 - beta2)
            mean = mean / (1 - beta1 ** state["step"])
            root = (square / (1 - beta2 ** state["step"])).sqrt_()
            weight.mul_(1 - group["lr"] * group["weight_decay"])
            weight.addcdiv_(mean, root.add_(group["eps"]), value=-group["lr"])

    def _state_of(self, p: Tensor, *, muon: bool) -> dict[str, Any]:
        state = self.state[p]
        if not state and muon:
            state["momentum"] = torch.zeros_like(p)
        elif not state:
            state["step"] = 0
            state["mean"] = torch.zeros_like(p)
            state["square"] = torch.zeros_like(p)
        return state

    def prepare_state(self) -> None:
        """Make the state of every parameter now, as its first step would."""
        for group in self.param_groups:
            for p in group["params"]:
                self._state_of(p, muon=group["muon"])


def local_part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor that may be divided among ranks: the same memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Matrices for Muon; embedding and output head, and norms and other vectors, for AdamW.

    For any model: embeddings and the head are found by their type, the name `lm_head`, or
    transformers' `get_output_embeddings`. Parameters with more than two dimensions are stacks of
    matrices (experts), except a convolution's kernels, which go to AdamW.
    """
    vocabulary_ids = {id(p) for p in vocabulary_parameters(model)}
    kernels = {id(m.weight) for m in model.modules() if isinstance(m, _ConvNd)}
    matrices, vocabulary, vectors = [], [], []
    for p in model.parameters():
        if id(p) in vocabulary_ids:
            vocabulary.append(p)
        else:
            (vectors if p.ndim < 2 or id(p) in kernels else matrices).append(p)
    return [
        {"params": matrices, "muon": True, "vocabulary": False},
        {"params": vocabulary, "muon": False, "vocabulary": True},
        {"params": vectors, "muon": False, "vocabulary": False},
    ]


def vocabulary_parameters(model: nn.Module) -> Iterator[Tensor]:
    """Weights with a row for each token, which Muon would treat as if rows were directions."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) or name.rsplit(".", 1)[-1] == "lm_head":
            yield from module.parameters()
    head = getattr(model, "get_output_embeddings", lambda: None)()
    if head is not None:
        yield from head.parameters()


@torch.no_grad()
def qk_clip(attention: MultiHeadLatentAttention, threshold: float) -> Tensor:
    """Shrink the heads whose largest logit passed `threshold`; returns those logits (H,).

    Reads `attention.max_logits`, gathered in the forward passes since the last call, and resets
    it. Query and key content rows share the factor by its square root; the rotary query rows take
    all of it, because the rotary key is shared by every head. Value rows are left alone.
    """
    config = attention.config
    seen = attention.max_logits
    assert seen is not None, "max logits were not recorded"
    gamma = (threshold / seen).clamp(max=1.0)
    gamma = torch.where(seen > 0, gamma, torch.ones_like(gamma))[:, None]
    H, N = config.num_attention_heads, config.qk_nope_head_dim
    by_root, by_all = gamma.sqrt().expand(H, N), gamma.expand(H, config.qk_rope_head_dim)
    scale_rows(attention.last_query_proj.weight, torch.cat((by_root, by_all), dim=1))
    values = torch.ones_like(gamma).expand(H, config.v_head_dim)
    scale_rows(attention.kv_b_proj.weight, torch.cat((by_root, values), dim=1))
    attention.max_logits = torch.full_like(seen, float("-inf"))
    return seen


def scale_rows(weight: Tensor, factors: Tensor) -> None:
    """Multiply each row of a weight, which may be divided among ranks, by its factor (H, rows)."""
    column = factors.flatten()[:, None]
    if isinstance(weight, DTensor):
        mesh, placements = weight.device_mesh, weight.placements
        column = distribute_tensor(column, mesh, placements, src_data_rank=None)
    local_part(weight).mul_(local_part(column))
