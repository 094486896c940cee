"""`make evidence`: what training gave, claim by claim, into docs/evidence/.

    python benchmarks/training/evidence.py --model runs/tiny/rl/int4
    python benchmarks/training/evidence.py thinking experts --model tiny

Made for an idle machine. Steps whose runs are not there are skipped and named: supervised stages
come from `recipes/tiny.sh`. What was stopped goes on; `--small` takes sizes that show that the
steps work, into a folder of its own.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from answers import EVIDENCE, table

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Step:
    """A script with its options; those of `small` are added for a quick look."""

    command: Sequence[str]
    small: Sequence[str] = ()
    needs: str = ""  # a folder that must be there
    made_by: str = "recipes/tiny.sh"  # that folder


QUICK = "--steps 10 --seeds 1 --tokens 512".split()
RATES = "--rate 1e-3 --rate 2e-3 --rate 4e-3 --rate 8e-3".split()
RL_START = {
    "needs": "runs/evidence/rl/sft",
    "made_by": "baltoro train sft recipes/evidence/sft.toml",
}

STEPS = {
    "optimizers_text": Step(("optimizers.py", "compare"), QUICK),
    "optimizers_documents": Step(
        (*"optimizers.py compare --of documents --steps 1000 --tokens 4096".split(), *RATES), QUICK
    ),
    "clip": Step(("optimizers.py", "clip"), ("--beginning", "4", *QUICK)),
    "spikes": Step(("optimizers.py", "spikes"), needs="runs/tiny/mend"),
    "quantization": Step(
        ("quantization.py",),
        ("--steps", "4", "--twin-steps", "4", "--tokens", "512", "--seeds", "1"),
    ),
    "engine_gap": Step(
        ("engine_gap.py", "--init", "runs/tiny/mend"),
        ("--init", "tiny", "--groups", "2", "--seeds", "1"),
        needs="runs/tiny/mend",
    ),
    "thinking": Step(("thinking.py", "--model", "{model}"), ("--problems", "2", "--budget", "8")),
    "many_calls": Step(
        ("many_calls.py", "--model", "{model}"), ("--problems", "2", "--calls", "3")
    ),
    "experts": Step(
        ("experts.py", "--model", "{model}", "--more"), ("--samples", "2", "--shuffles", "10")
    ),
    "rl": Step(
        "rl_curves.py --config recipes/evidence/rl.toml --rate 2.5e-4 --rate 5e-4".split(),
        "--config recipes/smoke/rl.toml --runs runs/evidence/small/rl --seeds 1 "
        "--rejection-steps 2".split(),
        **RL_START,
    ),
    "rejection": Step(
        "rejection.py --config recipes/evidence/rl.toml --rate 5e-4 --rate 1e-3".split(),
        "--config recipes/smoke/rl.toml --runs runs/evidence/small/rejection --problems 3 "
        "--attempts 2 --steps 3 --seeds 1".split(),
        **RL_START,
    ),
}


def main(
    step: Annotated[list[str] | None, typer.Argument(help=f"Of: {', '.join(STEPS)}.")] = None,
    model: Annotated[str, typer.Option(help="A bundled model or a folder.")] = "tiny",
    small: Annotated[bool, typer.Option("--small", help="Do the steps work?")] = False,
    out: Annotated[Path, typer.Option(help="Folder of the evidence.")] = EVIDENCE,
) -> None:
    out = Path("runs/evidence/small") if small else out
    failed = [name for name in step or STEPS if not run(STEPS[name], name, model, small, out)]
    (out / "README.md").write_text(table(out))
    if failed:
        print(f"== failed or skipped: {', '.join(failed)}")
        raise typer.Exit(1)


def run(step: Step, name: str, model: str, small: bool, out: Path) -> bool:
    """Whether the step was done."""
    if step.needs and not (small and step.small) and not Path(step.needs).exists():
        print(f"== {name}: skipped, there is no {step.needs}; {step.made_by} makes it")
        return False
    script, *options = (part.format(model=model) for part in step.command)
    command = [sys.executable, str(HERE / script), *options, "--out", str(out)]
    command += step.small if small else ()
    print(f"== {name}", flush=True)
    start = time.monotonic()
    status = subprocess.run(command, check=False).returncode
    print(f"== {name}: {time.monotonic() - start:.0f} s, exit status {status}", flush=True)
    return status == 0


if __name__ == "__main__":
    typer.run(main)
