# SPDX-License-Identifier: EUPL-1.2
"""The child of Ingle's backend `mlx_lm`: one model on mlx-lm, asked and answering in JSON, one object a line.

A command has `do` and the `id` that its events bear; an event has `event` and that `id`. Standard output belongs to the
protocol alone. The end of standard input is the end of the parent, and of this process.

One program in three files, put together in this order: protocol.py, answers.py, model.py.
"""

import json
import math
import os
import queue
import signal
import sys
import threading
import time
import traceback

# Tokens of a prompt computed between two signs of life.
PREFILL_STEP = 512
# Bytes of logits that one batch of texts to classify may give.
LOGITS_BYTES = 256 << 20
# Bytes of weights read between two signs of life.
LOAD_STEP = 256 << 20
# Seconds between two reports of metrics while there is work.
REPORT_EVERY = 0.25
# Penalties look at everything that was said.
EVERYTHING = 1 << 30
# What ends a turn, by the names that are common among models.
TURN_ENDERS = ["<end_of_turn>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<｜end▁of▁sentence｜>"]


class Wire:
    """The protocol's way out. Whatever else prints goes to standard error."""

    def __init__(self):
        self.file = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)
        sys.stdout = sys.stderr
        self.lock = threading.Lock()

    def send(self, event, id=None, **fields):
        if id is not None:
            fields["id"] = id
        line = json.dumps({"event": event, **fields}, allow_nan=False).encode() + b"\n"
        with self.lock:
            try:
                self.file.write(line)
                self.file.flush()
            except OSError:
                # Nobody is left to tell.
                os._exit(0)

    def fail(self, id, error):
        traceback.print_exception(type(error), error, error.__traceback__)
        words = str(error) if isinstance(error, Refused) else f"{type(error).__name__}: {error}"
        self.send("error", id, message=" ".join(words.split()))


class Refused(Exception):
    """What cannot be done, in words for people."""


def die_with_parent():
    """Ctrl-C is the parent's to handle; a parent that is killed takes this process along."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        try:
            import ctypes

            ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        except (ImportError, OSError, AttributeError):
            # The end of standard input tells as well, only later.
            pass


def listen(wire, inbox, model):
    """Reads commands. What needs only the tokeniser is answered here, while the model computes."""
    for line in sys.stdin.buffer:
        command = json.loads(line)
        answer = {"encode": encode, "render": render, "piece": piece}.get(command["do"])
        if answer is None:
            inbox.put(command)
            continue
        try:
            event, fields = answer(model.tokenizer, command)
            wire.send(event, command["id"], **fields)
        except Exception as error:
            wire.fail(command["id"], error)
    os._exit(0)


def encode(tokenizer, command):
    def ids(text):
        if command["special"] == "literal":
            return tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        begun = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
        return tokenizer.encode(text, add_special_tokens=command["special"] == "add" and not begun)

    return "encoded", {"tokens": [ids(text) for text in command["texts"]]}


def render(tokenizer, command):
    if not tokenizer.has_chat_template:
        raise Refused("the model has no chat template; use generate, or add one to its tokenizer_config.json")
    text = tokenizer.apply_chat_template(command["messages"], add_generation_prompt=True, tokenize=False)
    return "encoded", {"tokens": [tokenizer.encode(text, add_special_tokens=False)]}


def piece(tokenizer, command):
    return "piece", {"piece": tokenizer.convert_ids_to_tokens(command["token"])}
