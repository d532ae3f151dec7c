# SPDX-License-Identifier: EUPL-1.2
"""Measures llama.cpp as its own llama-bench does: forward passes one after another, nothing sampled, the next
token made up. Prints JSON with the fields of `ingle bench --json`.

    python llama_worker.py --model model.gguf --threads 2 --repetitions 2 pp512 tg32 tg32x8
"""

import argparse
import json
import pathlib
import time

import llama_engine
from measurement import FIRST_PROMPT, Test, made_up, peak_rss


def first_token(model: llama_engine.Model, args: argparse.Namespace) -> None:
    with llama_engine.Context(model, args.threads, FIRST_PROMPT, flash=args.flash) as context:
        context.prompt(made_up(0, FIRST_PROMPT, model.vocab))
        # A look at the logits waits for them; choosing among them in Python would take longer than it should.
        context.logits()


def prompt(model: llama_engine.Model, test: Test, args: argparse.Namespace) -> list[float]:
    tokens, rates = made_up(0, test.tokens, model.vocab), []
    with llama_engine.Context(model, args.threads, test.tokens, flash=args.flash) as context:
        for _ in range(args.repetitions + 1):
            context.clear()
            began = time.perf_counter()
            context.prompt(tokens)
            rates.append(test.tokens / (time.perf_counter() - began))
    return rates[1:]


def generate(model: llama_engine.Model, test: Test, args: argparse.Namespace) -> list[float]:
    """A repetition goes on where the last ended, so that a prompt of `depth` tokens is computed once."""
    if test.depth and test.batch > 1:
        raise ValueError(f"{test.name}: several sequences at a depth are not measured")
    end = test.depth + (args.repetitions + 1) * test.tokens
    tokens, rates = [made_up(sequence, 1, model.vocab)[0] for sequence in range(test.batch)], []
    with llama_engine.Context(model, args.threads, end, test.batch, args.flash) as context:
        if test.depth:
            context.prompt(made_up(0, test.depth, model.vocab))
        for position in range(test.depth, end, test.tokens):
            batches = [llama_engine.one_token_each(tokens, position + index) for index in range(test.tokens)]
            began = time.perf_counter()
            for batch in batches:
                context.step(batch)
            rates.append(test.batch * test.tokens / (time.perf_counter() - began))
    return rates[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--repetitions", type=int, default=2)
    parser.add_argument("--flash", choices=llama_engine.FLASH, default="auto", help="flash attention")
    parser.add_argument("tests", nargs="*", help="for example pp512 tg32 tg32@d4096 tg32x8")
    args = parser.parse_args()
    # What Python itself takes is not llama.cpp's.
    interpreter = peak_rss()
    began = time.perf_counter()
    model = llama_engine.Model(args.model)
    load = time.perf_counter() - began
    first_token(model, args)
    first = time.perf_counter() - began
    results = []
    for name in args.tests:
        test = Test.parse(name)
        samples = (prompt if test.kind == "pp" else generate)(model, test, args)
        results.append({"test": name, "samples": samples})
    peak = peak_rss()
    memory = peak - interpreter if peak and interpreter else None
    figures = {"load_s": load, "start_to_first_token_s": first, "peak_rss_bytes": memory, "tests": results}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
