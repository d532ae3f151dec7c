#!/usr/bin/env python3
# SPDX-License-Identifier: EUPL-1.2
"""Measures Ingle beside its peers on this machine: installs them, makes models, and prints the paired table.

    benches/peers/run.py --out docs/benchmarks.md
    benches/peers/run.py --shapes qwen3-0.6b --rows 'tg32' 'Q4_0/*' --pairs 9
"""

import argparse
import json
import os
import pathlib
import shlex
import subprocess
import sys
import venv

import machine
import pairing
import report
import rows
from engines import Setting
from shapes import SHAPES

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
IMPORTS = "import gguf, llama_cpp, numpy, safetensors, tokenizers, torch, transformers"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    work = ROOT / "target" / "peers"
    add = parser.add_argument
    add("--venv", type=pathlib.Path, default=work / "venv", help="virtual environment of the peers; made if missing")
    add("--models", type=pathlib.Path, default=work / "models", help="folder of the models; made if missing (21 GB)")
    add("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES), help="which models' sizes")
    add("--rows", nargs="+", default=["*"], metavar="PATTERN", help="for example tg32, 'Q4_0/*' or '*/BF16/pp*'")
    add("--pairs", type=int, default=5, help="how often Ingle and its peer take turns (5)")
    add("--row-seconds", type=float, default=240, help="for how long a row may look for steady pairs (240)")
    add("--repetitions", type=int, default=2, help="samples in one run, after one that does not count (2)")
    add("--threads", type=int, default=machine.cores(), help="of every engine; one for each core if not given")
    add("--wrap", default="", metavar="COMMAND", help="put before each command, for example 'taskset -c 0-3'")
    add("--ingle", type=pathlib.Path, help="the command to measure, named by its hash; built from this tree if not given, and named by its commit")
    add("--plain-read", type=pathlib.Path, help="that example of ingle-cpu; built from this tree if not given")
    add("--peak", type=pathlib.Path, help="that example of ingle-cpu; built from this tree if not given")
    add("--out", type=pathlib.Path, help="write the page here, and all samples beside it as .json")
    add("--resume", action="store_true", help="keep the rows that the .json beside --out has already")
    add("--render", type=pathlib.Path, metavar="JSON", help="measure nothing: write the page from these samples")
    return parser.parse_args()


def environment(folder: pathlib.Path) -> pathlib.Path:
    """The Python of an environment that has the peers."""
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if python.exists() and subprocess.run([python, "-c", IMPORTS], capture_output=True, check=False).returncode == 0:
        return python
    say(f"installing the peers into {folder}; llama.cpp is compiled for this machine, which takes minutes")
    venv.create(folder, with_pip=True)
    flags = "-DGGML_NATIVE=ON"
    if "amx_tile" in machine.instructions():
        # GCC drops stores to the configuration of AMX's tiles, and llama.cpp crashes: llama.cpp's pull request 26954.
        flags += " '-DCMAKE_CXX_FLAGS=-fno-tree-dse -fno-dse'"
    native = {**os.environ, "CMAKE_ARGS": f"{flags} {os.environ.get('CMAKE_ARGS', '')}"}
    install = [python, "-m", "pip", "install", "--no-binary", "llama-cpp-python", "-r", HERE / "requirements.txt"]
    subprocess.run(install, env=native, check=True)
    return python


def build() -> list[pathlib.Path]:
    """The command, and the examples that read memory and multiply."""
    examples = ("plain_read", "peak")
    cargo = ["cargo", "build", "--release", "--manifest-path", ROOT / "Cargo.toml"]
    subprocess.run([*cargo, "-p", "ingle-cli"], check=True)
    for example in examples:
        subprocess.run([*cargo, "-p", "ingle-cpu", "--example", example], check=True)
    found = subprocess.run(
        ["cargo", "metadata", "--no-deps", "--format-version", "1", "--manifest-path", ROOT / "Cargo.toml"],
        check=True, capture_output=True, text=True,
    )
    release = pathlib.Path(json.loads(found.stdout)["target_directory"]) / "release"
    suffix = ".exe" if os.name == "nt" else ""
    return [release / f"ingle{suffix}", *(release / "examples" / f"{example}{suffix}" for example in examples)]


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def write(path: pathlib.Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_text(text)
    part.replace(path)


def main() -> None:
    args = arguments()
    if args.render:
        results = json.loads(args.render.read_text())
        page = report.page(results)
        write(args.out, page) if args.out else print(page)
        return
    python = environment(args.venv)
    make = [python, HERE / "make_models.py", "--models", args.models]
    subprocess.run([*make, *(word for shape in args.shapes for word in ("--shape", shape))], check=True)
    given = (args.ingle, args.plain_read, args.peak)
    built = given if all(given) else build()
    programs = [mine or its for mine, its in zip(given, built, strict=True)]
    binary = programs[0]
    setting = Setting(*programs, python, args.models, args.threads, args.repetitions, shlex.split(args.wrap))

    samples = args.out.with_suffix(".json") if args.out else None
    results = {"about": machine.about(ROOT, binary, python, args), "rows": {}}
    if args.resume and samples and samples.exists():
        kept = json.loads(samples.read_text())
        results["rows"] = {name: {"commit": kept["about"]["commit"], **row} for name, row in kept["rows"].items()}
    for row in rows.select(args.rows, args.shapes):
        if "pairs" in results["rows"].get(row.id, {}):
            continue
        result = pairing.measure(setting, row, args.pairs, args.row_seconds)
        results["rows"][row.id] = {"commit": results["about"]["commit"], **result}
        say(report.one_line(row, result))
        if samples:
            write(samples, json.dumps(results, indent=1) + "\n")
            write(args.out, report.page(results))
    if not args.out:
        print(report.page(results))


if __name__ == "__main__":
    main()
