# SPDX-License-Identifier: EUPL-1.2
"""Measures rows in pairs, Ingle and a peer in turn, on a machine that may change its speed between them.

A virtual machine may give two threads two cores now and one core's two halves the next moment. So memory is
read before, between and after the two runs of a pair; a pair is steady if that went equally fast each time.
Ratios are of steady pairs where there are enough of them.
"""

import statistics
import time
from collections.abc import Iterator

from engines import PEERS, NotRun, Setting, ingle, peak, plain_read, quantise, value
from rows import Row

STEADY = 1.2
ENOUGH = 3


def measure(setting: Setting, row: Row, pairs: int, seconds: float) -> dict:
    """`pairs` steady pairs; fewer if they do not come within the time, but never fewer pairs at all."""
    result = {"id": row.id, "unit": row.unit, "peer": row.peer}
    try:
        peer = PEERS[row.peer](setting, row)
        result["choice"] = peer.choice
    except NotRun as why:
        result["not_run"] = f"{row.peer}: {why}"
        return result
    try:
        quantise(setting, row)
        ingle(setting, row)
        if row.test and row.test.kind != "tg":
            result["operations_per_second"] = peak(setting, row)
        result["pairs"] = list(_pairs(setting, row, peer, pairs, seconds))
    except NotRun as why:
        result["not_run"] = f"Ingle: {why}"
    return result


def _pairs(setting: Setting, row: Row, peer, pairs: int, seconds: float) -> Iterator[dict]:
    began, count, steady = time.monotonic(), 0, 0
    while steady < pairs and (count < pairs or time.monotonic() - began < seconds):
        reads = [plain_read(setting)]
        runs = {}
        # Whoever goes second finds a warmer machine: take turns.
        order = ("ingle", "peer") if count % 2 == 0 else ("peer", "ingle")
        for name in order:
            runs[name] = ingle(setting, row) if name == "ingle" else peer.run()
            reads.append(plain_read(setting))
        count += 1
        is_steady = max(reads) <= STEADY * min(reads)
        steady += is_steady
        yield {**runs, "first": order[0], "plain_reads": reads, "steady": is_steady}


def used(result: dict) -> list[dict]:
    """The pairs that count."""
    steady = [pair for pair in result.get("pairs", []) if pair["steady"]]
    return steady if len(steady) >= ENOUGH else result.get("pairs", [])


def summary(row: Row, result: dict) -> dict:
    """Medians, and the paired ratios: above 1 where Ingle is faster."""
    pairs = used(result)
    ours = [value(pair["ingle"], row) for pair in pairs]
    theirs = [value(pair["peer"], row) for pair in pairs]
    ratios = [b / a if row.less_is_better else a / b for a, b in zip(ours, theirs, strict=True)]
    figures = {
        "ingle": statistics.median(ours),
        "peer": statistics.median(theirs),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "pairs": len(pairs),
        "steady_pairs": sum(pair["steady"] for pair in pairs),
    }
    if row.test and row.test.kind == "tg":
        figures |= _memory_floor(row, pairs)
    elif result.get("operations_per_second"):
        figures |= _arithmetic_floor(row, result["operations_per_second"], figures)
    if row.beside:
        for name in ("ingle", "peer"):
            own = [value(pair[name], row) / value(pair[name], row, row.beside) for pair in pairs]
            figures[f"{name}_beside"] = statistics.median(own)
    return figures


def _memory_floor(row: Row, pairs: list[dict]) -> dict:
    """Tokens per second if weights and cache were read as fast as memory was read around each run, and how
    much of that was reached."""
    floors, shares, peers = [], [], []
    for pair in pairs:
        test = next(test for test in pair["ingle"]["tests"] if test["test"] == row.measure)
        floor = statistics.mean(pair["plain_reads"]) / test["bytes_per_token"]
        floors.append(floor)
        shares.append(value(pair["ingle"], row) / floor)
        peers.append(value(pair["peer"], row) / floor)
    return {
        "floor": statistics.median(floors),
        "share": statistics.median(shares),
        "peer_share": statistics.median(peers),
    }


def _arithmetic_floor(row: Row, operations: float, figures: dict) -> dict:
    """What a processor that did nothing but multiply with the weights would reach, and how much of that was."""
    floor = operations / (2 * row.shape.products_per_token)
    if row.test.kind == "classify":
        floor /= row.test.tokens
    return {"floor": floor, "share": figures["ingle"] / floor, "peer_share": figures["peer"] / floor}
