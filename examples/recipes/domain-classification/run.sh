#!/bin/sh
# SPDX-License-Identifier: EUPL-1.2
# Teaches a small model the domains of CLINC150 and measures how many it finds:
#
#   ./run.sh DATA OUT [options of `ingle finetune`]
#
# DATA has train.jsonl and val.jsonl, as prepare.py makes them; OUT gets the model. INGLE names the binary.
set -eu
data=$1
out=$2
shift 2
ingle=${INGLE:-ingle}
template='{text}\n'

"$ingle" finetune --model demo --data "$data/train.jsonl" --valid "$data/val.jsonl" \
    --label-field domain --template "$template" \
    --epochs 4 --learning-rate 1e-3 --dropout 0.1 --bpe-dropout 0.1 --max-length 256 \
    --validate-every 150 --out "$out" "$@"
"$ingle" classify "$data/val.jsonl" --label-field domain --template "$template" \
    --model "$out/model" --output "$out/found.jsonl"
