"""What an audit costs: seconds per block, beside plain forward passes over the same images, and peak memory.

    python benchmarks/audit_cost.py [--folder runs/demo] [--out results/audit_cost.json]

One model against three references on fashion-mini with resnet8 (trained first where the folder has none). Prints JSON
lines: the whole audit (target: 90 s on two cores), each block of the audited model, the plain passes, and by how much
memory grew.
"""

import argparse
import json
import resource
import time
from pathlib import Path

import torch

import rasura
from rasura.contents import versions
from rasura.data import ForgetClasses, load_data
from rasura.demo import ARCHITECTURE, FORGET, RECIPE
from rasura.progress import silent, terminal
from rasura.runs import machine, train_run

MODELS = {
    "original": (0, ()),
    **{f"reference-{k}": (k, (FORGET,)) for k in (1, 2, 3)},
    "held-out-retrained": (4, (FORGET,)),
}


def measured(folder: Path) -> list[dict]:
    """The rows of the result."""
    data = load_data("fashion-mini")
    with terminal() as progress:
        models = {
            name: train_run(data, ARCHITECTURE, RECIPE, without, seed, folder / name, progress)
            for name, (seed, without) in MODELS.items()
        }
    references = [models[f"reference-{k}"] for k in (1, 2, 3)]
    asked = models["held-out-retrained"], data, ForgetClasses([FORGET]), models["original"], references
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.perf_counter()
    finding = rasura.audit(*asked, progress=silent)
    seconds = time.perf_counter() - begun
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    plain = _plain(models["held-out-retrained"], data.test.take(torch.from_numpy(finding.scores.rows)))
    rows = [
        {"what": "one model against three references", "seconds": round(seconds, 2)},
        {"what": "one plain forward pass over the images that are decoded", "seconds": round(plain, 3)},
        {"what": "the audit of one model, in such passes", "ratio": round(_sum(finding) / plain, 2)},
        {"what": "memory that the audit added", "MiB": round(grown / 1024)},
    ]
    return rows + [
        {"block": block, "seconds": round(spent, 3), "passes": round(spent / plain, 2)}
        for block, spent in finding.content["seconds_per_block"].items()
    ]


def _sum(finding: rasura.Finding) -> float:
    return sum(finding.content["seconds_per_block"].values())


def _plain(model, examples) -> float:
    """The fastest of three passes."""
    spent = []
    for _ in range(3):
        begun = time.perf_counter()
        rasura.predict(model, examples, progress=silent)
        spent.append(time.perf_counter() - begun)
    return min(spent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/demo"), help="where the models are kept")
    parser.add_argument("--out", type=Path, help="also write all of it to this JSON file")
    arguments = parser.parse_args()
    rows = measured(arguments.folder)
    for row in rows:
        print(json.dumps(row), flush=True)
    if arguments.out:
        about = {"command": "python benchmarks/audit_cost.py", "machine": machine(), "versions": versions()}
        arguments.out.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
