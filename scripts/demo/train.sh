#!/bin/sh
# SPDX-License-Identifier: EUPL-1.2
# Trains the model `demo` and puts it where the binary is built from:
#
#   scripts/demo/train.sh PLAYS.txt FOLDER [options of `ingle train`]
#
# PLAYS.txt is tinyshakespeare.txt: speeches parted by blank lines. The first nine tenths train, the rest validates.
# FOLDER gets all that `ingle train` writes; a training that was broken off goes on there. INGLE names the binary.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
plays=$1
folder=$2
shift 2
ingle=${INGLE:-ingle}
model=$here/../../crates/ingle/models/demo

mkdir -p "$folder"
awk -v RS= -v cut="$(($(wc -c <"$plays") * 9 / 10))" -v folder="$folder" '
    { printf "%s\n\n", $0 > (folder "/" (read <= cut ? "training" : "validation") ".txt"); read += length($0) + 2 }
' "$plays"
started=$(date +%s)
"$ingle" train --config "$here/demo.toml" --data "$folder/training.txt" --valid "$folder/validation.txt" \
    --out "$folder/out" --resume --dtype bf16 "$@"
echo $(($(date +%s) - started)) >>"$folder/seconds"
if [ ! -d "$folder/out/model" ]; then
    echo "broken off: the same command goes on" >&2
    exit 1
fi

# What the card says of the training.
log=$folder/out/log.jsonl
best=$(grep '"best":true' "$log" | tail -n 1)
number() { printf '%s\n' "$2" | sed -n "s/.*\"$1\":\([0-9.]*\).*/\1/p"; }
characters() { wc -m <"$folder/$1.txt"; }
thousands() { printf '%s\n' "$1" | sed -e ':a' -e 's/\([0-9]\)\([0-9]\{3\}\)\($\|,\)/\1,\2\3/' -e 'ta'; }
rounded() { printf '%.3f' "$1"; }
sed -e "s/@PARAMETERS@/$(thousands "$(number parameters "$("$ingle" info --model "$folder/out/model" --json)")")/" \
    -e "s/@TRAINING@/$(thousands "$(characters training)")/" \
    -e "s/@VALIDATION@/$(thousands "$(characters validation)")/" \
    -e "s/@MINUTES@/$(awk '{ seconds += $1 } END { printf "%.0f", seconds / 60 }' "$folder/seconds")/" \
    -e "s/@STEP@/$(thousands "$(number step "$best")")/" \
    -e "s/@STEPS@/$(thousands "$(number step "$(grep '"event":"step"' "$log" | tail -n 1)")")/" \
    -e "s/@NATS@/$(rounded "$(number loss "$best")")/" \
    -e "s/@BITS@/$(rounded "$(number bits_per_character "$best")")/" \
    "$here/model_card.md" >"$folder/out/model/README.md"
cp "$folder/out/model/"* "$model/"
