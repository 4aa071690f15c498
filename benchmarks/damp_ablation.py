"""Which parts of DAMP do what: settings side by side, each at its distance from retrained models by our own audit.

    python benchmarks/damp_ablation.py [--data fashion-mini] [--nets resnet8 vit] [--seeds 0 1] [--forget Shirt …]
        [--design one-at-a-time] [--folder runs/damp-ablation] [--out results/damp_ablation.json]

For every net, seed and request (classes joined by "+") an original and three references are trained, or reused from
the folder, and every setting is audited beside them. Rows go to `rows.jsonl` in the folder as they are found, and a run
that was interrupted goes on where it stopped. `--design full` crosses residual, energy, eraser, order, depth and bias;
`one-at-a-time` varies each field of the defaults and of the published form. At the end one line per setting and net:
means over all requests and seeds, and how often all three aims were met (forget accuracy at most 2 %, retain accuracy
at most 1 point below retrained, few-shot recall at n = 5 and 10 at most 10 points from retrained).
"""

import argparse
import itertools
import json
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any, get_args

from rasura.data import Data, ForgetClasses, load_data
from rasura.finding import Finding, audit_all, versions
from rasura.methods import Damp, Finetune, LogitMask
from rasura.methods.contract import forget
from rasura.methods.damp import Bias, Depth, Eraser, Head, Order, Residual
from rasura.progress import terminal
from rasura.runs import machine, train_run
from rasura.training import Recipe

REFERENCES = 3
ENERGIES = (0.9, 0.95, 0.99, 0.999)
CHOICES = {"residual": Residual, "eraser": Eraser, "depth": Depth, "order": Order, "bias": Bias, "head": Head}
NUMBERS = {"alpha": (0.5, 0.7, 0.85), "ridge": (0.01, 1.0), "calibration": (500, 1000, 4000)}
AT_ONCE = 6
"""Settings that are audited together: what an interruption can lose."""
EPOCHS = {"resnet8": 8, "vit": 15}


def settings(design: str) -> dict[str, Any]:
    """Methods by what they are called in the rows."""
    return {"logit-mask": LogitMask(), "finetune": Finetune(epochs=1)} | (crossed() if design == "full" else varied())


def varied() -> dict[str, Damp]:
    """The defaults and the published form, and each with one field changed."""
    found = {
        "defaults": Damp(),
        "published": Damp.published(),
        "defaults, norms=re-estimate": Damp(norms="re-estimate"),
    }
    for base, method in list(found.items())[:2]:
        changes = [(field, value) for field, kind in CHOICES.items() for value in get_args(kind)]
        changes += [(field, value) for field, values in NUMBERS.items() for value in values]
        for field, value in changes:
            if value != getattr(method, field):
                found[f"{base}, {field}={value}"] = Damp(**asdict(method) | {field: value})
        for energy in ENERGIES:
            found[f"{base}, residual=centred, energy={energy}"] = Damp(
                **asdict(method) | {"residual": "centred", "energy": energy}
            )
    return found


def crossed() -> dict[str, Damp]:
    """Every combination of residual (with its energies), eraser, order, depth rule and bias rule."""
    residuals = [{"residual": name} for name in get_args(Residual) if name != "centred"]
    residuals += [{"residual": "centred", "energy": energy} for energy in ENERGIES]
    fields = ("eraser", "order", "depth", "bias")
    rest = itertools.product(*(get_args(CHOICES[field]) for field in fields))
    combined = [one | dict(zip(fields, some, strict=True)) for some in rest for one in residuals]
    return {", ".join(f"{field}={value}" for field, value in some.items()): Damp(**some) for some in combined}


def audited(data: Data, net: str, seed: int, names: tuple[str, ...], methods: dict[str, Any], home: Path) -> list[dict]:
    """A row per method for one request; models are trained or reused."""
    request, recipe = ForgetClasses(list(names)), Recipe(epochs=EPOCHS.get(net.split(",")[0], 10))
    with terminal() as progress:
        original = train_run(data, net, recipe, (), seed, home / f"original-{seed}", progress)
        without = "+".join(names).replace("/", "-")
        folders = {k: home / f"without-{without}-{k}" for k in range(100 * seed + 1, 100 * seed + REFERENCES + 1)}
        references = [train_run(data, net, recipe, names, k, folder, progress) for k, folder in folders.items()]
        outcomes = {name: attempt(original, data, request, method, seed) for name, method in methods.items()}
        models = {name: found.model for name, found in outcomes.items() if not isinstance(found, str)}
        findings = audit_all(models, data, request, original, references, seed, progress) if models else {}
    about = {"data": data.name, "net": net, "seed": seed, "forget": list(names)}
    rows = []
    for name, found in outcomes.items():
        row = about | {"method": name, "settings": asdict(methods[name])}
        seconds = {} if isinstance(found, str) else {"seconds": round(found.seconds, 2)}
        rows.append(row | ({"error": found} if isinstance(found, str) else seconds | distances(findings[name])))
    return rows


def attempt(original: Any, data: Data, request: ForgetClasses, method: Any, seed: int) -> Any:
    """The outcome, or why there is none: a setting that edits nothing is a result too."""
    try:
        return forget(original, data, request, method, seed, progress=lambda *_: None)
    except ValueError as error:
        return str(error)


def distances(finding: Finding) -> dict[str, Any]:
    """What the three aims and the verdict say."""
    content = finding.content
    found: dict[str, Any] = {"verdict": finding.verdict, "where": finding.where}
    outputs = content["outputs"]
    found["forget_accuracy"] = outputs["model"]["forget"]["point"]
    retrained = [one["retain"]["point"] for name, one in outputs.items() if name.startswith("reference")]
    found["retain_accuracy"] = outputs["model"]["retain"]["point"]
    found["retain_below_retrained"] = round(mean(retrained) - found["retain_accuracy"], 5)
    for one in content["comparisons"]:
        if one["decoder"] == "few-shot" and one["shots"] in (5, 10, 50):
            found[f"few_shot_{one['shots']}"] = one["model"]
            found[f"few_shot_{one['shots']}_above_retrained"] = round(one["model"] - mean(one["references"]), 5)
        if one["decoder"] == "linear" and one["layer"] == "head input":
            found["linear_above_retrained"] = round(one["model"] - mean(one["references"]), 5)
    found["aims_met"] = bool(
        found["forget_accuracy"] <= 0.02
        and found["retain_below_retrained"] <= 0.01
        and max(abs(found[f"few_shot_{n}_above_retrained"]) for n in (5, 10)) <= 0.1
    )
    return found


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per net and method: means over seeds and requests, best first."""
    lines = []
    for (net, method), some in grouped(rows).items():
        scored = [row for row in some if "error" not in row]
        keys = [key for key in (scored[0] if scored else {}) if isinstance(scored[0][key], float)]
        means = {key: round(mean(row[key] for row in scored), 4) for key in keys}
        met = sum(row["aims_met"] for row in scored)
        lines.append(
            {"net": net, "method": method, "rows": len(some), "refused": len(some) - len(scored), "met": met} | means
        )
    return sorted(lines, key=lambda line: (line["net"], -line["met"]))


def grouped(rows: list[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["net"], row["method"]), []).append(row)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="fashion-mini")
    parser.add_argument("--nets", nargs="+", default=["resnet8", "vit"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument(
        "--forget", nargs="+", default=["T-shirt/top", "Shirt", "Trouser"], help='classes, joined by "+"'
    )
    parser.add_argument("--design", choices=("one-at-a-time", "full"), default="one-at-a-time")
    parser.add_argument("--only", nargs="+", help="names of settings to run")
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/damp-ablation"), help="where models and rows are kept"
    )
    parser.add_argument("--out", type=Path, help="also write all of it to this JSON file")
    arguments = parser.parse_args()
    data, methods = load_data(arguments.data), settings(arguments.design)
    methods = {name: method for name, method in methods.items() if name in (arguments.only or methods)}
    arguments.folder.mkdir(parents=True, exist_ok=True)
    kept = arguments.folder / "rows.jsonl"
    rows = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    done = {(row["data"], row["net"], row["seed"], tuple(row["forget"]), json.dumps(row["settings"])) for row in rows}
    for net, seed, request in itertools.product(arguments.nets, arguments.seeds, arguments.forget):
        names, home = tuple(request.split("+")), arguments.folder / data.name / net
        left = {
            name: method
            for name, method in methods.items()
            if (data.name, net, seed, names, json.dumps(asdict(method))) not in done
        }
        for start in range(0, len(left), AT_ONCE):
            some = dict(itertools.islice(left.items(), start, start + AT_ONCE))
            for row in audited(data, net, seed, names, some, home):
                rows.append(row)
                print(json.dumps(row), flush=True)
                with kept.open("a") as file:
                    file.write(json.dumps(row) + "\n")
    lines = summary(rows)
    for line in lines:
        print(json.dumps(line), flush=True)
    if arguments.out:
        about = {"command": "python benchmarks/damp_ablation.py", "machine": machine(), "versions": versions()}
        arguments.out.write_text(json.dumps({**about, "summary": lines, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
