#!/usr/bin/env bash
# Everything here that only a card can measure, in one command of less than ten minutes; send us the JSON file.
#
#     bash benchmarks/gpu.sh PAIRS FILE.json [MERGED_MODEL]
#
# PAIRS is a dataset that prepare_dataset.py wrote, MERGED_MODEL one that merge_and_push.py wrote: with it drafting is
# timed, too. Bases are read from the Hub: configuration and tokenizer alone, the weights are random. TINYLLAMA, SMOLLM2,
# STEPS and the names of rows in the environment change that.
set -euo pipefail
pairs=$1 output=$2 merged=${3-}
here=$(cd "$(dirname "$0")" && pwd)
parts=$(mktemp -d)
trap 'rm -rf "$parts"' EXIT

# TinyLlama in 6 GiB of the card's memory: what the recipe was made for.
python "$here/training.py" --dataset_name "$pairs" --memory_gib 6 --steps "${STEPS:-8}" \
    --model "${TINYLLAMA:-TinyLlama/TinyLlama-1.1B-Chat-v1.0}" --output "$parts/tinyllama.json" \
    --kinds "${TINYLLAMA_KINDS:-stock; recipe; recipe, small; recipe, TF32; recipe, bf16; recipe, bf16, no checkpointing}"
# SmolLM2 beside TRL's own trainer.
python "$here/training.py" --dataset_name "$pairs" --memory_gib 6 --steps "${STEPS:-8}" \
    --model "${SMOLLM2:-HuggingFaceTB/SmolLM2-135M-Instruct}" --output "$parts/smollm2.json" \
    --recipe "$here/../recipes/smollm2_135m_cpu.yaml" \
    --kinds "${SMOLLM2_KINDS:-stock; stock, no checkpointing; recipe; recipe, fp32, no checkpointing}"
if [ -n "$merged" ]; then
    python "$here/drafting.py" --model "$merged" --dataset_name "$pairs" --num_examples "${EXAMPLES:-100}" \
        --num_single "${SINGLE:-10}" --repeats 1 --batch_sizes 32 100 --output "$parts/drafting.json"
fi
python - "$parts" "$output" <<'END'
import json, pathlib, sys

found = {part.stem: json.loads(part.read_text()) for part in sorted(pathlib.Path(sys.argv[1]).glob("*.json"))}
pathlib.Path(sys.argv[2]).write_text(json.dumps(found, indent=2) + "\n")
END
