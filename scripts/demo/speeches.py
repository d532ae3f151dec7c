# SPDX-License-Identifier: EUPL-1.2
"""The demo model's text: its tokenizer, its chat template, and rows of tokens to train and validate on."""

import bisect
import json
import random
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

# The first four have the ids Gemma gives them.
SPECIAL_TOKENS = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]

BOS = SPECIAL_TOKENS.index("<bos>")
END_OF_TURN = SPECIAL_TOKENS.index("<end_of_turn>")

# Target id of a position that counts for nothing.
IGNORED = -100

# Newlines stand alone, so that a prompt which stops just before one ("ROMEO:") is cut as the training text was.
# An apostrophe goes with the letters after it: wash|'d, 'tis.
WORDS = r"\n+| ?'?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|[^\S\n]+(?!\S)|[^\S\n]+"

# A user speaks as First Citizen, the model as Romeo, and a system message sets the stage.
CHAT_TEMPLATE = """\
{{ bos_token }}{% for message in messages %}\
{% if message['role'] == 'user' %}{{ 'FIRST CITIZEN:\\n' }}\
{% elif message['role'] == 'assistant' %}{{ 'ROMEO:\\n' }}\
{% elif message['role'] != 'system' %}{{ raise_exception('demo knows the roles system, user and assistant') }}\
{% endif %}{{ message['content'] | trim }}{{ '<end_of_turn>\\n\\n' }}\
{% endfor %}{% if add_generation_prompt %}{{ 'ROMEO:\\n' }}{% endif %}"""


def train_tokenizer(text: str, vocab_size: int) -> Tokenizer:
    """A byte-level BPE: any text has ids, and the ids give the same text back."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A",
        pair="<bos> $A <bos>:1 $B:1",
        special_tokens=[("<bos>", SPECIAL_TOKENS.index("<bos>"))],
    )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, out: Path, model_max_length: int) -> None:
    tokenizer.save(str(out / "tokenizer.json"))
    config = {
        "added_tokens_decoder": {
            str(index): {
                "content": token,
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
                "single_word": False,
                "special": True,
            }
            for index, token in enumerate(SPECIAL_TOKENS)
        },
        "bos_token": "<bos>",
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<eos>",
        "eot_token": "<end_of_turn>",
        "model_max_length": model_max_length,
        "pad_token": "<pad>",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
    }
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")


class Corpus:
    """One text cut in two at a blank line, and the tokenizer trained on the first part."""

    def __init__(self, text: str, settings: dict, seed: int) -> None:
        cut = text.index("\n\n", len(text) * 9 // 10) + 2
        training, validation = text[:cut], text[cut:]
        self.training_characters = len(training)
        self.validation_characters = len(validation)
        training_speeches = split_speeches(training)
        self.tokenizer = train_tokenizer("".join(map(close_speech, training_speeches)), settings["vocab_size"])
        self._cutter = Cutter(self.tokenizer, settings["merge_dropout"], random.Random(seed))
        self._words = [self._cutter.words(speech) for speech in training_speeches]
        self._rows_left = 0
        self._validation = self.tokenizer.encode(
            "".join(map(close_speech, split_speeches(validation))), add_special_tokens=False
        ).ids
        self.validation_tokens = len(self._validation)

    def training_rows(self, rng: random.Random, rows: int, tokens_per_row: int) -> torch.Tensor:
        """`[rows, tokens_per_row + 1]`: each row is `<bos>`, then the text from the start of a speech."""
        if self._rows_left < rows:
            self._cut_anew()
            self._rows_left = len(self._ids) // tokens_per_row
        self._rows_left -= rows
        batch = []
        for _ in range(rows):
            offset = rng.randrange(self._starts[-1] - tokens_per_row)
            start = self._starts[bisect.bisect_right(self._starts, offset) - 1]
            batch.append([BOS] + self._ids[start : start + tokens_per_row])
        return torch.tensor(batch)

    def validation_rows(self, tokens_per_row: int) -> torch.Tensor:
        """`[rows, tokens_per_row + 1]`: all tokens, side by side; the last row is filled up with `IGNORED`."""
        rows = []
        for start in range(0, len(self._validation), tokens_per_row):
            row = [BOS] + self._validation[start : start + tokens_per_row]
            rows.append(row + [IGNORED] * (tokens_per_row + 1 - len(row)))
        return torch.tensor(rows)

    def _cut_anew(self) -> None:
        """A new pass over the training text: the same words, cut into other tokens."""
        closing = [END_OF_TURN, *self._cutter.cut_whole("\n\n")]
        self._ids, self._starts = [], []
        for words in self._words:
            self._starts.append(len(self._ids))
            for word in words:
                self._ids.extend(self._cutter.cut(word))
            self._ids.extend(closing)


class Cutter:
    """BPE that skips merges at random (Provilkov et al., "BPE-Dropout", 2020), against over-fitting.

    `tokenizers` can do so too, but its random numbers cannot be seeded.
    """

    def __init__(self, tokenizer: Tokenizer, dropout: float, rng: random.Random) -> None:
        model = json.loads(tokenizer.to_str())["model"]
        self._ranks = {tuple(pair): rank for rank, pair in enumerate(model["merges"])}
        self._ids = model["vocab"]
        self._pre_tokenizer = tokenizer.pre_tokenizer
        self._dropout = dropout
        self._rng = rng

    def words(self, text: str) -> list[str]:
        return [word for word, _ in self._pre_tokenizer.pre_tokenize_str(text)]

    def cut_whole(self, text: str) -> list[int]:
        """The ids `tokenizers` gives, with no merge skipped."""
        return [i for word in self.words(text) for i in self._merge(word, 0.0)]

    def cut(self, word: str) -> list[int]:
        return self._merge(word, self._dropout)

    def _merge(self, word: str, dropout: float) -> list[int]:
        parts = list(word)
        while len(parts) > 1:
            ranked = [
                (self._ranks[pair], at)
                for at, pair in enumerate(zip(parts, parts[1:], strict=False))
                if pair in self._ranks and not (dropout and self._rng.random() < dropout)
            ]
            if not ranked:
                break
            _, at = min(ranked)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        return [self._ids[part] for part in parts]


def split_speeches(text: str) -> list[str]:
    return [speech for part in text.split("\n\n") if (speech := part.strip("\n"))]


def close_speech(speech: str) -> str:
    return f"{speech}<end_of_turn>\n\n"
