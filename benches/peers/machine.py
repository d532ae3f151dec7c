# SPDX-License-Identifier: EUPL-1.2
"""What a measurement was made on, and with."""

import argparse
import datetime
import hashlib
import os
import pathlib
import platform
import shlex
import subprocess

PACKAGES = ("llama-cpp-python", "torch", "transformers")
VERSIONS = "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def about(root: pathlib.Path, binary: pathlib.Path, python: pathlib.Path, args: argparse.Namespace) -> dict:
    # Where things lie on this machine is nobody's business.
    command = ["benches/peers/run.py", "--shapes", *args.shapes, "--rows", *args.rows, "--pairs", args.pairs]
    command += ["--repetitions", args.repetitions, "--threads", args.threads]
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "processor": _processor(),
        "cores": cores(),
        "memory_bytes": _memory(),
        "system": f"{platform.system()} {platform.release()}",
        "instructions": instructions(),
        "threads": args.threads,
        "pairs": args.pairs,
        "repetitions": args.repetitions,
        "command": shlex.join(map(str, command)),
        "ingle": _output([binary, "--version"]),
        **_origin(root, args.ingle),
        "packages": _output([python, "-c", VERSIONS, *PACKAGES]),
        "python": platform.python_version(),
    }


def _origin(root: pathlib.Path, given: pathlib.Path | None) -> dict:
    """What was measured: the checkout's commit if it was built from that; of a given binary nobody knows the commit."""
    checkout = _output(["git", "-C", root, "describe", "--always", "--dirty"])
    if given is None:
        return {"commit": checkout}
    digest = hashlib.sha256(given.read_bytes()).hexdigest()[:12]
    return {"commit": f"binary {digest}", "checkout": checkout}


def _output(command: list) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _fields(path: str) -> dict[str, str]:
    try:
        lines = pathlib.Path(path).read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    return {name.strip(): text.strip() for name, text in pairs}


def _processor() -> str:
    fields = _fields("/proc/cpuinfo")
    if "model name" not in fields:
        return platform.processor() or platform.machine()
    return f"{fields['model name']} (family {fields.get('cpu family')}, model {fields.get('model')})"


def instructions() -> list[str]:
    """Those of the processor's vector instructions that kernels choose by."""
    flags = _fields("/proc/cpuinfo").get("flags", "").split()
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile")
    return [flag for flag in wanted if flag in flags]


def _memory() -> int | None:
    words = _fields("/proc/meminfo").get("MemTotal", "").split()
    return int(words[0]) * 1024 if words else None
