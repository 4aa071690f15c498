"""What the main job costs: start-up, the demo from nothing and with its models there, an audit's blocks.

    python benchmarks/main_job.py [--out results/main_job.json]

Prints a JSON line per measurement; times are wall-clock seconds of whole processes, medians of `runs`.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rasura.contents import versions
from rasura.runs import machine


def seconds(command: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - begun


def paired(one: list[str], two: list[str], runs: int) -> tuple[list[float], list[float]]:
    """The two commands in turn, after one warm-up of each, so that drift of the machine hits both."""
    for command in (one, two):
        seconds(command)
    pairs = [(seconds(one), seconds(two)) for _ in range(runs)]
    return [first for first, _ in pairs], [second for _, second in pairs]


def start_up(runs: int) -> dict:
    rasura = str(Path(sys.executable).with_name("rasura"))
    ours, torch = paired([rasura, "--help"], [sys.executable, "-c", "import torch"], runs)
    ratios = [mine / theirs for mine, theirs in zip(ours, torch, strict=True)]
    return {
        "what": "rasura --help / import torch",
        "runs": runs,
        "seconds": round(statistics.median(ours), 3),
        "import_torch_seconds": round(statistics.median(torch), 3),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
    }


def demo(folder: Path) -> tuple[list[dict], list[dict]]:
    """Seconds of the demo from nothing, with its models there, and with everything there; and what it found."""
    rasura = str(Path(sys.executable).with_name("rasura"))
    out = folder / "demo"
    command = [rasura, "demo", "--out", str(out), "--json"]
    cold = seconds(command)
    for derived in ("audits", "damp", "finetune", "logit-mask"):
        shutil.rmtree(out / derived)
    models_there = seconds(command)
    all_there = seconds(command)
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rows = [
        {"what": "demo from nothing", "seconds": round(cold, 1)},
        {"what": "demo with the trained models there: forget, audit, report", "seconds": round(models_there, 1)},
        {"what": "demo with everything there", "seconds": round(all_there, 1)},
    ]
    return rows, [_found(one) for one in json.loads(said)["findings"]]


def _found(finding: dict) -> dict:
    """The numbers of one finding that README and docs quote."""
    primary = [one for one in finding["comparisons"] if one["primary"]]
    return {
        "model": finding["name"],
        "verdict": finding["verdict"],
        "where": finding["where"],
        "reason": finding["reason"],
        "held_out_forget_images": finding["data"]["held_out_forget"],
        "forget_accuracy": finding["outputs"]["model"]["forget"],
        "retain_accuracy": finding["outputs"]["model"]["retain"],
        "primary": [
            {key: one[key] for key in ("decoder", "layer", "original", "model", "references", "excess", "margin")}
            for one in primary
        ],
        "training": {role: model["training"] for role, model in finding["models"].items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="also write all of it to this JSON file")
    parser.add_argument("--runs", type=int, default=5, help="counted runs of the short commands")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        start = start_up(arguments.runs)
        timed, findings = demo(Path(folder))
    rows = [start, *timed]
    for row in rows:
        print(json.dumps(row), flush=True)
    if arguments.out:
        about = {"command": "python benchmarks/main_job.py", "machine": machine(), "versions": versions()}
        arguments.out.write_text(json.dumps({**about, "rows": rows, "findings": findings}, indent=1) + "\n")


if __name__ == "__main__":
    main()
