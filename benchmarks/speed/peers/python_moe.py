"""One MoE layer of K2's sizes in engines with a Python face: torch, mlx or kt-kernel.

Run by `moe.py` with our interpreter as a process of its own, like ggml_moe.py: for each line on the
standard input it computes some steps of one token with other experts each and prints `=>` and the
seconds of one step. The weights are random INT4 in groups of 32, as each engine keeps them.

    python benchmarks/speed/peers/python_moe.py torch --threads 2
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

GROUP = 32
Step = Callable[[np.ndarray, np.ndarray], Any]  # x f32[hidden], experts int[used] -> finite numbers


def torch_step(o: argparse.Namespace) -> Step:
    """int4pack with bf16 activations, torch's only INT4 product that is vectorized on x86."""
    import torch

    torch.set_num_threads(o.threads)
    product = torch.ops.aten._weight_int4pack_mm_for_cpu

    def matrix(rows: int, cols: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """One for each expert: equal numbers, but each in memory of its own."""
        codes = torch.randint(0, 16, (rows, cols), dtype=torch.int32)
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 2)
        scales = torch.zeros(cols // GROUP, rows, 2, dtype=torch.bfloat16)
        scales[..., 0] = 0.004
        return [(packed.clone(), scales.clone()) for _ in range(o.experts)]

    gate, up = matrix(o.width, o.hidden), matrix(o.width, o.hidden)
    down = matrix(o.hidden, o.width)

    def step(x: np.ndarray, experts: np.ndarray) -> Any:
        row = torch.from_numpy(x[None]).to(torch.bfloat16)
        total = torch.zeros(1, o.hidden)
        for e in experts.tolist():
            gated = torch.nn.functional.silu(product(row, gate[e][0], GROUP, gate[e][1]))
            inner = gated * product(row, up[e][0], GROUP, up[e][1])
            total += product(inner, down[e][0], GROUP, down[e][1])
        return total.numpy()

    return step


def mlx_step(o: argparse.Namespace) -> Step:
    """gather_qmm on the processor; mlx chooses its own number of threads."""
    import mlx.core as mx

    mx.set_default_device(mx.cpu)

    def matrix(rows: int, cols: int) -> tuple[mx.array, mx.array, mx.array]:
        packed = mx.random.randint(0, 2**31 - 1, (o.experts, rows, cols // 8)).astype(mx.uint32)
        scales = mx.full((o.experts, rows, cols // GROUP), 0.004)
        return packed, scales, -8 * scales

    gate, up, down = matrix(o.width, o.hidden), matrix(o.width, o.hidden), matrix(o.hidden, o.width)
    mx.eval(gate, up, down)

    def product(x: mx.array, w: tuple[mx.array, ...], experts: mx.array) -> mx.array:
        options = {"transpose": True, "group_size": GROUP, "bits": 4}
        return mx.gather_qmm(x, *w, rhs_indices=experts, **options)

    def step(x: np.ndarray, experts: np.ndarray) -> Any:
        row, chosen = mx.array(x)[None, None], mx.array(experts.astype(np.uint32))
        gated = product(row, gate, chosen)
        inner = gated * mx.sigmoid(gated) * product(row, up, chosen)
        return np.array(product(inner, down, chosen).sum(0))

    return step


def kt_step(o: argparse.Namespace) -> Step:
    """Its kernels for K2's own INT4, driven without the server around them."""
    root = Path(os.environ.get("BALTORO_PEERS", "peers"))
    libraries = root.glob("venv/lib/python*/site-packages")  # gguf, which it asks for
    sys.path += [str(path) for path in (root / "kt", *libraries)]
    from kt_kernel import kt_kernel_ext  # pyright: ignore[reportMissingImports]
    from kt_kernel.utils.amx import (  # pyright: ignore[reportMissingImports]
        _select_rawint4_backend,
    )

    pool = kt_kernel_ext.WorkerPoolConfig()
    pool.subpool_count = 1
    pool.subpool_numa_map = [0]
    pool.subpool_thread_count = [o.threads]
    workers = kt_kernel_ext.CPUInfer(pool)
    on_gpu = np.zeros(o.experts, np.bool_)
    moe = kt_kernel_ext.moe.MOEConfig(o.experts, o.used, o.hidden, o.width, on_gpu.ctypes.data)
    moe.layer_idx, moe.pool, moe.max_len = 0, workers.backend_, 16
    rng = np.random.default_rng(0)
    held = []
    for name, rows, cols in (
        ("gate", o.width, o.hidden),
        ("up", o.width, o.hidden),
        ("down", o.hidden, o.width),
    ):
        packed = rng.integers(0, 256, (o.experts, rows, cols // 2), np.uint8)
        scales = np.full((o.experts, rows, cols // GROUP), 0x3B83, np.uint16)  # bf16 of 0.004
        held += [packed, scales]
        setattr(moe, f"{name}_projs", [[part.ctypes.data for part in packed]])
        setattr(moe, f"{name}_scales", [[part.ctypes.data for part in scales]])
    moe.quant_config.bits, moe.quant_config.group_size = 4, GROUP
    moe.quant_config.zero_point = False
    layer = _select_rawint4_backend(GROUP)(moe)
    places = np.arange(o.experts, dtype=np.int64)
    workers.submit(layer.load_weights_task(places.ctypes.data))
    workers.sync()

    pointed_into = (held, on_gpu, places)  # by the layer, which must not outlive them

    def step(x: np.ndarray, experts: np.ndarray, _: Any = pointed_into) -> Any:
        count, ids = np.ones(1, np.int32), experts.astype(np.int64)
        weights, row = np.ones(o.used, np.float32), (x.view(np.uint32) >> 16).astype(np.uint16)
        out = np.zeros(o.hidden, np.uint16)  # bf16, as `row`
        arrays = (ids, weights, row, out)
        pointers = [array.ctypes.data for array in arrays]
        workers.submit(layer.forward_task(count.ctypes.data, o.used, *pointers, False))
        workers.sync()
        return (out.astype(np.uint32) << 16).view(np.float32)

    return step


KINDS = {"torch": torch_step, "mlx": mlx_step, "kt-kernel": kt_step}


def answers(o: argparse.Namespace) -> Iterator[float]:
    step, rng = KINDS[o.kind](o), np.random.default_rng(1)

    def seconds() -> float:
        x = rng.standard_normal(o.hidden, np.float32)
        experts = rng.permutation(o.experts)[: o.used]
        start = time.perf_counter()
        out = step(x, experts)
        taken = time.perf_counter() - start
        if not np.isfinite(out).all() or not np.any(out):
            raise SystemExit(f"{o.kind} gives no sensible numbers")
        return taken

    seconds()
    yield 0.0  # it is ready
    for _ in sys.stdin:
        yield statistics.median(seconds() for _ in range(o.steps))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--experts", type=int, default=64)
    parser.add_argument("--used", type=int, default=9)
    parser.add_argument("--hidden", type=int, default=7168)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=4)
    return parser.parse_args()


if __name__ == "__main__":
    for seconds in answers(parse()):
        print("\n=>", seconds, flush=True)
