"""Which experts which task uses: mutual information, beside the same with shuffled tasks.

    python benchmarks/training/experts.py --model tiny

Held-out demonstrations of each task go through the torch model with INT4 experts, and the router's
choices at the tokens of the assistant are counted. All tasks weigh the same. The control gives each
demonstration the task of another one: what is left is what chance gives at this number of samples.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import torch
import typer
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from numpy.typing import NDArray

from answers import EVIDENCE, Out, save
from baltoro.chat.tokenizer import Tokenizer
from baltoro.checkpoint.bundled import BUNDLED
from baltoro.model.transformer import Transformer
from baltoro.tasks.mixture import find_task, pose_all
from baltoro.train.data import Sample, sample_of
from baltoro.train.load import load_model
from baltoro.train.qat import set_fake_quantization

TASKS = ("compare", "sums", "products", "chain", "smalltalk", "out_of_reach")
MORE = ("countdown_3", "tree", "running_total", "parallel_lookups", "desk", "recall",
        "aggregate_sums", "chain_with_failures")  # fmt: skip


def main(
    model: Annotated[str, typer.Option(help="A bundled model, a checkpoint or a run.")] = "tiny",
    more: Annotated[bool, typer.Option("--more", help="Also the later stages' tasks.")] = False,
    samples: Annotated[int, typer.Option(min=2, help="Of each task.")] = 40,
    shuffles: Annotated[int, typer.Option(min=2)] = 500,
    seed: int = 0,
    out: Out = EVIDENCE,
) -> None:
    loaded = load_model(model, "tiny").eval()
    set_fake_quantization(loaded, True)
    tokenizer = Tokenizer.load(BUNDLED / "tiny")
    names = [*TASKS, *(MORE if more else ())]
    counts = np.stack([counts_of(loaded, tokenizer, name, samples, seed) for name in names])
    rows = [layer_row(counts[:, :, layer], shuffles, seed) for layer in range(counts.shape[2])]
    shares = by_task(counts)
    for layer, row in enumerate(rows):
        row |= {"layer": layer + loaded.config.first_k_dense_replace}
        row |= {"shares": dict(zip(names, shares[:, layer].round(4).tolist(), strict=True))}
    said = ", ".join(
        f"layer {r['layer']}: {r['bits']:.3f} bits (shuffled: 95 % below {r['shuffled_95']:.3f})"
        for r in rows
    )
    save(
        out,
        "experts",
        claim="tasks use different experts",
        bar="mutual information above the shuffled control's 95 %",
        result=said,
        command=f"python benchmarks/training/experts.py --model {model}" + " --more" * more,
        rows=rows,
        figure=draw(rows, names, shares),
    )


def counts_of(
    model: Transformer, tokenizer: Tokenizer, name: str, samples: int, seed: int
) -> NDArray:
    """How often each sample's tokens chose each expert: (samples, layers, experts)."""
    rng, task = random.Random(f"experts/{name}/{seed}"), find_task(name)
    drawn = [sample_of(tokenizer, pose_all(rng, [task], "eval")) for _ in range(samples)]
    return np.stack([choices(model, sample) for sample in drawn])


@torch.no_grad()
def choices(model: Transformer, sample: Sample) -> NDArray:
    """Of one sample, at the positions that predict learned tokens: (layers, experts)."""
    ids, learned = sample
    at = torch.tensor(learned[1:], dtype=torch.bool)
    counted: list[NDArray] = []

    def count(router: torch.nn.Module, _: Any, output: tuple[torch.Tensor, torch.Tensor]) -> None:
        chosen = output[0][at].flatten()
        counted.append(torch.bincount(chosen, minlength=model.config.n_routed_experts).numpy())

    hooks = [router.register_forward_hook(count) for router in model.routers()]
    model.model(torch.tensor([ids[:-1]]))
    for hook in hooks:
        hook.remove()
    return np.stack(counted).astype(float)


def by_task(counts: NDArray) -> NDArray:
    """Shares of the experts in each task, from (tasks, samples, ...) counts."""
    total = counts.sum(axis=1)
    return total / total.sum(axis=-1, keepdims=True)


def mutual_information(counts: NDArray) -> float:
    """Bits that an expert tells of the task, by counts (tasks, samples, experts)."""
    given = by_task(counts)
    mean = given.mean(axis=0)
    ratio = np.divide(given, mean, out=np.ones_like(given), where=given > 0)
    return float((given * np.log2(ratio)).sum(axis=-1).mean())


def layer_row(counts: NDArray, shuffles: int, seed: int) -> dict[str, Any]:
    """Of one layer: counts (tasks, samples, experts). Each sample weighs as much as any other, so
    that tasks with long samples don't make the control wider."""
    counts = counts / counts.sum(axis=-1, keepdims=True)
    rng = np.random.default_rng(seed)
    flat = counts.reshape(-1, counts.shape[-1])
    shuffled = [
        mutual_information(flat[rng.permutation(len(flat))].reshape(counts.shape))
        for _ in range(shuffles)
    ]
    return {
        "bits": mutual_information(counts),
        "shuffled_mean": float(np.mean(shuffled)),
        "shuffled_95": float(np.quantile(shuffled, 0.95)),
        "shuffles": shuffles,
        "samples_per_task": counts.shape[1],
    }


def draw(rows: Sequence[dict[str, Any]], names: Sequence[str], shares: NDArray) -> Figure:
    """Shares of the experts by task, a panel for each layer, and the information of each."""
    layers = len(rows)
    figure, axes = plt.subplots(
        1, layers + 1, figsize=(4 * layers + 4, 0.3 * len(names) + 2), constrained_layout=True
    )
    images = []
    for layer, axis in enumerate(axes[:-1]):
        images.append(
            axis.imshow(shares[:, layer], aspect="auto", cmap="viridis", vmin=0, vmax=shares.max())
        )
        axis.set(title=f"layer {rows[layer]['layer']}", xlabel="expert")
        axis.set_yticks(range(len(names)), names if layer == 0 else [""] * len(names))
    figure.colorbar(images[-1], ax=axes[-2], label="share of the choices")
    x = np.arange(layers)
    axes[-1].bar(x - 0.2, [r["bits"] for r in rows], 0.4, label="tasks")
    axes[-1].bar(x + 0.2, [r["shuffled_95"] for r in rows], 0.4, label="shuffled, 95 %")
    axes[-1].set_xticks(x, [f"layer {r['layer']}" for r in rows])
    axes[-1].set(ylabel="bits an expert tells of the task")
    axes[-1].legend()
    return figure


if __name__ == "__main__":
    typer.run(main)
