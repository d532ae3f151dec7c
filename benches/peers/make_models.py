# SPDX-License-Identifier: EUPL-1.2
"""Makes a random-weight model of a published shape: bf16 safetensors, a small tokeniser, and the same
weights as GGUF files.

    python make_models.py --models DIR --shape qwen3-0.6b --types BF16 Q8_0 Q4_0 Q4_K_M
"""

import argparse
import json
import pathlib
import shutil

import torch
import transformers

import gguf_files
from shapes import SHAPES, Shape
from small_tokenizer import SPECIAL, make_tokenizer

SEED = 20250101


def make_weights(shape: Shape, folder: pathlib.Path) -> None:
    torch.manual_seed(SEED)
    fields = dict(shape.config)
    config = transformers.AutoConfig.for_model(fields.pop("model_type"), **fields)
    config.bos_token_id, config.eos_token_id, config.pad_token_id = None, SPECIAL.index("<|im_end|>"), 0
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            # Fresh norms are all ones: a converter that mixed them up would not show.
            if weight.ndim == 1:
                weight.add_(0.1 * torch.randn_like(weight))
    model.save_pretrained(folder)


def make(shape: Shape, models_dir: pathlib.Path, types: list[str]) -> None:
    folder = models_dir / shape.name
    if not (folder / "model.safetensors").exists():
        print(f"{folder}: random weights", flush=True)
        # Made beside and renamed, so that an interrupted run leaves nothing half made.
        part = folder.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        make_tokenizer(part)
        make_weights(shape, part)
        part.rename(folder)
    dense = models_dir / f"{shape.name}-BF16.gguf"
    if not dense.exists():
        print(f"{dense}: the same weights", flush=True)
        gguf_files.write_dense(folder, dense)
    for kind in types:
        target = models_dir / f"{shape.name}-{kind}.gguf"
        if not target.exists():
            print(f"{target}: quantised by llama.cpp", flush=True)
            gguf_files.quantise(dense, target, kind)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=pathlib.Path, required=True, help="folder that the models go to")
    parser.add_argument("--shape", choices=SHAPES, action="append", help="repeat for more; all if not given")
    parser.add_argument("--types", nargs="*", default=["BF16", "Q8_0", "Q4_0", "Q4_K_M"], help="GGUF types")
    parser.add_argument("--check", action="store_true", help="compare llama.cpp's logits with transformers'")
    args = parser.parse_args()
    args.models.mkdir(parents=True, exist_ok=True)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for name in args.shape or SHAPES:
        make(SHAPES[name], args.models, args.types)
        if args.check:
            for kind in args.types:
                agreement = gguf_files.agreement(args.models / name, args.models / f"{name}-{kind}.gguf")
                print(json.dumps({"shape": name, "type": kind, **agreement}), flush=True)


if __name__ == "__main__":
    main()
