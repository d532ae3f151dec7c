# SPDX-License-Identifier: EUPL-1.2
"""llama.cpp through its C interface: a model, a context, and forward passes, without Python in between."""

import ctypes
import os
import pathlib

from llama_cpp import llama_cpp as llama

FLASH = {"auto": -1, "off": 0, "on": 1}
# Those of llama-bench.
BATCH, UBATCH = 2048, 512
VERBOSE = "PEERS_VERBOSE"


@llama.llama_log_callback
def _silent(_level: int, _text: bytes, _data: object) -> None:
    pass


def _quiet() -> None:
    if VERBOSE not in os.environ:
        llama.llama_log_set(_silent, ctypes.c_void_p(0))


class Model:
    """Weights, mapped into memory."""

    def __init__(self, path: pathlib.Path):
        _quiet()
        llama.llama_backend_init()
        params = llama.llama_model_default_params()
        params.load_mode = llama.LLAMA_LOAD_MODE_MMAP
        self.pointer = llama.llama_model_load_from_file(str(path).encode(), params)
        if not self.pointer:
            raise RuntimeError(f"{path}: llama.cpp does not load it; set {VERBOSE}=1 to see why")
        self.vocab = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self.pointer))


class Context:
    """Room for some sequences of so many positions each."""

    def __init__(self, model: Model, threads: int, positions: int, sequences: int = 1, flash: str = "auto"):
        params = llama.llama_context_default_params()
        params.n_ctx = -(-positions // 256) * 256 * sequences
        params.n_batch, params.n_ubatch = BATCH, UBATCH
        params.n_seq_max = sequences
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = FLASH[flash]
        # Layers with a sliding window cache the window alone, as in llama.cpp's own programs.
        params.swa_full = False
        self.model = model
        self.pointer = llama.llama_init_from_model(model.pointer, params)
        if not self.pointer:
            raise RuntimeError(f"llama.cpp gives no context; set {VERBOSE}=1 to see why")

    def __enter__(self) -> "Context":
        return self

    def __exit__(self, *_error: object) -> None:
        llama.llama_free(self.pointer)

    def clear(self) -> None:
        llama.llama_memory_clear(llama.llama_get_memory(self.pointer), True)

    def prompt(self, tokens: list[int]) -> None:
        """Goes on with sequence 0; gives the logits of its last token alone."""
        array = (llama.llama_token * len(tokens))(*tokens)
        for start in range(0, len(tokens), BATCH):
            part = ctypes.cast(ctypes.byref(array, 4 * start), ctypes.POINTER(llama.llama_token))
            self._decode(llama.llama_batch_get_one(part, min(BATCH, len(tokens) - start)))
        llama.llama_synchronize(self.pointer)

    def step(self, batch: llama.llama_batch) -> None:
        self._decode(batch)
        llama.llama_synchronize(self.pointer)

    def logits(self) -> list[float]:
        """Those of the last token computed."""
        return llama.llama_get_logits_ith(self.pointer, -1)[: self.model.vocab]

    def _decode(self, batch: llama.llama_batch) -> None:
        status = llama.llama_decode(self.pointer, batch)
        if status != 0:
            raise RuntimeError(f"llama_decode gave {status}")


def one_token_each(tokens: list[int], position: int) -> llama.llama_batch:
    """A token for each of some sequences, at the same position, whose logits are wanted."""
    batch = llama.llama_batch_init(len(tokens), 0, 1)
    for sequence, token in enumerate(tokens):
        batch.token[sequence] = token
        batch.pos[sequence] = position
        batch.n_seq_id[sequence] = 1
        batch.seq_id[sequence][0] = sequence
        batch.logits[sequence] = 1
    batch.n_tokens = len(tokens)
    return batch


def quantise(source: pathlib.Path, target: pathlib.Path, file_type: int) -> None:
    _quiet()
    params = llama.llama_model_quantize_default_params()
    params.ftype = file_type
    status = llama.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params))
    if status != 0:
        raise RuntimeError(f"{target}: llama_model_quantize gave {status}")
