# SPDX-License-Identifier: EUPL-1.2
"""mlx-lm's side of the comparison: one JSON line for each test, in the units of `ingle bench`.

tg128: tokens a second of generation, prompt of one token, as users call it (`stream_generate`).
256x16: sentences a second, the logits of the last token of 256 sequences of 16 tokens, one pass.
"""

import argparse
import json
import time

import mlx.core as mx
from mlx_lm import load
from mlx_lm.generate import stream_generate
from mlx_lm.sample_utils import make_sampler


def generate(model, tokenizer, tokens: int) -> float:
    prompt = [tokenizer.bos_token_id or 1]
    tokenizer._eos_token_ids = set()  # go on past the end, as `ingle bench` does
    begin = None
    count = 0
    for _ in stream_generate(model, tokenizer, prompt, max_tokens=tokens, sampler=make_sampler(temp=0.0)):
        if begin is None:
            begin = time.perf_counter()  # the first token is the prompt's
        else:
            count += 1
    return count / (time.perf_counter() - begin)


def classify(model, sentences: int, tokens: int, vocabulary: int, round_: int) -> float:
    ids = [[(31 * i + 7 * t + round_) % (vocabulary - 8) + 4 for t in range(tokens)] for i in range(sentences)]
    begin = time.perf_counter()
    logits = model(mx.array(ids))[:, -1]
    mx.eval(mx.argmax(logits, axis=-1))
    return sentences / (time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--sentences", default="256x16", help="0 for none")
    parser.add_argument("--repetitions", type=int, default=5)
    arguments = parser.parse_args()
    model, tokenizer = load(arguments.model)
    vocabulary = len(tokenizer)

    samples = [generate(model, tokenizer, arguments.tokens) for _ in range(arguments.repetitions + 1)][1:]
    print(json.dumps({"engine": "mlx-lm", "test": f"tg{arguments.tokens}", "samples": samples}), flush=True)
    if arguments.sentences != "0":
        sentences, tokens = (int(number) for number in arguments.sentences.split("x"))
        samples = [
            classify(model, sentences, tokens, vocabulary, round_) for round_ in range(arguments.repetitions + 1)
        ][1:]
        print(json.dumps({"engine": "mlx-lm", "test": arguments.sentences, "samples": samples}), flush=True)


if __name__ == "__main__":
    main()
