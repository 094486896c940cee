"""Whether a model calls a tool exactly when a problem needs one (tool_choice auto).

    python benchmarks/agent/tool_triggers.py --model tiny

Prints one JSON line with precision, recall and F1 over as many unseen problems of each kind.
"""

from __future__ import annotations

import argparse
import asyncio
import json

from baltoro.engine.open_model import open_model
from baltoro.evals.tool_calls import measure
from baltoro.evals.triggers import requests


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="tiny", help="a bundled model, a folder or an address")
    parser.add_argument("--problems", type=int, default=300, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    model = open_model(options.model)
    report = asyncio.run(measure(model, requests(options.problems, options.seed)))
    print(json.dumps({"model": options.model} | report.to_json()))


if __name__ == "__main__":
    main()
