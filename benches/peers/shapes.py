# SPDX-License-Identifier: EUPL-1.2
"""The shapes that are measured: the sizes of published models, as their `config.json` gives them."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Shape:
    """A published model's sizes; `config` holds the fields of its `config.json`."""

    name: str
    title: str
    config: dict = field(hash=False)

    @property
    def layers(self) -> int:
        return self.config["num_hidden_layers"]

    @property
    def products_per_token(self) -> int:
        """Weights that a token of a prompt is multiplied with: those of the layers. The last token alone has need of
        the head, and of the last layer's MLP."""
        sizes = self.config
        hidden, width = sizes["hidden_size"], sizes["head_dim"]
        attention = (2 * sizes["num_attention_heads"] + 2 * sizes["num_key_value_heads"]) * width * hidden
        return self.layers * attention + (self.layers - 1) * 3 * hidden * sizes["intermediate_size"]

    def kv_bytes(self, positions: int) -> int:
        """Bytes of bf16 keys and values that one token reads after `positions` others."""
        per_position = 2 * 2 * self.config["num_key_value_heads"] * self.config["head_dim"]
        pattern, window = self.config.get("sliding_window_pattern"), self.config.get("sliding_window")
        if not pattern:
            return self.layers * per_position * positions
        wide = self.layers // pattern
        return per_position * (wide * positions + (self.layers - wide) * min(positions, window))


QWEN3 = Shape("qwen3-0.6b", "Qwen3-0.6B", {
    "model_type": "qwen3",
    "attention_bias": False,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "max_position_embeddings": 40960,
    "num_attention_heads": 16,
    "num_hidden_layers": 28,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "tie_word_embeddings": True,
    "vocab_size": 151936,
})

LLAMA32 = Shape("llama-3.2-1b", "Llama-3.2-1B", {
    "model_type": "llama",
    "attention_bias": False,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "num_attention_heads": 32,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "tie_word_embeddings": True,
    "vocab_size": 128256,
})

GEMMA3 = Shape("gemma-3-1b", "Gemma3-1B", {
    "model_type": "gemma3_text",
    "attention_bias": False,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 1152,
    "intermediate_size": 6912,
    "max_position_embeddings": 32768,
    "num_attention_heads": 4,
    "num_hidden_layers": 26,
    "num_key_value_heads": 1,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-6,
    "rope_local_base_freq": 10000.0,
    "rope_theta": 1e6,
    "sliding_window": 512,
    "sliding_window_pattern": 6,
    "tie_word_embeddings": True,
    "vocab_size": 262144,
})

SHAPES = {shape.name: shape for shape in (QWEN3, LLAMA32, GEMMA3)}
