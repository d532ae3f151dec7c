# SPDX-License-Identifier: EUPL-1.2
"""Makes train.jsonl, val.jsonl and test.jsonl of CLINC150: a line for each request, with its intent and its domain.

    python prepare.py data_full.json domains.json FOLDER

Both files are in the folder `data` of github.com/clinc/oos-eval (Larson et al. 2019, CC BY 3.0).
"""

import json
import sys
from pathlib import Path


def main() -> None:
    requests, domains, out = map(Path, sys.argv[1:4])
    requests, domains = json.loads(requests.read_text()), json.loads(domains.read_text())
    domain_of = {intent: domain for domain, intents in domains.items() for intent in intents}
    out.mkdir(parents=True, exist_ok=True)
    for part in ["train", "val", "test"]:
        with (out / f"{part}.jsonl").open("w", encoding="utf-8") as file:
            for text, intent in requests[part]:
                line = {"text": text, "intent": intent, "domain": domain_of[intent]}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
