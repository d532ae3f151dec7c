#!/usr/bin/env python3
# SPDX-License-Identifier: EUPL-1.2
"""Measures how fast Ingle trains beside PyTorch, and in how much memory: the same weights, text and batches, in turn.

    benches/peers/train.py --ingle target/release/ingle
    benches/peers/train.py --ingle target/release/ingle --sizes 30m --kinds lora --modes autocast --pairs 5 --json

PyTorch trains in each of its modes: in f32, in bf16 with weights in f32 (autocast), and all in bf16. Ingle trains in
bf16 with exact weights beside (or, against f32, in f32). Above 1 a ratio of speeds is in Ingle's favour; below 1 one
of memory is.
"""

import argparse
import json
import os
import pathlib
import shlex
import statistics
import subprocess
import sys
import tempfile
import typing

import machine

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
# Hidden size, inner size of the MLP, layers, vocabulary: 10, 30 and 98 million parameters.
SIZES = {
    "10m": (256, 704, 10, 8192),
    "30m": (512, 1408, 8, 8192),
    "100m": (768, 2048, 12, 16384),
}
STEPS = {"10m": 10, "30m": 6, "100m": 4}
KINDS = {"full": 0, "lora": 8}
MODES = ("f32", "autocast", "bf16")
# What memory is filled and code is loaded in does not count.
WARM_UP = 1


class Run(typing.NamedTuple):
    tokens_per_second: float
    peak_bytes: int
    losses: list[float]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--ingle", type=pathlib.Path, required=True, help="the command to measure, built in release")
    add("--python", default=sys.executable, help="a Python with torch, transformers and peft")
    add("--models", type=pathlib.Path, default=ROOT / "target/peers/train", help="folder of the models; made if missing")
    add("--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="parameters of the models")
    add("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="all weights, or LoRA of rank 8")
    add("--modes", nargs="+", choices=MODES, default=list(MODES), help="how PyTorch computes")
    add("--batch", type=int, default=4, help="sequences of a step (4)")
    add("--length", type=int, default=512, help="tokens of a sequence (512)")
    add("--pairs", type=int, default=3, help="how often Ingle and PyTorch take turns (3)")
    add("--threads", type=int, default=machine.cores(), help="of both; one for each core if not given")
    add("--wrap", default="", metavar="COMMAND", help="put before each command, for example 'taskset -c 0-3'")
    add("--json", action="store_true", help="print all samples as JSON")
    return parser.parse_args()


def make(args: argparse.Namespace, size: str) -> pathlib.Path:
    """The model, if it is not there already."""
    folder = args.models / size
    if not (folder / "model.safetensors").exists():
        hidden, inner, layers, vocabulary = map(str, SIZES[size])
        command = [args.python, HERE / "make_train_model.py", "--out", folder, "--hidden", hidden, "--inner", inner]
        subprocess.run([*command, "--layers", layers, "--vocabulary", vocabulary], check=True)
    return folder


def write_text(path: pathlib.Path) -> None:
    """The licence again and again: more than all steps learn. Both cut it into sequences of full length."""
    path.write_text((ROOT / "LICENCE").read_text() * 20)


def measured(command: list, wrap: str) -> tuple[str, int]:
    """What a command prints, and its peak of resident memory in bytes."""
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen([*shlex.split(wrap), *map(str, command)], stdout=out, stderr=subprocess.PIPE)
        complaints = process.stderr.read().decode()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        printed = out.read()
    if process.returncode != 0:
        sys.exit(f"{shlex.join(map(str, command))} failed ({process.returncode}):\n{complaints or printed}")
    return printed, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def pytorch(args: argparse.Namespace, folder: pathlib.Path, data: pathlib.Path, kind: str, mode: str) -> Run:
    command = [args.python, HERE / "torch_train_worker.py", "--model", folder, "--data", data, "--mode", mode]
    command += ["--lora-rank", KINDS[kind], "--threads", args.threads, "--batch", args.batch, "--length", args.length]
    printed, peak = measured([*command, "--steps", STEPS[folder.name]], args.wrap)
    found = json.loads(printed)
    return Run(statistics.median(found["tokens_per_second"][WARM_UP:]), peak, found["losses"])


def ingle(args: argparse.Namespace, folder: pathlib.Path, data: pathlib.Path, kind: str, mode: str) -> Run:
    with tempfile.TemporaryDirectory() as out:
        command = [args.ingle, "finetune", "--model", folder, "--data", data, "--out", f"{out}/out", "--json"]
        command += ["--max-length", args.length, "--batch-tokens", args.batch * args.length]
        command += ["--steps", STEPS[folder.name], "--threads", args.threads, "--dtype", "f32" if mode == "f32" else "bf16"]
        command += ["--learning-rate", "1e-4", "--schedule", "constant", "--warmup", "0"]
        if KINDS[kind]:
            command += ["--lora-rank", KINDS[kind]]
        printed, peak = measured(command, args.wrap)
    events = [json.loads(line) for line in printed.splitlines()]
    steps = [event for event in events if event["event"] == "step"]
    rate = statistics.median(step["tokens_per_second"] for step in steps[WARM_UP:])
    return Run(rate, peak, [step["loss"] for step in steps])


def pairs(args: argparse.Namespace, size: str, kind: str, mode: str) -> list[dict]:
    folder = make(args, size)
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        data = pathlib.Path(scratch) / "text.txt"
        write_text(data)
        for number in range(args.pairs):
            # Whoever goes second finds a warmer machine: take turns.
            order = (ingle, pytorch) if number % 2 == 0 else (pytorch, ingle)
            runs = {run.__name__: run(args, folder, data, kind, mode)._asdict() for run in order}
            found.append(runs)
    return found


def summary(found: list[dict]) -> dict:
    """Medians, and the paired ratios with their spread."""
    figures = {}
    for field in ("tokens_per_second", "peak_bytes"):
        ratios = [pair["ingle"][field] / pair["pytorch"][field] for pair in found]
        figures[field] = {name: statistics.median(pair[name][field] for pair in found) for name in ("ingle", "pytorch")}
        figures[field] |= {"ratio": statistics.median(ratios), "spread": [min(ratios), max(ratios)]}
    return figures


def row(cell: dict) -> str:
    speed, memory = cell["tokens_per_second"], cell["peak_bytes"]
    low, high = speed["spread"]
    return (
        f"| {cell['size']} | {cell['kind']} | {cell['mode']} | {speed['ingle']:.0f} | {speed['pytorch']:.0f} "
        f"| {speed['ratio']:.2f} ({low:.2f} to {high:.2f}) "
        f"| {memory['ingle'] / 2**20:.0f} | {memory['pytorch'] / 2**20:.0f} | {memory['ratio']:.2f} |"
    )


def main() -> None:
    args = arguments()
    heads = ["model", "trained", "PyTorch in", "Ingle tokens/s", "PyTorch tokens/s", "ratio (spread)"]
    heads += ["Ingle MiB", "PyTorch MiB", "ratio"]
    lines = ["| " + " | ".join(heads) + " |", "| --- " * 3 + "| ---: " * 6 + "|"]
    cells = []
    for size in args.sizes:
        for kind in args.kinds:
            for mode in args.modes:
                found = pairs(args, size, kind, mode)
                cells.append({"size": size, "kind": kind, "mode": mode, **summary(found), "pairs": found})
                print(row(cells[-1]), file=sys.stderr, flush=True)
    print(json.dumps(cells, indent=1) if args.json else "\n".join(lines + [row(cell) for cell in cells]))


if __name__ == "__main__":
    main()
