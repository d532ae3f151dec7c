# SPDX-License-Identifier: EUPL-1.2
"""The rows of the table: what is measured, with which weights, against whom."""

import fnmatch
from dataclasses import dataclass

from measurement import Test
from shapes import SHAPES, Shape

START = "start"
DEEP = 4096
SAFETENSORS = "safetensors"
# In MLX's format, as `ingle quantize` writes it: 8 bits a weight; 128 weights share a scale and an offset.
MLX_8 = "8bit-g128"


@dataclass(frozen=True)
class Row:
    """`measure` is a test's name, or `start`: the time from nothing to the first token."""

    shape: Shape
    weights: str
    measure: str
    peer: str
    # The test that `measure` is compared with within one engine: one sequence alone, an empty cache.
    beside: str | None = None

    @property
    def id(self) -> str:
        return f"{self.shape.name}/{self.weights}/{self.measure}"

    @property
    def test(self) -> Test | None:
        return None if self.measure == START else Test.parse(self.measure)

    @property
    def tests(self) -> list[str]:
        """What one process measures, in order."""
        return [name for name in (self.beside, self.measure) if name and name != START]

    @property
    def less_is_better(self) -> bool:
        return self.measure == START

    @property
    def unit(self) -> str:
        if self.measure == START:
            return "s"
        return "sentences/s" if self.test.kind == "classify" else "tokens/s"


def all_rows() -> list[Row]:
    rows = []
    for shape in SHAPES.values():
        for weights in ("BF16", "Q8_0", "Q4_0", "Q4_K_M"):
            rows += [Row(shape, weights, measure, "llama.cpp") for measure in ("tg32", "pp512", "pp128", START)]
            if weights in ("BF16", "Q4_0"):
                rows.append(Row(shape, weights, "tg32x8", "llama.cpp", beside="tg32"))
                rows.append(Row(shape, weights, f"tg32@d{DEEP}", "llama.cpp", beside="tg32"))
        # With 8-bit weights, too: what PyTorch reads is bf16 in every row.
        rows += [Row(shape, weights, "classify64x16", "PyTorch") for weights in (SAFETENSORS, "Q8_0", MLX_8)]
    return rows


def select(patterns: list[str], shapes: list[str]) -> list[Row]:
    """Rows of these shapes whose id matches one of the patterns: `*/Q4_0/tg*`, or `tg32` for any weights."""

    def wanted(row: Row) -> bool:
        names = (row.id, row.measure, f"{row.weights}/{row.measure}")
        return any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in patterns)

    return [row for row in all_rows() if row.shape.name in shapes and wanted(row)]
