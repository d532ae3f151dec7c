# SPDX-License-Identifier: EUPL-1.2
"""The engines that are measured: each is a command that prints figures as JSON."""

import json
import pathlib
import subprocess
from dataclasses import dataclass, field

from measurement import Test
from rows import MLX_8, SAFETENSORS, Row

HERE = pathlib.Path(__file__).resolve().parent
# The longest that one process may take.
TIMEOUT = 900


class NotRun(Exception):
    """Why an engine gave no figures."""


@dataclass
class Setting:
    """What all runs share."""

    ingle: pathlib.Path
    plain_read: pathlib.Path
    peak: pathlib.Path
    python: pathlib.Path
    models: pathlib.Path
    threads: int
    repetitions: int
    wrap: list[str] = field(default_factory=list)

    def model(self, row: Row) -> pathlib.Path:
        name = row.shape.name
        names = {SAFETENSORS: name, MLX_8: f"{name}-{MLX_8}"}
        return self.models / names.get(row.weights, f"{name}-{row.weights}.gguf")

    def run(self, command: list) -> dict:
        command = [*self.wrap, *map(str, command)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
        except subprocess.TimeoutExpired:
            raise NotRun(f"no answer in {TIMEOUT} s") from None
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise NotRun(lines[-1].removeprefix("error: "))
        figures = json.loads(done.stdout.strip().splitlines()[-1])
        # Where the models lie is nobody's business.
        return {**figures, "model": pathlib.Path(figures["model"]).name} if "model" in figures else figures


def ingle(setting: Setting, row: Row) -> dict:
    # The time to the first token comes beside any test: one token of a prompt is the shortest.
    tests = [Test.parse(name) for name in row.tests or ["pp1"]]
    listed = lambda values: ",".join(str(value) for value in dict.fromkeys(values)) or "0"  # noqa: E731
    command = [setting.ingle, "bench", "--json", "--model", setting.model(row), "--threads", setting.threads]
    command += ["--repetitions", setting.repetitions]
    command += ["--prompt-tokens", listed(test.tokens for test in tests if test.kind == "pp")]
    command += ["--gen-tokens", listed(test.tokens for test in tests if test.kind == "tg")]
    generating = [test for test in tests if test.kind == "tg"]
    if generating:
        command += ["--batch", listed(test.batch for test in generating)]
        command += ["--depth", listed(test.depth for test in generating)]
    for test in tests:
        if test.kind == "classify":
            command += ["--classify", f"{test.batch}x{test.tokens}"]
    return setting.run(command)


class LlamaCpp:
    """llama.cpp, with flash attention or without it: whichever is faster at the row."""

    name = "llama.cpp"

    def __init__(self, setting: Setting, row: Row):
        self.setting, self.row = setting, row
        speeds = {}
        for self.flash in ("on", "off"):
            figure = value(self.run(), row)
            speeds[self.flash] = 1 / figure if row.less_is_better else figure
        self.flash = max(speeds, key=speeds.get)
        self.choice = f"flash attention {self.flash}"

    def run(self) -> dict:
        command = [self.setting.python, HERE / "llama_worker.py", "--model", self.setting.model(self.row)]
        command += ["--threads", self.setting.threads, "--repetitions", self.setting.repetitions]
        return self.setting.run([*command, "--flash", self.flash, *self.row.tests])


class PyTorch:
    """transformers on PyTorch, in batches of the size that is fastest."""

    name = "PyTorch"

    def __init__(self, setting: Setting, row: Row):
        self.setting, self.row = setting, row
        self.batch_size = self._run(["--find-batch-size"])["batch_size"]
        self.choice = f"bf16 in batches of {self.batch_size}"

    def run(self) -> dict:
        return self._run(["--batch-size", self.batch_size])

    def _run(self, options: list) -> dict:
        # It reads no GGUF: whatever Ingle's weights are, these are the dense ones.
        model = self.setting.models / self.row.shape.name
        command = [self.setting.python, HERE / "torch_worker.py", "--model", model]
        command += ["--threads", self.setting.threads, "--repetitions", self.setting.repetitions]
        return self.setting.run([*command, *options, *self.row.tests])


PEERS = {engine.name: engine for engine in (LlamaCpp, PyTorch)}


def value(figures: dict, row: Row, measure: str | None = None) -> float:
    """The figure that a row is about: the median of a test's samples, or the time to the first token."""
    if row.less_is_better:
        return figures["start_to_first_token_s"]
    wanted = measure or row.measure
    samples = next(test["samples"] for test in figures["tests"] if test["test"] == wanted)
    ordered, middle = sorted(samples), len(samples) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def quantise(setting: Setting, row: Row) -> None:
    """Makes the weights that Ingle makes itself, if they are missing. `ingle quantize` puts them there once they are whole."""
    model = setting.model(row)
    if row.weights == MLX_8 and not model.exists():
        options = ["--bits", "8", "--group-size", "128", "--json"]
        setting.run([setting.ingle, "quantize", setting.models / row.shape.name, *options, model])


# The instruction that multiplies with such weights, the fastest that a processor may have first.
FLOATS = ("bf16, AMX", "bf16, AVX-512 BF16", "f32, AVX-512", "f32, AVX2")
INTEGERS = ("8 bits, AMX", "8 bits, AVX-512 VNNI")
# Quants that become bf16 on the way to AMX.
BECOME_BF16 = ("Q8_0", "Q4_0", MLX_8)


def peak(setting: Setting, row: Row) -> float | None:
    """Operations per second of all threads together, by the instruction that a row's products are made of."""
    figures = setting.run([setting.peak, setting.threads])["operations_per_second"]
    becomes_bf16 = row.weights in BECOME_BF16 and figures.get(FLOATS[0])
    names = FLOATS if row.weights in (SAFETENSORS, "BF16") or becomes_bf16 else INTEGERS
    return next((figures[name] for name in names if figures.get(name)), None)


def plain_read(setting: Setting) -> float:
    """Bytes per second that all threads together read from memory, now."""
    figures = setting.run([setting.plain_read, 256_000_000, setting.threads, 3])
    return max(figures["bytes_per_second"])
