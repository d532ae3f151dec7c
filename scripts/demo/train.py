# SPDX-License-Identifier: EUPL-1.2
"""Trains the `demo` model: a small Gemma 3 on one text file of plays, with its own tokenizer.

    python scripts/demo/train.py --data tinyshakespeare.txt --out crates/ingle/models/demo

The text is speeches parted by blank lines. Each speech is closed by `<end_of_turn>`, so a chat can stop where a speech
ends. The first nine tenths train, the rest validates. The folder given by `--out` always holds the checkpoint with the
lowest validation loss so far, as a Hugging Face model directory. Every choice is in `settings.json`, every random
number comes from its seed.
"""

import argparse
import copy
import json
import math
import os
import random
import string
import time
from dataclasses import dataclass
from pathlib import Path

import speeches
import torch
from safetensors.torch import save_file
from speeches import Corpus
from torch import nn
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

HERE = Path(__file__).parent


@dataclass
class Score:
    """Loss on the validation text."""

    nats_per_token: float
    bits_per_character: float


def build_model(settings: dict, vocab_size: int) -> nn.Module:
    shape = dict(settings["model"])
    pattern = shape.pop("sliding_window_pattern")
    bases = {"full_attention": shape.pop("rope_theta"), "sliding_attention": shape.pop("rope_local_base_freq")}
    config = Gemma3TextConfig(
        vocab_size=vocab_size,
        layer_types=[
            "sliding_attention" if (layer + 1) % pattern else "full_attention"
            for layer in range(shape["num_hidden_layers"])
        ],
        rope_parameters={kind: {"rope_type": "default", "rope_theta": base} for kind, base in bases.items()},
        pad_token_id=speeches.SPECIAL_TOKENS.index("<pad>"),
        eos_token_id=speeches.SPECIAL_TOKENS.index("<eos>"),
        bos_token_id=speeches.SPECIAL_TOKENS.index("<bos>"),
        tie_word_embeddings=True,
        attn_implementation="sdpa",
        **shape,
    )
    return Gemma3ForCausalLM(config)


def add_dropout(model: nn.Module, probability: float) -> None:
    """Drops out what enters the residual stream: Gemma's config has no such setting, and so small a text needs it."""

    def drop(module: nn.Module, _inputs: tuple, output: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(output, probability, training=module.training)

    model.model.embed_tokens.register_forward_hook(drop)
    for layer in model.model.layers:
        layer.post_attention_layernorm.register_forward_hook(drop)
        layer.post_feedforward_layernorm.register_forward_hook(drop)


def make_optimizer(model: nn.Module, training: dict) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    norms = [p for p in model.parameters() if p.dim() < 2]
    return torch.optim.AdamW(
        [{"params": matrices, "weight_decay": training["weight_decay"]}, {"params": norms, "weight_decay": 0.0}],
        lr=training["learning_rate"],
        betas=(training["beta1"], training["beta2"]),
    )


def learning_rate(step: int, training: dict) -> float:
    """Linear warm-up, then a half cosine."""
    peak, last = training["learning_rate"], training["final_learning_rate"]
    if step < training["warmup_steps"]:
        return peak * (step + 1) / training["warmup_steps"]
    done = (step - training["warmup_steps"]) / max(1, training["steps"] - training["warmup_steps"])
    return last + 0.5 * (peak - last) * (1.0 + math.cos(math.pi * done))


def next_token_loss(model: nn.Module, rows: torch.Tensor, reduction: str) -> torch.Tensor:
    inputs = rows[:, :-1].clamp(min=0)
    logits = model(input_ids=inputs, use_cache=False).logits
    return nn.functional.cross_entropy(
        logits.float().flatten(0, 1), rows[:, 1:].flatten(), ignore_index=speeches.IGNORED, reduction=reduction
    )


@torch.no_grad()
def evaluate(model: nn.Module, corpus: Corpus, tokens_per_row: int) -> Score:
    """Every validation token once, in rows that each start afresh with `<bos>`; in float32."""
    model.eval()
    rows = corpus.validation_rows(tokens_per_row)
    nats = 0.0
    for start in range(0, len(rows), 8):
        nats += next_token_loss(model, rows[start : start + 8], "sum").item()
    return Score(nats / corpus.validation_tokens, nats / math.log(2.0) / corpus.validation_characters)


@torch.no_grad()
def as_stored(model: nn.Module) -> nn.Module:
    """A copy whose parameters are rounded to bfloat16, as the file holds them, and kept in float32.

    Parameters alone: casting the module would round the rotary frequencies too, which no file holds.
    """
    stored = copy.deepcopy(model)
    for parameter in stored.parameters():
        parameter.copy_(parameter.to(torch.bfloat16))
    return stored


def save(stored: nn.Module, corpus: Corpus, settings: dict, out: Path, facts: dict[str, str]) -> None:
    """Writes the whole model directory."""
    out.mkdir(parents=True, exist_ok=True)
    weights = {name: p.detach().to(torch.bfloat16).contiguous() for name, p in stored.named_parameters()}
    beside = out / "model.safetensors.part"
    save_file(weights, beside, metadata={"format": "pt"})
    os.replace(beside, out / "model.safetensors")
    config = copy.deepcopy(stored.config)
    config.architectures = ["Gemma3ForCausalLM"]
    config.dtype = torch.bfloat16
    config.save_pretrained(out)
    generation = {
        "bos_token_id": config.bos_token_id,
        "do_sample": True,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": config.pad_token_id,
        **settings["generation"],
    }
    (out / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    speeches.save_tokenizer(corpus.tokenizer, out, settings["model"]["max_position_embeddings"])
    card = string.Template((HERE / "model_card.md").read_text())
    (out / "README.md").write_text(card.substitute(facts))


def train(settings: dict, corpus: Corpus, out: Path) -> None:
    training = settings["training"]
    model = build_model(settings, corpus.tokenizer.get_vocab_size()).train()
    add_dropout(model, training["dropout"])
    optimizer = make_optimizer(model, training)
    rows = random.Random(settings["seed"])
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)

    best = math.inf
    began = time.monotonic()
    recent = 0.0
    for step in range(1, training["steps"] + 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step - 1, training)
        batch = corpus.training_rows(rows, training["rows_per_step"], training["tokens_per_row"])
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=training["precision"] == "bfloat16"):
            loss = next_token_loss(model, batch, "mean")
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), training["gradient_norm"])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        recent += loss.item()
        if step % 20 == 0:
            elapsed = time.monotonic() - began
            print(f"step {step} loss {recent / 20:.4f} {elapsed:.0f} s {elapsed / step:.2f} s/step", flush=True)
            recent = 0.0
        if step % training["evaluate_every"] == 0 or step == training["steps"]:
            stored = as_stored(model)
            score = evaluate(stored, corpus, training["tokens_per_row"])
            note = ""
            if score.nats_per_token < best:
                best = score.nats_per_token
                note = " (best so far, saved)"
                facts = {
                    "parameters": f"{sum(p.numel() for p in model.parameters()):,}",
                    "nats_per_token": f"{score.nats_per_token:.3f}",
                    "bits_per_character": f"{score.bits_per_character:.3f}",
                    "step": f"{step:,}",
                    "steps": f"{training['steps']:,}",
                    "training_characters": f"{corpus.training_characters:,}",
                    "validation_characters": f"{corpus.validation_characters:,}",
                }
                save(stored, corpus, settings, out, facts)
            print(
                f"step {step} validation {score.nats_per_token:.4f} nats/token "
                f"{score.bits_per_character:.4f} bits/character{note}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the text: speeches parted by blank lines")
    parser.add_argument("--out", type=Path, required=True, help="the model directory to write")
    parser.add_argument("--settings", type=Path, default=HERE / "settings.json")
    options = parser.parse_args()

    settings = json.loads(options.settings.read_text())
    torch.set_num_threads(settings["threads"])
    torch.manual_seed(settings["seed"])
    corpus = Corpus(options.data.read_text(encoding="utf-8"), settings["tokenizer"], settings["seed"])
    train(settings, corpus, options.out)


if __name__ == "__main__":
    main()
