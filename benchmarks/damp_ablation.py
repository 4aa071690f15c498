"""Which parts of DAMP do what: settings side by side, each at its distance from retrained models by our own audit.

    python benchmarks/damp_ablation.py [--data fashion-mini fashion-mini-vit …] [--seeds 0 1] [--forget Shirt …]
        [--design one-at-a-time] [--references 3] [--cifar10 DIR] [--folder DIR] [--collect] [--out FILE]

For every data set with its net, and every request (classes joined by "+"), references are trained, and an original for
every seed, or taken from the folder; every setting is audited beside them. Rows go to `rows.jsonl` in the folder as
they are found, so that a run that was interrupted goes on where it stopped, and several runs into one folder make one
result. `--design main` has the defaults, the form that was the default before ("late": strength by depth alone, nothing
cancelled) and the published form beside other methods and a retrained model that is judged by the other references;
`one-at-a-time` also varies each field of the three; `full` crosses residual, energy, order, depth and bias, measured by
the audit's decoders of the head's inputs alone, without verdict.
At the end one line per setting, net and number of classes: means over requests and seeds with their range, and how
often all three aims were met (forget accuracy at most 2 %, retain accuracy at most 1 point below retrained, 2 for the
hardest class, few-shot recall at n = 5 and 10 at most 10 points from retrained).
"""

import argparse
import itertools
import json
import shlex
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any, get_args

from damp_front import CROSSED, effects, front, place_of
from distances import audited_distances, decoded_distances
from settings import SETTINGS, Setting, data_of, trained

from rasura.contents import versions
from rasura.data import Data, ForgetClasses
from rasura.finding import audit_all
from rasura.methods import Damp, Finetune, LogitMask, Rfa, Scrub
from rasura.methods.contract import forget
from rasura.methods.damp import Bias, Depth, Order, Residual
from rasura.progress import silent
from rasura.runs import machine

ENERGIES = (0.9, 0.95, 0.99, 0.999)
FIELDS = {"order": Order, "depth": Depth, "bias": Bias}
LATE = Damp(depth="late", shortcut=0.0)
OF_LATE: dict[str, tuple[Any, ...]] = {
    "residual": ("centred", "span"),
    "eraser": ("orthogonal", "leace"),
    "depth": ("probe", "probe^2", "probe*ramp", "constant"),
    "order": ("one-shot",),
    "bias": ("keep",),
    "head": ("project",),
    "norms": ("re-estimate",),
    "ridge": (0.01, 1.0),
    "alpha": (0.7,),
    "calibration": (500, 1000, 6000),
}
OF_DEFAULTS = OF_LATE | {"depth": ("late", *OF_LATE["depth"]), "shortcut": (0.0, 0.2, 0.7), "within": (0.5, 1.0)}
OF_PUBLISHED: dict[str, tuple[Any, ...]] = {
    "residual": ("routed", "centred"),
    "eraser": ("oblique",),
    "depth": ("late",),
    "order": ("sequential",),
    "bias": ("preserve-mean",),
    "head": ("retire",),
}
RETRAINED = "retrained"
HARDEST = {"digits": "8", "fashion-mini": "Shirt", "fashion-mnist": "Shirt", "cifar10": "cat"}
"""The class that the originals name least often."""


def methods_of(design: str) -> dict[str, Any]:
    """Methods by what they are called in the rows."""
    main = {"defaults": Damp(), "late": LATE, "published": Damp.published()}
    others = {"logit-mask": LogitMask(), "finetune": Finetune(epochs=1), "scrub": Scrub(), "rfa": Rfa()}
    others |= {RETRAINED: None}
    return crossed() if design == "full" else main | others | ({} if design == "main" else varied())


def varied() -> dict[str, Damp]:
    """The defaults, the form before them and the published one with one field changed."""
    pairs = [("defaults", Damp(), OF_DEFAULTS), ("late", LATE, OF_LATE), ("published", Damp.published(), OF_PUBLISHED)]
    return {
        f"{name}, {field}={value}": Damp(**asdict(method) | {field: value})
        for name, method, changes in pairs
        for field, values in changes.items()
        for value in values
    }


def crossed() -> dict[str, Damp]:
    """Every combination of residual (with its energies), order, depth rule and bias rule; else the defaults."""
    residuals = [{"residual": name} for name in get_args(Residual) if name != "centred"]
    residuals += [{"residual": "centred", "energy": energy} for energy in ENERGIES]
    rest = itertools.product(*(get_args(choice) for choice in FIELDS.values()))
    combined = [one | dict(zip(FIELDS, some, strict=True)) for some in rest for one in residuals]
    return {", ".join(f"{field}={value}" for field, value in some.items()): Damp(**some) for some in combined}


def audited(
    setting: Setting,
    data: Data,
    seed: int,
    names: tuple[str, ...],
    methods: dict[str, Any],
    folder: Path,
    count: int,
    whole: bool = True,
) -> list[dict[str, Any]]:
    """A row per method for one request, audited as a whole or by a few decoders; models are trained or reused."""
    request, original = ForgetClasses(list(names)), trained(setting, data, folder, seed)
    references = [trained(setting, data, folder, number, names) for number in range(1, count + 1)]
    outcomes = {name: attempt(original, data, request, one, seed) for name, one in methods.items() if one is not None}
    models = {name: found.model for name, found in outcomes.items() if not isinstance(found, str)}

    def distances(models: dict[str, Any], references: list[Any]) -> dict[str, dict[str, Any]]:
        if not whole:
            return decoded_distances(models, references, data, request, seed)
        findings = audit_all(models, data, request, original, references, seed, silent) if models else {}
        return {name: audited_distances(finding) for name, finding in findings.items()}

    scores = distances(models, references)
    if RETRAINED in methods and count > 1:
        scores |= distances({RETRAINED: references[-1]}, references[:-1])
    about = {"data": data.name, "net": setting.net, "seed": seed, "forget": list(names), "references": count}
    rows = []
    for name, method in methods.items():
        row, found = about | {"method": name, "settings": asdict(method) if method else {}}, outcomes.get(name)
        if name in scores:
            seconds = {"seconds": round(found.seconds, 2)} if found is not None else {}
            measured = row | seconds | scores[name]
            rows.append(measured | {"aims_met": aims_met(measured)})
        elif found is not None:
            rows.append(row | {"error": found})
    return rows


def attempt(original: Any, data: Data, request: ForgetClasses, method: Any, seed: int) -> Any:
    """The outcome, or why there is none: a setting that edits nothing is a result too."""
    try:
        return forget(original, data, request, method, seed, progress=silent)
    except ValueError as error:
        return str(error)


def aims_met(row: dict[str, Any]) -> bool:
    """Whether a row meets all three aims."""
    spare = 0.02 if row["forget"] == [HARDEST[row["data"]]] else 0.01
    return bool(
        row["forget_accuracy"] <= 0.02
        and row["retain_below_retrained"] <= spare
        and max(abs(row[f"few_shot_{n}_above_retrained"]) for n in (5, 10)) <= 0.1
    )


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per net, number of classes and method: means with their range over seeds and requests, best first."""
    groups: dict[tuple[str, str, int, str], list[dict[str, Any]]] = {}
    for row in (one for one in rows if not one["method"].startswith(CROSSED)):
        groups.setdefault((row["data"], row["net"], len(row["forget"]), row["method"]), []).append(row)
    lines = []
    for (data, net, classes, method), some in groups.items():
        scored = [row for row in some if "error" not in row]
        keys = [key for key in (scored[0] if scored else {}) if isinstance(scored[0][key], float)]
        line = {"data": data, "net": net, "classes": classes, "method": method, "rows": len(some)}
        line |= {"refused": len(some) - len(scored), "met": sum(row["aims_met"] for row in scored)}
        line |= {"verdicts": dict(Counter(row["verdict"] for row in scored if "verdict" in row))}
        lines.append(line | {key: spread([row[key] for row in scored]) for key in keys})
    return sorted(lines, key=lambda line: (line["data"], line["net"], line["classes"], -line["met"]))


def spread(values: list[float]) -> dict[str, float]:
    return {"mean": round(mean(values), 4), "low": min(values), "high": max(values)}


def cells(arguments: argparse.Namespace) -> Iterator[tuple[Setting, Data, int, tuple[str, ...]]]:
    """Setting with its data, seed and request of each cell."""
    for setting in (SETTINGS[name] for name in arguments.data):
        data = data_of(setting, arguments.cifar10)
        for seed, words in itertools.product(arguments.seeds, arguments.forget or setting.classes):
            yield setting, data, seed, tuple(words.split("+"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["fashion-mini", "fashion-mini-vit"], choices=list(SETTINGS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--forget", nargs="+", help='classes, joined by "+"; default: those of the setting, one by one')
    parser.add_argument("--design", choices=("main", "one-at-a-time", "full"), default="one-at-a-time")
    parser.add_argument("--only", nargs="+", help="names of settings to run")
    parser.add_argument("--references", type=int, default=3, help="retrained models per request")
    parser.add_argument("--cifar10", default="cifar10", help="folder of CIFAR-10, binary version")
    parser.add_argument("--folder", type=Path, default=Path("runs/damp"), help="where models and rows are kept")
    parser.add_argument("--collect", action="store_true", help="only sum up the rows that are in the folder")
    parser.add_argument("--out", type=Path, help="write all rows of the folder and their summary to this JSON file")
    arguments = parser.parse_args()
    methods = methods_of(arguments.design)
    methods = {name: method for name, method in methods.items() if name in (arguments.only or methods)}
    arguments.folder.mkdir(parents=True, exist_ok=True)
    kept, commands = arguments.folder / "rows.jsonl", arguments.folder / "commands.txt"
    rows = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    rows = [row if "error" in row else row | {"aims_met": aims_met(row)} for row in rows]
    done = {(row["data"], row["net"], row["seed"], tuple(row["forget"]), row["method"]) for row in rows}
    if not arguments.collect:
        with commands.open("a") as file:
            file.write(f"python benchmarks/damp_ablation.py {command(sys.argv[1:])}\n")
    for setting, data, seed, names in [] if arguments.collect else cells(arguments):
        about = data.name, setting.net, seed, names
        left = {name: one for name, one in methods.items() if (*about, name) not in done}
        rest = arguments.folder, arguments.references, arguments.design != "full"
        for row in audited(setting, data, seed, names, left, *rest) if left else []:
            rows.append(row)
            print(json.dumps(row), flush=True)
            with kept.open("a") as file:
                file.write(json.dumps(row) + "\n")
    lines = summary(rows)
    for line in lines:
        print(json.dumps(line), flush=True)
    if arguments.out:
        sums = {"summary": lines, "effects": effects(rows), "front": [place_of(row) for row in front(rows)]}
        about = {"commands": commands.read_text().splitlines(), "machine": machine(), "versions": versions()}
        arguments.out.write_text(json.dumps({**about, **sums, "rows": rows}, indent=1) + "\n")


def command(arguments: list[str]) -> str:
    """The command line but for where its files are kept."""
    places = {"--folder", "--out", "--cifar10"}
    return shlex.join(one for at, one in enumerate(arguments) if not {one, *arguments[max(at - 1, 0) : at]} & places)


if __name__ == "__main__":
    main()
