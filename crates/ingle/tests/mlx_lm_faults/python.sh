#!/bin/sh
# SPDX-License-Identifier: EUPL-1.2
# Stands in for a Python that goes wrong, in the way that the name it is called by says. It leaves the number of its
# process beside that name.
echo $$ >"$0.pid"

say() {
  printf '%s\n' "$1"
}

# Waits for a command: what comes before it was for others.
await() {
  while read -r line; do
    case $line in
      *"\"do\":\"$1\""*) return ;;
    esac
  done
}

ready() {
  await load
  say '{"event": "ready", "id": 1, "python": "sh", "mlx_lm": "0", "mlx": "0", "architecture": "mock",
    "vocab_size": 100, "layers": 1, "hidden_size": 1, "parameters": 1, "weight_bytes": 4, "dtype": "f32", "kv_dtype": "f32", "kv_token_bytes": 8,
    "quantisation": null, "context_length": 2000000, "chat_template": false}' | tr -d '\n'
  echo
}

# Waits for the request to generate, and gives it a first token.
first_token() {
  ready
  await generate
  say '{"event": "token", "id": 2, "token": 5, "text": "Aye"}'
}

case ${0##*/} in
  hangs-at-start) exec sleep 1000 ;;
  dies-at-start)
    echo "Traceback (most recent call last):" >&2
    echo "ImportError: libmlx.so: cannot open shared object file" >&2
    exit 3
    ;;
  dies-at-start-without-a-word) exit 0 ;;
  refuses-at-start)
    await load
    say '{"event": "error", "id": 1, "message": "ValueError: Model type abacus not supported."}'
    exec sleep 1000
    ;;
  prints-rubbish-at-start)
    say 'Welcome to Python!'
    exec sleep 1000
    ;;
  prints-half-a-line-at-start) printf '{"event": "rea' ;;
  prints-a-huge-line-at-start) yes abcdefghijklmnopqrstuvwxyz | tr -d '\n' ;;
  prints-bytes-that-are-no-text-at-start)
    printf '\377\376\000\n'
    exec sleep 1000
    ;;
  closes-its-output-at-start)
    exec 1>&-
    exec sleep 1000
    ;;
  never-reads)
    ready
    exec sleep 1000
    ;;
  hangs)
    first_token
    exec sleep 1000
    ;;
  hangs-and-ignores-signals)
    trap '' TERM INT HUP QUIT PIPE
    first_token
    while :; do sleep 1; done
    ;;
  hangs-with-a-child)
    first_token
    sleep 1000 &
    echo $! >"$0.grandchild"
    wait
    ;;
  dies)
    first_token
    echo "RuntimeError: [metal] out of memory" >&2
    exit 1
    ;;
  is-killed)
    first_token
    kill -KILL $$
    ;;
  prints-rubbish)
    first_token
    say 'Loading shards: 100%'
    exec sleep 1000
    ;;
  prints-a-number-for-an-event)
    first_token
    say '42'
    exec sleep 1000
    ;;
  closes-its-output)
    first_token
    exec 1>&-
    exec sleep 1000
    ;;
  tells-only-metrics)
    first_token
    while :; do
      say '{"event": "metrics", "prompt_tokens": 1, "generated_tokens": 1, "prefilled_tokens": 1, "decoded_tokens": 0,
        "steps": 1, "prefill_seconds": 0.1, "decode_seconds": 0.1, "running": 1, "waiting": 0, "active": 1, "peak": 1,
        "cached": 1}' | tr -d '\n'
      echo
      sleep 0.1
    done
    ;;
  answers-others)
    first_token
    say '{"event": "token", "id": 77, "token": 5, "text": "not yours"}'
    say '{"event": "done", "id": 78}'
    say '{"event": "token", "id": 2, "token": 6, "text": ", sir", "finish": "length"}'
    exec sleep 1000
    ;;
  answers-the-wrong-thing)
    ready
    await encode
    say '{"event": "piece", "id": 2, "piece": "?"}'
    exec sleep 1000
    ;;
esac
