"""The recipe from nothing to an exported, measured checkpoint, with a few steps."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from baltoro.checkpoint.reader import open_checkpoint
from baltoro.quant import int4

ROOT = Path(__file__).parents[2]
# Those that learn from demonstrations.
STAGES = (
    "pretrain sft hone finish mend widen lengthen settle polish burnish recover weigh gloss "
    "reach drill temper endure mellow"
).split()
ROWS_ALONE = "polish burnish gloss".split()  # of embedding and head; loss need not fall


def test_the_recipe_goes_from_nothing_to_a_measured_int4_checkpoint():
    command = Path(sys.executable).with_name("baltoro")
    done = subprocess.run(
        [ROOT / "recipes" / "tiny.sh", "smoke"],
        env=os.environ | {"BALTORO": str(command)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    run = ROOT / "runs" / "smoke"
    for stage in STAGES:
        rows = [json.loads(row) for row in (run / stage / "metrics.jsonl").read_text().splitlines()]
        assert rows[-1]["loss"] < rows[0]["loss"] or stage in ROWS_ALONE
        assert (run / stage / "metrics.png").stat().st_size > 10_000

    # Stages that learn rows of embedding and head alone leave all else as it was.
    before, after = (open_checkpoint(run / s / "bf16").tensors for s in ("settle", "burnish"))
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {"model.embed_tokens.weight", "lm_head.weight"}

    # What is exported is what the quantizer makes of the bf16 parent, bit for bit.
    packed, plain = (
        open_checkpoint(run / "mellow" / "int4"),
        open_checkpoint(run / "mellow" / "bf16"),
    )
    name = "model.layers.1.mlp.experts.3.up_proj"
    codes, scale = int4.quantize(np.asarray(plain.tensors[f"{name}.weight"]))
    assert np.array_equal(packed.tensors[f"{name}.weight_packed"], int4.pack(codes))
    assert np.array_equal(packed.tensors[f"{name}.weight_scale"], scale)
    assert "| compare | 2 |" in done.stdout
