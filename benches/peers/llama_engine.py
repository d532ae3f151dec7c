# SPDX-License-Identifier: EUPL-1.2
"""llama.cpp through its C interface: a model, a context, and forward passes, without Python in between."""

import ctypes
import os
import pathlib

from llama_cpp import llama_cpp as llama

FLASH = {"auto": -1, "off": 0, "on": 1}


@llama.llama_log_callback
def _silent(_level: int, _text: bytes, _data: object) -> None:
    pass


class Engine:
    """A model that is mapped into memory, with a context of `positions` for each of `sequences`."""

    def __init__(self, model: pathlib.Path, threads: int, positions: int, sequences: int = 1, flash: str = "auto"):
        if "INGLE_PEERS_VERBOSE" not in os.environ:
            llama.llama_log_set(_silent, ctypes.c_void_p(0))
        llama.llama_backend_init()
        params = llama.llama_model_default_params()
        params.load_mode = llama.LLAMA_LOAD_MODE_MMAP
        self.model = llama.llama_model_load_from_file(str(model).encode(), params)
        if not self.model:
            raise RuntimeError(f"{model}: llama.cpp does not load it; set INGLE_PEERS_VERBOSE=1 to see why")
        context = llama.llama_context_default_params()
        context.n_ctx = -(-positions // 256) * 256 * sequences
        context.n_batch = 2048
        context.n_ubatch = 512
        context.n_seq_max = sequences
        context.n_threads = context.n_threads_batch = threads
        context.flash_attn_type = FLASH[flash]
        # The window's worth of cache for layers with a sliding window, as its own programs have it.
        context.swa_full = False
        self.context = llama.llama_init_from_model(self.model, context)
        if not self.context:
            raise RuntimeError(f"{model}: llama.cpp gives no context; set INGLE_PEERS_VERBOSE=1 to see why")
        self.vocab = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self.model))

    def clear(self) -> None:
        llama.llama_memory_clear(llama.llama_get_memory(self.context), True)

    def prompt(self, tokens: list[int]) -> None:
        """A prompt for sequence 0; logits of its last token alone."""
        array = (llama.llama_token * len(tokens))(*tokens)
        for start in range(0, len(tokens), 2048):
            count = min(2048, len(tokens) - start)
            part = ctypes.cast(ctypes.byref(array, start * 4), ctypes.POINTER(llama.llama_token))
            self._decode(llama.llama_batch_get_one(part, count))
        llama.llama_synchronize(self.context)

    def step(self, batch: llama.llama_batch) -> None:
        self._decode(batch)
        llama.llama_synchronize(self.context)

    def batch(self, tokens: list[int], position: int, outputs: str = "all") -> llama.llama_batch:
        """One token for each sequence, at the same position."""
        batch = llama.llama_batch_init(len(tokens), 0, 1)
        for index, token in enumerate(tokens):
            batch.token[index] = token
            batch.pos[index] = position
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = index
            batch.logits[index] = outputs == "all"
        batch.n_tokens = len(tokens)
        return batch

    def logits(self) -> list[float]:
        """Those of the last token computed."""
        return llama.llama_get_logits_ith(self.context, -1)[: self.vocab]

    def _decode(self, batch: llama.llama_batch) -> None:
        status = llama.llama_decode(self.context, batch)
        if status != 0:
            raise RuntimeError(f"llama_decode gave {status}")


def quantise(source: pathlib.Path, target: pathlib.Path, file_type: int) -> None:
    llama.llama_log_set(_silent, ctypes.c_void_p(0))
    params = llama.llama_model_quantize_default_params()
    params.ftype = file_type
    status = llama.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params))
    if status != 0:
        raise RuntimeError(f"{target}: llama_model_quantize gave {status}")
