# SPDX-License-Identifier: EUPL-1.2
"""The page that tells what was measured."""

import json
import statistics

from pairing import ENOUGH, STEADY, summary, used
from rows import MLX_8, START, Row, all_rows
from shapes import SHAPES, Shape

GB = 1e9


def page(results: dict) -> str:
    commit = results["about"]["commit"]
    rows = {name: {**row, "earlier": row.get("commit", commit) != commit} for name, row in results["rows"].items()}
    results = {**results, "rows": rows}
    parts = [_head(results["about"], results["rows"])]
    for shape in SHAPES.values():
        rows = [row for row in all_rows() if row.shape == shape and row.id in results["rows"]]
        if rows:
            parts.append(_shape(shape, rows, results["rows"]))
    parts.append(_foot(results))
    return "\n\n".join(part for part in parts if part) + "\n"


def one_line(row: Row, result: dict) -> str:
    """A row for people who watch."""
    if "not_run" in result:
        return f"{row.id}: not run: {result['not_run']}"
    figures = summary(row, result)
    text = f"{row.id}: Ingle {_number(figures['ingle'])}, {row.peer} {_number(figures['peer'])} {row.unit}"
    text += f", ratio {_ratio(figures)}, {figures['steady_pairs']} of {len(result['pairs'])} pairs steady"
    return text + (f", {figures['share']:.0%} of the floor" if "share" in figures else "")


def _head(about: dict, rows: dict) -> str:
    packages = json.loads(about["packages"]) if about["packages"].startswith("{") else {}
    memory = f", {about['memory_bytes'] / 2**30:.0f} GiB" if about["memory_bytes"] else ""
    reads = [read for row in rows.values() for pair in row.get("pairs", []) for read in pair["plain_reads"]]
    lines = [
        "# Benchmarks",
        "",
        "Ingle beside its peers: the same weights, the same machine, the same run, in turn. Models have the sizes of",
        "published ones and random weights. `benches/peers/README.md` says how it is measured, and how to do it yourself.",
        "",
        "| | |",
        "| --- | --- |",
        f"| date | {about['date']} |",
        f"| machine | {about['processor']}, {about['cores']} cores{memory}, {about['system']} |",
        f"| vector instructions | {', '.join(about['instructions']) or 'unknown'} |",
        f"| threads | {about['threads']} |",
        f"| Ingle | {about['ingle']} ({_origin(about)}) |",
        *(f"| {name} | {version} |" for name, version in packages.items()),
        f"| command | `{about['command']}` |",
    ]
    if reads:
        low, middle, high = (f"{read / GB:.0f}" for read in (min(reads), statistics.median(reads), max(reads)))
        lines.append(f"| plain read of memory | {middle} GB/s, from {low} to {high} over the run |")
    return "\n".join(lines)


def _origin(about: dict) -> str:
    """The commit that was measured, or that it is not known."""
    if "checkout" not in about:
        return about["commit"]
    return f"{about['commit']}, given and not built for this; the checkout that measured it is at {about['checkout']}"


def _shape(shape: Shape, rows: list[Row], results: dict) -> str:
    parts = [f"## {shape.title}"]
    speeds = [row for row in rows if row.measure != START]
    if speeds:
        parts.append(_speeds(speeds, results))
    for title, lines in (
        ("Eight sequences at once, beside one", _batches(rows, results)),
        ("A long context, beside an empty one", _depths(rows, results)),
        ("Start and memory", _starts(rows, results)),
    ):
        if lines:
            parts.append(f"### {title}\n\n" + "\n".join(lines))
    return "\n\n".join(parts)


def _speeds(rows: list[Row], results: dict) -> str:
    lines = [
        "| test | weights | Ingle | peer | | ratio | spread | floor | reached | pairs |",
        "| --- | --- | ---: | ---: | --- | ---: | --- | ---: | ---: | ---: |",
    ]
    for row in rows:
        result = results[row.id]
        if "not_run" in result:
            lines.append(f"| {row.measure} | {row.weights} | not run: {result['not_run']} | | {row.peer} | | | | | |")
            continue
        figures = summary(row, result)
        floor = f"{_number(figures['floor'])} | {figures['share']:.0%}" if "floor" in figures else "|"
        unit = "" if row.unit == "tokens/s" else f" {row.unit}"
        lines.append(
            f"| {row.measure} | {row.weights} | {_number(figures['ingle'])}{unit} | {_number(figures['peer'])}{unit} "
            f"| {row.peer}, {result['choice']} | **{figures['ratio']:.2f}** "
            f"| {figures['ratio_min']:.2f} to {figures['ratio_max']:.2f} | {floor} | {_pairs(result)} |"
        )
    return "\n".join(lines)


def _batches(rows: list[Row], results: dict) -> list[str]:
    rows = [row for row in rows if row.test and row.test.batch > 1 and row.beside and "pairs" in results[row.id]]
    if not rows:
        return []
    lines = ["| weights | Ingle, times one sequence | peer, times one sequence |", "| --- | ---: | ---: |"]
    for row in rows:
        figures = summary(row, results[row.id])
        lines.append(f"| {row.weights} | {figures['ingle_beside']:.2f} | {figures['peer_beside']:.2f} |")
    return lines


def _depths(rows: list[Row], results: dict) -> list[str]:
    rows = [row for row in rows if row.test and row.test.depth and "pairs" in results[row.id]]
    if not rows:
        return []
    lines = [
        "| weights | tokens cached | Ingle keeps | the bytes explain | peer keeps |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        result = results[row.id]
        figures = summary(row, result)
        explained = [
            _bytes(pair, row.beside) / _bytes(pair, row.measure) for pair in used(result)
        ]
        lines.append(
            f"| {row.weights} | {row.test.depth} | {figures['ingle_beside']:.0%} "
            f"| {statistics.median(explained):.0%} | {figures['peer_beside']:.0%} |"
        )
    return lines


def _bytes(pair: dict, test: str) -> float:
    return next(found["bytes_per_token"] for found in pair["ingle"]["tests"] if found["test"] == test)


def _starts(rows: list[Row], results: dict) -> list[str]:
    rows = [row for row in rows if row.measure == START and "pairs" in results[row.id]]
    if not rows:
        return []
    lines = [
        "| weights | first token, Ingle | peer | ratio | spread | most resident, Ingle | times weights and cache | peer |",
        "| --- | ---: | ---: | ---: | --- | ---: | ---: | ---: |",
    ]
    for row in rows:
        result = results[row.id]
        figures = summary(row, result)
        # What a prompt needs besides is counted in: the peak of the runs with 512 tokens, where there are any.
        prompts = results.get(f"{row.shape.name}/{row.weights}/pp512", {}).get("pairs")
        cached = row.shape.kv_bytes(512 if prompts else 0)
        prompts = prompts or result["pairs"]
        needed = prompts[0]["ingle"]["weight_bytes"] + cached
        ours, theirs = (_peak(prompts, name) for name in ("ingle", "peer"))
        share = f"{ours / needed:.2f}" if ours else "unknown"
        lines.append(
            f"| {row.weights} | {figures['ingle']:.2f} s | {figures['peer']:.2f} s | **{figures['ratio']:.2f}** "
            f"| {figures['ratio_min']:.2f} to {figures['ratio_max']:.2f} | {_size(ours)} | {share} | {_size(theirs)} |"
        )
    return lines


def _peak(pairs: list[dict], name: str) -> int | None:
    return max((pair[name]["peak_rss_bytes"] or 0 for pair in pairs), default=0) or None


def _size(count: int | None) -> str:
    return f"{count / GB:.2f} GB" if count else "unknown"


def _pairs(result: dict) -> str:
    counted = used(result)
    steady = all(pair["steady"] for pair in counted)
    notes = [] if steady else ["unsteady"]
    if result.get("earlier"):
        notes.append(f"of {result['commit']}")
    return ", ".join([f"{len(counted)}", *notes])


def _foot(results: dict) -> str:
    return "\n".join([
        "## How to read it",
        "",
        "- `pp512`: a prompt of 512 tokens. `tg32`: 32 tokens generated; `@d4096` after 4,096 others, `x8` for 8 sequences",
        "  at once, together. `classify64x16`: 64 sentences of 16 tokens. Figures are tokens per second where nothing else",
        "  is said; medians over the pairs. The ratio is the median of the paired ratios, above 1 where Ingle is faster.",
        "- The floor of generation is memory: what a plain read of memory by as many threads, around each run, would make",
        "  of the bytes of weights and cache that a token needs. That of prompts and of classification is arithmetic: what",
        "  the instruction that multiplies with such weights would make, all cores doing nothing else, of the products with",
        "  the layers' weights. Reached is Ingle's share. (Scales of groups of 32 take a fifth where quants are multiplied as",
        f"  integers; with AMX, Q8_0, Q4_0 and {MLX_8} are multiplied as bf16.)",
        f"- `{MLX_8}`: in MLX's format, 8 bits a weight; 128 weights share a scale and an offset.",
        f"- A pair counts if that plain read varied by less than {STEADY - 1:.0%} around it; where fewer than {ENOUGH} such pairs came,",
        "  all count, and the row says unsteady. Where memory changes its speed while a pair runs, as it may in a virtual",
        "  machine, a share can pass 100%.",
        f"- Each of the runs gave {_samples(results)} after one that did not count. All of them are in the `.json` beside this",
        "  page.",
        "- Memory is the most that was resident while the 512 tokens of `pp512` were computed, in a process of its own;",
        "  what Python takes is not counted as the peer's.",
    ])


def _samples(results: dict) -> str:
    """How many one run gave, from the fewest to the most."""
    pairs = [pair for row in results["rows"].values() for pair in row.get("pairs", [])]
    counts = sorted({len(test["samples"]) for pair in pairs for test in pair["ingle"].get("tests", [])}) or [0]
    return f"{counts[0]} sample" + "s" * (counts[0] > 1) if len(counts) == 1 else f"{counts[0]} to {counts[-1]} samples"


def _ratio(figures: dict) -> str:
    return f"{figures['ratio']:.2f} ({figures['ratio_min']:.2f} to {figures['ratio_max']:.2f})"


def _number(figure: float) -> str:
    return f"{figure:.0f}" if figure >= 100 else f"{figure:.1f}" if figure >= 10 else f"{figure:.2f}"
