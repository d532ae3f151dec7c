# SPDX-License-Identifier: EUPL-1.2
"""Measures PyTorch's training: transformers, and PEFT for an adapter, on sequences of a text. Prints JSON.

    python torch_train_worker.py --model FOLDER --data text.txt --mode autocast --lora-rank 8
"""

import argparse
import contextlib
import json
import pathlib
import time

import torch
import transformers

MODES = ("f32", "autocast", "bf16")


def sequences(model: pathlib.Path, data: pathlib.Path, length: int) -> torch.Tensor:
    """The text, cut into sequences as Ingle cuts it."""
    tokens = transformers.AutoTokenizer.from_pretrained(model)(data.read_text())["input_ids"]
    return torch.tensor(tokens[: len(tokens) // length * length]).view(-1, length)


def load(args: argparse.Namespace) -> torch.nn.Module:
    dtype = torch.bfloat16 if args.mode == "bf16" else torch.float32
    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype)
    if args.lora_rank:
        import peft

        config = peft.LoraConfig(r=args.lora_rank, lora_alpha=2 * args.lora_rank, target_modules=["q_proj", "v_proj"])
        model = peft.get_peft_model(model, config)
    return model.train()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--mode", choices=MODES, required=True)
    parser.add_argument("--lora-rank", type=int, default=0)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True, help="sequences of a step")
    parser.add_argument("--length", type=int, required=True, help="tokens of a sequence")
    parser.add_argument("--steps", type=int, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    transformers.logging.disable_progress_bar()
    data = sequences(args.model, args.data, args.length)
    model = load(args)
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=1e-4, fused=True)
    half = torch.autocast("cpu", torch.bfloat16) if args.mode == "autocast" else contextlib.nullcontext()
    rates, losses = [], []
    for step in range(args.steps):
        began = time.perf_counter()
        batch = data[[(step * args.batch + i) % len(data) for i in range(args.batch)]]
        with half:
            loss = model(batch, labels=batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learnt, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        rates.append(batch.numel() / (time.perf_counter() - began))
    print(json.dumps({"tokens_per_second": rates, "losses": losses}))


if __name__ == "__main__":
    main()
