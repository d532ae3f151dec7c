# SPDX-License-Identifier: EUPL-1.2
"""Makes a Llama of random bf16 weights and any size, with a small tokeniser, to train.

    python make_train_model.py --out DIR --hidden 512 --inner 1408 --layers 8 --vocabulary 8192
"""

import argparse
import pathlib

import torch
import transformers

from small_tokenizer import SPECIAL, make_tokenizer

SEED = 20250101


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, required=True)
    for name in ("hidden", "inner", "layers", "vocabulary"):
        parser.add_argument(f"--{name}", type=int, required=True)
    args = parser.parse_args()
    torch.manual_seed(SEED)
    config = transformers.LlamaConfig(
        hidden_size=args.hidden,
        intermediate_size=args.inner,
        num_hidden_layers=args.layers,
        num_attention_heads=args.hidden // 64,
        num_key_value_heads=args.hidden // 64,
        vocab_size=args.vocabulary,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=SPECIAL.index("<|im_end|>"),
        pad_token_id=0,
    )
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    args.out.mkdir(parents=True, exist_ok=True)
    make_tokenizer(args.out)
    model.save_pretrained(args.out)


if __name__ == "__main__":
    main()
