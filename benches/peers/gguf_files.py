# SPDX-License-Identifier: EUPL-1.2
"""GGUF files of the weights that a safetensors folder holds, for llama.cpp."""

import json
import math
import pathlib

import gguf
import numpy as np
import torch
import transformers
from safetensors import safe_open

import llama_engine

ARCHITECTURES = {
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "llama": gguf.MODEL_ARCH.LLAMA,
    "gemma3_text": gguf.MODEL_ARCH.GEMMA3,
}
PRE_TOKENIZERS = {"qwen3": "qwen2", "llama": "llama-bpe", "gemma3_text": "gpt-2"}
# `enum llama_ftype` of llama.cpp.
FILE_TYPES = {
    "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10, "Q3_K_M": 12, "Q4_K_M": 15, "Q5_K_M": 17,
    "Q6_K": 18, "IQ4_NL": 25, "BF16": 32,
}
# What the rows of the agreement check are about: any prompt of a few tokens would do.
PROMPT = [(7919 * index + 17) % 4000 for index in range(24)]


def write_dense(folder: pathlib.Path, target: pathlib.Path) -> None:
    """The weights as they are stored: matrices in bf16, vectors in f32."""
    config = json.loads((folder / "config.json").read_text())
    kind, layers = config["model_type"], config["num_hidden_layers"]
    architecture = ARCHITECTURES[kind]
    part = target.with_suffix(".part")
    writer = gguf.GGUFWriter(part, gguf.MODEL_ARCH_NAMES[architecture])
    _write_config(writer, config)
    _write_tokenizer(writer, folder, config)
    names = gguf.get_tensor_name_map(architecture, layers)
    with safe_open(folder / "model.safetensors", "pt") as weights:
        for name in weights.keys():
            tensor = _as_llama_cpp_has_it(name, weights.get_tensor(name), config)
            gguf_name = names.get_name(name, (".weight",))
            if gguf_name is None:
                raise RuntimeError(f"{folder}: GGUF has no name for `{name}`")
            _add(writer, gguf_name, tensor)
    if kind == "llama":
        _add(writer, "rope_freqs.weight", _llama3_factors(config))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    part.rename(target)


def _write_config(writer: gguf.GGUFWriter, config: dict) -> None:
    rope = config["rope_parameters"]
    writer.add_name("random weights")
    writer.add_file_type(FILE_TYPES["BF16"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(rope.get("full_attention", rope)["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    if config["model_type"] == "llama":
        writer.add_rope_dimension_count(config["head_dim"])
    if config.get("sliding_window"):
        writer.add_sliding_window(config["sliding_window"])


def _write_tokenizer(writer: gguf.GGUFWriter, folder: pathlib.Path, config: dict) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    special = {token["id"] for token in tokenizer["added_tokens"]}
    pieces = {index: piece for piece, index in tokenizer["model"]["vocab"].items()}
    pieces |= {token["id"]: token["content"] for token in tokenizer["added_tokens"]}
    tokens, types = [], []
    for index in range(config["vocab_size"]):
        tokens.append(pieces.get(index, f"[PAD{index}]"))
        kind = gguf.TokenType.CONTROL if index in special else gguf.TokenType.NORMAL
        types.append(kind if index in pieces else gguf.TokenType.UNUSED)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE_TOKENIZERS[config["model_type"]])
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_pad_token_id(config["pad_token_id"])
    writer.add_add_bos_token(False)
    template = folder / "chat_template.jinja"
    writer.add_chat_template(settings.get("chat_template") or template.read_text())


def _as_llama_cpp_has_it(name: str, tensor: torch.Tensor, config: dict) -> torch.Tensor:
    """The conventions of llama.cpp: Llama's heads rotate neighbours instead of halves, and Gemma's norms hold
    the whole factor instead of what it has more than one."""
    if config["model_type"] == "llama" and (".q_proj." in name or ".k_proj." in name):
        heads = config["num_attention_heads" if ".q_proj." in name else "num_key_value_heads"]
        rows, columns = tensor.shape
        return tensor.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)
    if config["model_type"] == "gemma3_text" and name.endswith("norm.weight"):
        return tensor.float() + 1.0
    return tensor


def _llama3_factors(config: dict) -> torch.Tensor:
    """What each rotation's frequency is divided by: `_compute_llama3_parameters` of transformers."""
    rope = config["rope_parameters"]
    low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
    original = rope["original_max_position_embeddings"]
    factors = []
    for index in range(0, config["head_dim"], 2):
        wavelength = 2 * math.pi * rope["rope_theta"] ** (index / config["head_dim"])
        if wavelength < original / high:
            factors.append(1.0)
        elif wavelength > original / low:
            factors.append(factor)
        else:
            smooth = (original / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return torch.tensor(factors)


def _add(writer: gguf.GGUFWriter, name: str, tensor: torch.Tensor) -> None:
    if tensor.ndim == 1:
        writer.add_tensor(name, tensor.float().numpy())
        return
    stored = tensor.contiguous().view(torch.uint8).numpy()
    writer.add_tensor(name, stored, raw_dtype=gguf.GGMLQuantizationType.BF16)


def quantise(dense: pathlib.Path, target: pathlib.Path, kind: str) -> None:
    part = target.with_suffix(".part")
    llama_engine.quantise(dense, part, FILE_TYPES[kind])
    part.rename(target)


def agreement(folder: pathlib.Path, target: pathlib.Path) -> dict:
    """How near llama.cpp's logits after a prompt are to transformers', by their cosine."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    with torch.inference_mode():
        expected = model(torch.tensor([PROMPT]), logits_to_keep=1).logits[0, -1].float().numpy()
    with llama_engine.Context(llama_engine.Model(target), threads=2, positions=256) as context:
        context.prompt(PROMPT)
        found = np.array(context.logits(), dtype=np.float32)
    cosine = float(found @ expected / (np.linalg.norm(found) * np.linalg.norm(expected)))
    return {"cosine": round(cosine, 6), "same_argmax": bool(found.argmax() == expected.argmax())}
