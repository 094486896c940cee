#!/usr/bin/env bash
# From nothing to the checkpoint that the package ships: pretraining, SFT with INT4 rounding,
# reinforcement learning, export, and what the result can do on unseen problems.
#
#     recipes/tiny.sh                the real thing, stage by stage; resumes if stopped
#     recipes/tiny.sh tiny mend      up to a stage: pretrain sft hone finish mend widen lengthen
#                                    settle polish burnish recover weigh gloss reach drill
#                                    temper endure mellow rl
#     recipes/tiny.sh smoke          the same way with a few steps, in about three minutes
#
# Each stage takes under two hours on two idle cores.
# The tokenizer in baltoro/weights/tiny is frozen; `python -m baltoro.train.bpe` makes its kind.
set -euo pipefail
cd "$(dirname "$0")/.."
recipe=${1:-tiny}
last=${2:-rl}
baltoro=${BALTORO:-.venv/bin/baltoro}
if [ "$recipe" = smoke ]; then # always from nothing, and an untrained model rambles
    rm -rf runs/smoke
    measure=(--limit 2 --max-tokens 32)
else
    case "$last" in
        pretrain | sft | hone | finish | mend) measure=() ;;
        *) measure=(--more) ;;
    esac
fi

# glibc gives large blocks back to the system at once, and asking for them anew costs a tenth.
export MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=4294967296

for stage in pretrain sft hone finish mend widen lengthen settle polish burnish recover weigh gloss \
    reach drill temper endure mellow rl; do
    case "$stage" in
        pretrain | rl) kind=$stage ;;
        *) kind=sft ;;
    esac
    "$baltoro" train "$kind" "recipes/$recipe/$stage.toml" --resume
    if [ "$stage" = "$last" ]; then break; fi
done
for format in int4 bf16; do
    "$baltoro" eval skills --model "runs/$recipe/$last/$format" --json "${measure[@]}" \
        > "runs/$recipe/skills-$format.json"
done
"$(dirname "$baltoro")/python" -m baltoro.evals.card "runs/$recipe"
echo "To bundle it: cp runs/$recipe/$last/int4/* baltoro/weights/tiny/"
