"""The questions that no peer answers here: cache, long and slice.

python benchmarks/speed/alone.py slice --threads 2 --memory 12GiB
"""

from __future__ import annotations

from baltoro.bench.questions import Options, ask
from results import arguments, keep

if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("question", choices=["cache", "long", "slice"])
    parser.add_argument("--memory", help="of the process, for slice")
    parser.add_argument("--bandwidth", type=float, action="append", help="GB/s to project to")
    given = parser.parse_args()
    options = Options(
        threads=given.threads or (),
        rounds=given.rounds,
        small=given.small,
        memory=given.memory,
        bandwidths=given.bandwidth or (),
    )
    keep(ask(given.question, options), given.records)
