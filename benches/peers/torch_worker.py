# SPDX-License-Identifier: EUPL-1.2
"""Measures PyTorch's classification of sentences of equal length: transformers in bf16, in batches, logits of
the last token alone. Prints JSON with the fields of `ingle bench --json`.

    python torch_worker.py --model FOLDER --threads 2 --batch-size 32 classify256x16
    python torch_worker.py --model FOLDER --threads 2 --find-batch-size classify256x16
"""

import argparse
import json
import pathlib
import time

import torch
import transformers

from measurement import Test, made_up, peak_rss

BATCH_SIZES = (4, 8, 16, 32, 64)


def classify(model: torch.nn.Module, sentences: torch.Tensor, batch_size: int) -> float:
    """Sentences per second."""
    began = time.perf_counter()
    for batch in sentences.split(batch_size):
        logits = model(batch, use_cache=False, logits_to_keep=1).logits[:, -1]
        torch.softmax(logits.float(), dim=-1).max(dim=-1)
    return len(sentences) / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--repetitions", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--find-batch-size", action="store_true", help="try some, and say which is fastest")
    parser.add_argument("tests", nargs="+", help="for example classify256x16")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    transformers.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.bfloat16).eval()
    results, found = [], {}
    for name in args.tests:
        test = Test.parse(name)
        vocab = model.config.vocab_size
        sentences = torch.tensor([made_up(index, test.tokens, vocab) for index in range(test.batch)])
        with torch.inference_mode():
            if args.find_batch_size:
                classify(model, sentences[:8], 8)
                found = {size: classify(model, sentences, size) for size in BATCH_SIZES}
                continue
            rates = [classify(model, sentences, args.batch_size) for _ in range(args.repetitions + 1)]
        results.append({"test": name, "samples": rates[1:]})
    figures = {"peak_rss_bytes": peak_rss(), "tests": results}
    if found:
        figures |= {"batch_size": max(found, key=found.get), "rates": found}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
