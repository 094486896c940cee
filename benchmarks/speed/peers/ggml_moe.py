"""One MoE layer of K2's sizes in llama.cpp or ik_llama.cpp, through their library ggml.

Run by `moe.py` as a process of its own: for each line on the standard input it computes some steps
with other experts each and prints `=>` and the seconds of one step. The weights are Q4_0, random
blocks of 32 four-bit numbers with a 16-bit scale: as many bytes as our INT4.

    python benchmarks/speed/peers/ggml_moe.py FOLDER_OF_LIBRARIES llama.cpp --repacked --threads 2
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

F32, Q4_0, I32 = 0, 2, 26  # ggml's numbers of types
BLOCK_BYTES = 18  # of 32 weights in Q4_0
GRAPH_BYTES = 1 << 22  # for the descriptions of tensors and graphs

Handle = ctypes.c_void_p


class InitParams(ctypes.Structure):
    """struct ggml_init_params of ggml.h"""

    _fields_ = (
        ("mem_size", ctypes.c_size_t),
        ("mem_buffer", ctypes.c_void_p),
        ("no_alloc", ctypes.c_bool),
    )


class Ggml:
    """The functions of ggml that are needed, with pointers as handles."""

    def __init__(self, folder: Path):
        names = ("libggml-base.so", "libggml-cpu.so", "libggml.so")
        found = [folder / name for name in names if (folder / name).exists()]
        if not found:
            raise SystemExit(f"there is no libggml in {folder}")
        self._libraries = [ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL) for path in found]

    def has(self, name: str) -> bool:
        return any(hasattr(library, name) for library in self._libraries)

    def call(self, name: str, *arguments: object, result: type | None = Handle) -> Any:
        library = next(lib for lib in self._libraries if hasattr(lib, name))
        function = getattr(library, name)
        function.restype = result
        return function(*arguments)

    def unary_op(self, wanted: str) -> int:
        """The number of an elementwise function, which differs between versions."""
        for number in range(32):
            name = self.call("ggml_unary_op_name", number, result=ctypes.c_char_p)
            if name == wanted.encode():
                return number
        raise SystemExit(f"this ggml has no {wanted}")

    def context(self) -> Handle:
        return Handle(self.call("ggml_init", InitParams(GRAPH_BYTES, None, True)))

    def tensor(self, context: Handle, kind: int, *sizes: int) -> Handle:
        name = f"ggml_new_tensor_{len(sizes)}d"
        numbers = [ctypes.c_int64(size) for size in sizes]
        return Handle(self.call(name, context, ctypes.c_int(kind), *numbers))

    def op(self, name: str, *arguments: object) -> Handle:
        return Handle(self.call(f"ggml_{name}", *arguments))

    def write(self, tensor: Handle, data: np.ndarray, offset: int = 0) -> None:
        pointer = data.ctypes.data_as(ctypes.c_void_p)
        sizes = ctypes.c_size_t(offset), ctypes.c_size_t(data.nbytes)
        self.call("ggml_backend_tensor_set", tensor, pointer, *sizes, result=None)

    def read(self, tensor: Handle, data: np.ndarray) -> None:
        pointer = data.ctypes.data_as(ctypes.c_void_p)
        sizes = ctypes.c_size_t(0), ctypes.c_size_t(data.nbytes)
        self.call("ggml_backend_tensor_get", tensor, pointer, *sizes, result=None)

    def repacking_buffer(self) -> Handle:
        """The kind of memory into which llama.cpp rearranges weights as they are written."""
        registry = Handle(self.call("ggml_backend_cpu_reg"))
        device = Handle(self.call("ggml_backend_reg_dev_get", registry, ctypes.c_size_t(0)))
        name = b"ggml_backend_dev_get_extra_bufts"
        address = self.call("ggml_backend_reg_get_proc_address", registry, ctypes.c_char_p(name))
        buffers = ctypes.CFUNCTYPE(ctypes.POINTER(Handle), Handle)(address)(device)
        for i in itertools.count():
            if not buffers[i]:
                raise SystemExit("this llama.cpp does not rearrange weights on this processor")
            kind = Handle(buffers[i])
            name = self.call("ggml_backend_buft_name", kind, result=ctypes.c_char_p)
            if b"REPACK" in name:
                return kind
        raise AssertionError


class Layer:
    """gate, up and down of all experts, and a graph for steps of `tokens` tokens."""

    def __init__(self, ggml: Ggml, options: argparse.Namespace):
        self.ggml, self.options = ggml, options
        self.rng = np.random.default_rng(0)
        self.backend = Handle(ggml.call("ggml_backend_cpu_init"))
        threads = ctypes.c_int(options.threads)
        ggml.call("ggml_backend_cpu_set_n_threads", self.backend, threads, result=None)
        self.make_weights()
        self.make_graph()

    def make_weights(self) -> None:
        ggml, o = self.ggml, self.options
        context = ggml.context()
        self.gate = ggml.tensor(context, Q4_0, o.hidden, o.width, o.experts)
        self.up = ggml.tensor(context, Q4_0, o.hidden, o.width, o.experts)
        self.down = ggml.tensor(context, Q4_0, o.width, o.hidden, o.experts)
        name = "ggml_backend_alloc_ctx_tensors"
        where = self.backend
        if o.repacked:
            name, where = f"{name}_from_buft", ggml.repacking_buffer()
        if not ggml.call(name, context, where):
            raise SystemExit("there is no memory for the weights")
        blocks = o.hidden * o.width // 32 * o.experts
        data = self.rng.integers(0, 256, (1 << 16, BLOCK_BYTES), np.uint8)
        scales = self.rng.uniform(0.003, 0.006, len(data)).astype(np.float16)
        data[:, :2] = scales.view(np.uint8).reshape(-1, 2)
        whole = np.resize(data, (blocks, BLOCK_BYTES))
        for tensor in (self.gate, self.up, self.down):
            ggml.write(tensor, whole)

    def make_graph(self) -> None:
        ggml, o = self.ggml, self.options
        context = ggml.context()
        self.x = ggml.tensor(context, F32, o.hidden, 1, o.tokens)
        self.ids = ggml.tensor(context, I32, o.used, o.tokens)
        if o.kind == "ik_llama.cpp":
            silu = ctypes.c_int(ggml.unary_op("SILU"))
            hidden = ggml.op("moe_up_gate", context, self.up, self.gate, self.x, self.ids, silu)
        else:
            gate = ggml.op("mul_mat_id", context, self.gate, self.x, self.ids)
            up = ggml.op("mul_mat_id", context, self.up, self.x, self.ids)
            hidden = ggml.op("swiglu_split", context, gate, up)
        self.out = ggml.op("mul_mat_id", context, self.down, hidden, self.ids)
        self.plan(context)

    def plan(self, context: Handle) -> None:
        ggml = self.ggml
        self.graph = ggml.op("new_graph", context)
        ggml.call("ggml_build_forward_expand", self.graph, self.out, result=None)
        if not ggml.call("ggml_backend_alloc_ctx_tensors", context, self.backend):
            raise SystemExit("there is no memory for a step")

    def step(self) -> float:
        """Seconds of a step of new tokens with new experts."""
        o = self.options
        self.ggml.write(self.x, self.rng.standard_normal((o.tokens, o.hidden), np.float32))
        self.choose()
        start = time.perf_counter()
        status = self.ggml.call(
            "ggml_backend_graph_compute", self.backend, self.graph, result=ctypes.c_int
        )
        seconds = time.perf_counter() - start
        if status != 0:
            raise SystemExit(f"ggml could not compute the layer: status {status}")
        return seconds

    def choose(self) -> None:
        o = self.options
        choices = self.rng.random((o.tokens, o.experts)).argpartition(o.used)[:, : o.used]
        self.ggml.write(self.ids, np.ascontiguousarray(choices, dtype=np.int32))

    def check(self) -> None:
        out = np.empty(self.options.tokens * self.options.used * self.options.hidden, np.float32)
        self.step()
        self.ggml.read(self.out, out)
        if not np.isfinite(out).all() or not out.any():
            raise SystemExit("ggml's layer gives no sensible numbers")


class Mlp(Layer):
    """One expert that all tokens meet, without a choice."""

    def make_graph(self) -> None:
        ggml, o = self.ggml, self.options
        context = ggml.context()
        self.x = ggml.tensor(context, F32, o.hidden, o.tokens)
        if o.kind == "ik_llama.cpp":
            silu = ctypes.c_int(ggml.unary_op("SILU"))
            hidden = ggml.op("fused_up_gate", context, self.up, self.gate, self.x, silu)
        else:
            gate = ggml.op("mul_mat", context, self.gate, self.x)
            up = ggml.op("mul_mat", context, self.up, self.x)
            hidden = ggml.op("swiglu_split", context, gate, up)
        self.out = ggml.op("mul_mat", context, self.down, hidden)
        self.plan(context)

    def choose(self) -> None:
        pass


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("libraries", type=Path)
    parser.add_argument("kind", choices=["llama.cpp", "ik_llama.cpp"])
    parser.add_argument("--repacked", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--experts", type=int, default=64)
    parser.add_argument("--used", type=int, default=9)
    parser.add_argument("--hidden", type=int, default=7168)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--tokens", type=int, default=1)
    parser.add_argument("--steps", type=int, default=12)
    return parser.parse_args()


def answers(options: argparse.Namespace) -> Iterator[float]:
    kind = Mlp if options.experts == 1 else Layer
    layer = kind(Ggml(options.libraries), options)
    layer.check()
    yield 0.0  # it is ready
    for _ in sys.stdin:
        yield statistics.median(layer.step() for _ in range(options.steps))


if __name__ == "__main__":
    for seconds in answers(parse()):
        print("=>", seconds, flush=True)
