#!/usr/bin/env bash
# SPDX-License-Identifier: EUPL-1.2
# Ingle on MLX beside mlx-lm on the same MLX: conformance, then generation and classification in turn.
#
#   benches/peers/mlx/run.sh MODEL...
#
# Each MODEL is a folder that both read (safetensors as the Hugging Face hub or mlx-lm writes them). What it needs:
#
#   INGLE_PYTHON  an interpreter that has mlx and mlx-lm; else an environment is made below target/, from
#   WHEELS        a folder with the wheels of `mlx[$FLAVOUR]` and mlx-lm, where there is no network, and
#   FLAVOUR       cpu (the default) or cuda13
#   DEVICE        what the backend is called: mlx, the default, or metal
#   ROUNDS        how often the two run in turn; 3 by default
#   OUT           a folder for the samples; target/mlx-peers by default
#
# On a machine without a network, `cargo vendor` and `CARGO_NET_OFFLINE=true` beforehand.
set -euo pipefail
cd "$(dirname "$0")/../../.."

flavour=${FLAVOUR:-cpu}
out=${OUT:-target/mlx-peers}
mkdir -p "$out"
if [[ -z "${INGLE_PYTHON:-}" ]]; then
  environment=target/mlx-$flavour
  python3 -m venv "$environment"
  from=()
  [[ -n "${WHEELS:-}" ]] && from=(--no-index --find-links "$WHEELS")
  "$environment/bin/pip" install -q "${from[@]}" "mlx[$flavour]" mlx-lm
  export INGLE_PYTHON="$PWD/$environment/bin/python"
fi

cargo build --release -p ingle-cli --features mlx
ingle=${CARGO_TARGET_DIR:-target}/release/ingle
"$ingle" devices | tee "$out/devices.txt"
cargo test --release -p ingle-mlx --features mlx -- --nocapture 2>&1 | tee "$out/conformance.txt"
cargo test --release -p ingle-models --features ingle-mlx/mlx --test models -- parity quantised --nocapture 2>&1 |
  tee "$out/parity.txt"

for model in "$@"; do
  name=$(basename "$model")
  : >"$out/$name.jsonl"
  # In turn, so that neither has the machine at its best alone.
  for round in $(seq "${ROUNDS:-3}"); do
    echo "== $name, round $round"
    "$ingle" bench --model "$model" --device "${DEVICE:-mlx}" -p 0 -g 128 --classify 256x16 --json |
      tr -d '\n' >>"$out/$name.jsonl"
    echo >>"$out/$name.jsonl"
    "$INGLE_PYTHON" benches/peers/mlx/mlx_lm_worker.py "$model" >>"$out/$name.jsonl"
  done
  "$INGLE_PYTHON" benches/peers/mlx/compare.py "$out/$name.jsonl" | tee "$out/$name.txt"
done
