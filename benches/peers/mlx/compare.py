# SPDX-License-Identifier: EUPL-1.2
"""The medians of what run.sh measured, and their ratio."""

import json
import statistics
import sys


def main() -> None:
    samples: dict[tuple[str, str], list[float]] = {}
    with open(sys.argv[1], encoding="utf-8") as lines:
        for line in filter(str.strip, lines):
            record = json.loads(line)
            if record.get("engine") == "mlx-lm":
                rows = [("mlx-lm", record["test"], record["samples"])]
            else:
                rows = [("ingle", row["test"], row["samples"]) for row in record["tests"]]
            for engine, test, values in rows:
                samples.setdefault((test.removeprefix("classify"), engine), []).extend(values)
    print(f"{'test':<10}{'ingle':>12}{'mlx-lm':>12}{'ratio':>8}")
    for test in dict.fromkeys(test for test, _ in samples):
        ingle, peer = (statistics.median(samples.get((test, engine), [0.0])) for engine in ("ingle", "mlx-lm"))
        ratio = f"{ingle / peer:.2f}" if peer else "-"
        print(f"{test:<10}{ingle:>12.1f}{peer:>12.1f}{ratio:>8}")


if __name__ == "__main__":
    main()
