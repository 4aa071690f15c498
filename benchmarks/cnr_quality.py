"""CNR beside retrained models, by the audit: ablations, sensitivities and scenarios of the paper's tables.

    python benchmarks/cnr_quality.py [--parts main published …] [--data fashion-mini fashion-mnist cifar10 …]
        [--seeds 0 1] [--cifar10 DIR] [--folder runs/cnr] [--collect] [--out results/cnr_quality.json]

A row is one original, one request and one setting: accuracies on held-out examples, the verdict, and what the primary
decoders read, beside three retrained models. Rows and models that are in --folder are read, so a stopped run goes on;
--collect only sums up. Parts: "main" (defaults), "published", "ablation" (table 3), "sensitivity" (table 9), "several"
(table 7), "scarce" and "continual" (table 12), "limits" (table 13: a frozen backbone, fewer than 50 images), "retained"
(1,600 retained images of each class, where nets learn from a part of the data).
Table 8, similar and dissimilar classes, is "main" by class: "similarity" is the largest cosine, in the original at the
head input, between the mean of the held-out examples to forget and that of a retained class, both less the mean of all
classes. What the paper says of a setting stands beside it.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import t
from settings import SETTINGS, Setting, data_of, trained
from torch import nn

from rasura.activations import Point, anatomy, features
from rasura.contents import versions
from rasura.data import Data, ForgetClasses
from rasura.files import hash_of_json, read_json, write_json
from rasura.finding import audit_all
from rasura.methods.cnr import Cnr
from rasura.methods.contract import problem_of, solve
from rasura.models import card_of, with_card
from rasura.progress import silent
from rasura.runs import machine

REFERENCES = (1, 2, 3)
PARTS = ("main", "retained", "published", "ablation", "sensitivity", "several", "scarce", "continual", "limits")
SAID = ("name", "request", "seed", "verdict", "where", "scores", "seconds")
"""What is printed of a row."""
SWIFT = Cnr()
PAPER: dict[str, tuple[float, float]] = {
    "without synthesis": (0.234, 0.949),
    "without realism": (0.201, 0.937),
    "without smoothness": (0.212, 0.945),
    "gradient selection": (0.258, 0.944),
    "random selection": (0.276, 0.938),
    "K 10": (0.241, 0.948),
    "K half": (0.195, 0.928),
    "alpha 1": (0.234, 0.951),
    "alpha 2": (0.201, 0.947),
    "alpha 2.5": (0.223, 0.943),
    "K 20": (0.241, 0.948),
    "K 50": (0.189, 0.951),
    "K 100": (0.195, 0.928),
    "K 150": (0.201, 0.912),
    "B 32": (0.218, 0.949),
    "B 96": (0.183, 0.952),
    "B 128": (0.186, 0.951),
    "2 classes": (0.287, 0.949),
    "3 classes": (0.334, 0.936),
    "5 classes": (0.423, 0.915),
    "100 images to forget": (0.267, 0.949),
    "a tenth of the images to forget": (0.234, 0.947),
    "5 rounds": (0.312, 0.931),
    "30 images to forget": (0.356, 0.912),
    "frozen backbone": (0.567, 0.889),
}
"""Probe and retain accuracy by the paper: tables 3 and 9 (CIFAR-10, ResNet-18), 7 (ResNet-50), 12 and 13 (not said)."""


@dataclass(frozen=True)
class Row:
    """One setting of the method on one request.

    Attributes:
        part: which table it belongs to.
        name: what is special.
        request: classes; in "continual", forgotten one after the other.
        method: with its settings.
        images: images to forget that the method is shown, at most; 0 means all.
    """

    part: str
    name: str
    request: tuple[str, ...]
    method: Cnr
    images: int = 0


def plan(setting: Setting, parts: list[str]) -> Iterator[Row]:
    """All rows of some parts, those of one request together."""
    for words in setting.classes:
        if "main" in parts:
            yield Row("main", "default", (words,), SWIFT)
        if "published" in parts:
            yield Row("published", "published", (words,), Cnr.published())
        if "retained" in parts and setting.training:
            yield Row("retained", "1600 retained images of each class", (words,), replace(SWIFT, retained=1600))
    first = setting.classes[:1]
    changes: dict[str, dict[str, dict[str, Any]]] = {
        "ablation": {
            "without synthesis": {"synthesis": False},
            "without realism": {"realism": 0.0},
            "without smoothness": {"smoothness": 0.0},
            "gradient selection": {"selection": "gradient"},
            "random selection": {"selection": "random"},
            "K 10": {"units": 10},
            "K half": {"units": 10**6},
            "without pull": {"pull": 0.0},
            "likely labels": {"labels": "likely"},
            "even labels": {"labels": "uniform"},
            "synthetic images alone": {"variant": "published"},
            "without stabilisation": {"settle": 0},
        },
        "sensitivity": {
            **{f"alpha {value:g}": {"alpha": value} for value in (1.0, 2.0, 2.5)},
            **{f"K {value}": {"units": value} for value in (20, 50, 100, 150)},
            **{f"B {value}": {"images": value} for value in (32, 96, 128)},
        },
        "limits": {"frozen backbone": {"scope": "head"}},
    }
    for part, options in changes.items():
        if part in parts:
            yield from (Row(part, name, first, replace(SWIFT, **change)) for name, change in options.items())
    if "scarce" in parts:
        yield Row("scarce", "100 images to forget", first, SWIFT, 100)
        yield Row("scarce", "a tenth of the images to forget", first, SWIFT, -10)
    if "limits" in parts:
        yield Row("limits", "30 images to forget", first, SWIFT, 30)
    if "several" in parts:
        yield from (Row("several", f"{len(words)} classes", words, SWIFT) for words in setting.several)
    if "continual" in parts and setting.several:
        yield Row("continual", f"{len(setting.several[-1])} rounds", setting.several[-1], SWIFT)


def file_of(name: str, seed: int, row: Row) -> str:
    """Where a row is kept: another setting has another name, other code has not."""
    return f"{hash_of_json([name, seed, json.loads(json.dumps(asdict(row)))])[:16]}.json"


def forgotten(row: Row, data: Data, original: nn.Module, seed: int) -> tuple[nn.Module, float]:
    """The unlearned model, and the method's seconds; one request per class in "continual"."""
    rounds = [(one,) for one in row.request] if row.part == "continual" else [row.request]
    model, total = original, 0.0
    for words in rounds:
        request = ForgetClasses(list(words))
        problem = problem_of(model, data, request, seed, silent)
        count = row.images if row.images >= 0 else len(problem.forget) // -row.images
        if count:
            problem = replace(problem, forget=problem.forget.take(torch.arange(min(count, len(problem.forget)))))
        card = card_of(model)
        model, _, seconds = solve(problem, row.method)
        entry = {"method": "cnr", "request": {"classes": list(data.class_numbers(words))}, "classes": list(words)}
        with_card(model, card.after(entry))
        total += seconds
    return model, total


def measured(rows: list[Row], setting: Setting, data: Data, folder: Path, seed: int) -> list[dict[str, Any]]:
    """Audits of the rows of one request, original and retrained models measured once."""
    words = rows[0].request
    original = trained(setting, data, folder, seed)
    references = [trained(setting, data, folder, number, words) for number in REFERENCES]
    made = {str(at): forgotten(row, data, original, seed) for at, row in enumerate(rows)}
    models = {name: model for name, (model, _) in made.items()}
    alike = {"similarity": round(similarity(original, data, words), 3)}
    found = audit_all(models, data, ForgetClasses(list(words)), original, references, 0, silent)
    return [
        {"part": row.part, "name": row.name, "request": list(words), "seed": seed, "images": row.images}
        | {"settings": asdict(row.method), "seconds": round(made[str(at)][1], 2)}
        | alike
        | told(found[str(at)])
        for at, row in enumerate(rows)
    ]


def similarity(original: nn.Module, data: Data, words: tuple[str, ...]) -> float:
    """The largest cosine between a class to forget and a retained one, as the original sees them."""
    point = Point(anatomy(original, data.test.batch(torch.arange(2))[0]).head, "input")
    vectors = features(original, data.test, [point])[0][point]
    means = torch.stack([vectors[data.test.labels == number].mean(0) for number in range(len(data.classes))])
    unit = torch.nn.functional.normalize(means - means.mean(0), dim=1)
    going = torch.isin(torch.arange(len(means)), torch.tensor(data.class_numbers(words)))
    return (unit[going] @ unit[~going].T).max().item()


def told(finding: Any) -> dict[str, Any]:
    """The verdict, accuracies and primary decoders of the unlearned model, the original and the retrained ones."""
    content = finding.content
    wanted = {("output", "output"): "accuracy", ("linear", "head input"): "linear"}
    wanted |= {("few-shot area", "head input"): "few-shot"}
    scores = {}
    for side, part in (("forget", "comparisons"), ("retain", "retain")):
        for one in content[part]:
            name = wanted.get((one["decoder"], one["layer"]))
            if name and not one["shots"]:
                keys = ("original", "model", "references", "margin", "above", "below")
                scores[f"{side} {name}"] = {key: one[key] for key in keys}
    return {"verdict": finding.verdict, "where": finding.where, "reason": finding.reason, "scores": scores}


def interval(values: list[float]) -> dict[str, float | None]:
    """Mean with its 95 % interval (Student's t over rows; none for a single row), and the worst."""
    mean, low, high = float(np.mean(values)), None, None
    if len(values) > 1:
        half = float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)
        low, high = round(mean - half, 4), round(mean + half, 4)
    return {"mean": round(mean, 4), "low": low, "high": high, "worst": max(values, key=abs)}


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per part and name: forget accuracy, and what retention and decoders differ by from the retrained models."""
    found = []
    for key in dict.fromkeys((one["data"], one["part"], one["name"]) for one in rows):
        these = [one for one in rows if (one["data"], one["part"], one["name"]) == key]
        line: dict[str, Any] = dict(zip(("data", "part", "name"), key, strict=True)) | {"n": len(these)}
        line["verdicts"] = [" at ".join(filter(None, (one["verdict"], one["where"]))) for one in these]
        line["forget accuracy"] = interval([one["scores"]["forget accuracy"]["model"] for one in these])
        for score in ("retain accuracy", "forget linear", "forget few-shot"):
            if all(score in one["scores"] for one in these):
                values = [one["scores"][score] for one in these]
                line[f"{score} less retrained"] = interval(
                    [v["model"] - float(np.mean(v["references"])) for v in values]
                )
        line |= {"paper": dict(zip(("probe", "retain"), PAPER[key[2]], strict=True))} if key[2] in PAPER else {}
        line["seconds"] = interval([one["seconds"] for one in these])
        found.append(line)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=["main"], choices=PARTS)
    parser.add_argument("--data", nargs="+", default=["fashion-mini"], choices=list(SETTINGS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--cifar10", default="cifar10", help="folder of CIFAR-10, binary version")
    parser.add_argument("--folder", type=Path, default=Path("runs/cnr"), help="where models and rows are kept")
    parser.add_argument("--collect", action="store_true", help="only sum up the rows of all parts that are there")
    parser.add_argument("--out", type=Path, help="also write all of it to this JSON file")
    arguments = parser.parse_args()
    kept = arguments.folder / "rows"
    kept.mkdir(parents=True, exist_ok=True)
    for name in [] if arguments.collect else arguments.data:
        setting = SETTINGS[name]
        for seed in arguments.seeds:
            groups: dict[tuple[str, ...], list[tuple[Path, Row]]] = {}
            for row in plan(setting, arguments.parts):
                path = kept / file_of(name, seed, row)
                if not path.exists():
                    groups.setdefault(row.request, []).append((path, row))
            data = data_of(setting, arguments.cifar10)
            for group in groups.values():
                paths, these = zip(*group, strict=True)
                for path, one in zip(paths, measured(list(these), setting, data, arguments.folder, seed), strict=True):
                    write_json(path, {"data": name} | one)
                    print(json.dumps({"data": name} | {key: one[key] for key in SAID}), flush=True)
    seeds = range(max(arguments.seeds) + 1)
    everything = [(name, seed, row) for name in SETTINGS for seed in seeds for row in plan(SETTINGS[name], list(PARTS))]
    rows = [read_json(path) for one in everything if (path := kept / file_of(*one)).exists()]
    for line in summary(rows):
        print(json.dumps(line), flush=True)
    if arguments.out:
        given = {"parts": "part", "data": "data", "seeds": "seed"}  # not every part for each: rows have theirs
        words = [f"--{key} {' '.join(dict.fromkeys(str(row[field]) for row in rows))}" for key, field in given.items()]
        about = {
            "command": f"python benchmarks/cnr_quality.py {' '.join(words)}",
            "machine": machine(),
            "versions": versions(),
        }
        about |= {"references": list(REFERENCES)}
        write_json(arguments.out, about | {"summary": summary(rows), "rows": rows})


if __name__ == "__main__":
    main()
