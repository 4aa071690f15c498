"""Residual feature alignment beside retrained models, and beside full fine-tuning with the same losses.

    python benchmarks/rfa_quality.py [--parts class samples …] [--cifar10 FOLDER] [--imdb FOLDER] [--out FILE]

Data, nets and recipes are those of benchmarks/settings.py (fashion-mini with a ResNet-8 and a small ViT, complete
Fashion-MNIST and CIFAR-10 with a ResNet-8), and IMDB (3,000 reviews, dealt anew at random, a small DistilBERT). Parts:
"class" (every class of a setting, beside full fine-tuning), "samples" (1 % and 10 % of the training examples), "text"
(both on IMDB), "canaries" (examples with wrong labels), "gamma", "rank", "layers" (sweeps on fashion-mini), "thorough"
(samples and canaries of IMDB with adapters on all layers and more steps, a tenth of CIFAR-10 with more steps). Rows
and models that are in --folder are read, so a stopped run goes on; --collect only sums up.

Accuracy of class requests and of retained examples is that on held-out examples, accuracy of sample requests that on
the forgotten training examples (of canaries: with their wrong labels). `distance` is the mean over stages and held-out
retained examples of ‖h − h⁰‖ / ‖h⁰‖, where h⁰ is the original's; `membership` is the area under the curve when
forgotten examples are told from unseen ones by their loss. Sample requests are also audited. Prints a JSON line per
row, then differences to the retrained models with their 95 % intervals.
"""

import argparse
import copy
import json
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import t
from settings import SETTINGS, Setting, data_of, trained
from sklearn.metrics import roc_auc_score
from torch import nn

from rasura.activations import anatomy
from rasura.contents import versions
from rasura.data import Data, ForgetClasses, Request, examples_from, load_data, read_samples, resolve
from rasura.data.canaries import Canaries
from rasura.finding import Finding, audit_all
from rasura.methods.contract import Problem, problem_of
from rasura.methods.rfa import Rfa
from rasura.progress import silent
from rasura.runs import machine
from rasura.training import Recipe, predict

REVIEWS = Setting("imdb", "distilbert,width=64,depth=2,length=64", Recipe(epochs=10, batch_size=32), ("neg",))
IMAGES = {name: SETTINGS[name] for name in ("fashion-mini", "fashion-mini-vit", "fashion-mnist", "cifar10")}
SAMPLED = ("fashion-mini", "fashion-mini-vit", "cifar10")
MAIN = "fashion-mini"
SHARES, CANARIES = ("10%", "1%"), Canaries(200)
DRAWS = ("1%@1", "1%@2", "1%@3")
"""Further draws of so few examples that one draw says little."""
PLANTED = f"canaries:{CANARIES.count}"
SEEDS = (0, 1)
REFERENCES = (2, 3)
"""Their seeds are none of an original: no retrained model begins with an original's weights."""
GAMMAS, RANKS = (0.2, 1.0, 5.0, 15.0), (1, 2, 8, 16)
PLACES = (("all",), ("layer3", "head"), ("head",))
THOROUGH = Rfa(layers=("all",), gamma=2.0, answer_weight=100.0, steps=300)
"""For texts: the original knows by heart what it is to forget, and early layers have their part in it."""
LONGER = Rfa(answer_weight=100.0, steps=300)
"""For images that the usual steps leave above retrained models."""
SWEEPS = ("gamma", "rank", "layers")
FULL_RATE = 1e-3
"""Adam's rate for all weights, of which each counts more than those of an adapter."""


@dataclass(frozen=True)
class Row:
    """One request to one original of a setting, and how it is met."""

    part: str
    setting: str
    words: str
    seed: int
    method: Rfa = field(default_factory=Rfa)
    full: bool = False

    @property
    def name(self) -> str:
        method = f"{self.method.gamma:g}-{self.method.rank}-{'-'.join(self.method.layers)}"
        return f"{self.part}-{self.setting}-{self.words.replace('/', '')}-{self.seed}-{method}.json"

    @property
    def samples(self) -> bool:
        return "%" in self.words or self.words.startswith("canaries")


def load(row: Row, folders: argparse.Namespace) -> tuple[Setting, Data]:
    """A row's setting and data."""
    setting = IMAGES.get(row.setting, REVIEWS)
    data = redealt(folders.imdb) if setting is REVIEWS else data_of(setting, folders.cifar10)
    if row.words.startswith("canaries"):
        setting, data = replace(setting, data=f"{setting.data} with canaries"), CANARIES.planted(data)
    return setting, data


def redealt(folder: str) -> Data:
    """The reviews of both of IMDB's parts, dealt anew at random into parts of the same sizes.

    As published, no film has reviews in both parts: a forgotten review has others of its film among the retained ones
    and a held-out one has none, so that models that saw neither tell them apart.
    """
    data = load_data(f"text:{folder},length=64")
    parts = data.train, data.test
    source = {name: torch.cat([part.source[name] for part in parts]) for name in data.train.source}
    reviews = examples_from(source, torch.cat([part.labels for part in parts]))
    order = torch.randperm(len(reviews), generator=torch.Generator().manual_seed(0))
    train, test = (reviews.take(rows) for rows in order.tensor_split([len(data.train)]))
    return replace(data, train=train, test=test, name=REVIEWS.data)


def full_finetuning(method: Rfa, problem: Problem) -> nn.Module:
    """All weights under the same losses and steps, beside a frozen copy that is the teacher."""
    net, teacher = problem.copy_of_model().eval(), copy.deepcopy(problem.model).eval()
    points = anatomy(net, problem.retain.batch(torch.arange(2))[0]).points
    loss = method.loss(problem, points, lambda _: nullcontext(teacher))
    replace(method, learning_rate=FULL_RATE).train(net, problem, loss)
    return net.eval()


@torch.no_grad()
def distance(original: nn.Module, model: nn.Module, data: Data, request: Request) -> float:
    """Activation distance on held-out examples of the classes that stay."""
    from rasura.methods._alignment import read

    gone = data.class_numbers(request.classes) if isinstance(request, ForgetClasses) else ()
    rows = (~torch.isin(data.test.labels, torch.tensor(gone, dtype=torch.int64))).nonzero()[:1000, 0]
    found, examples = [], data.test.take(rows)
    points = anatomy(original, examples.batch(torch.arange(2))[0]).points
    for inputs, _ in examples.batches(250):
        (_, before), (_, after) = (read(net.eval(), inputs, points) for net in (original, model))
        pairs = [(old.flatten(1), new.flatten(1)) for old, new in zip(before, after, strict=True)]
        found.append(torch.stack([(new - old).norm(dim=1) / old.norm(dim=1).clamp(min=1e-6) for old, new in pairs]))
    return torch.cat(found, dim=1).mean().item()


def measured(original: nn.Module, model: nn.Module, data: Data, request: Request) -> dict[str, float]:
    """Accuracies, activation distance and, for samples, how well they are told from unseen examples."""
    said = predict(model, data.test)
    right = (said.argmax(1) == data.test.labels).double()
    found = {"distance": distance(original, model, data, request)}
    if isinstance(request, ForgetClasses):
        going = torch.isin(data.test.labels, torch.tensor(data.class_numbers(request.classes)))
        return {"forget": right[going].mean().item(), "retain": right[~going].mean().item(), **found}
    forgotten = resolve(request, data).forget
    answers = predict(model, forgotten)
    parts = (answers, forgotten.labels), (said, data.test.labels)
    losses = torch.cat([F.cross_entropy(logits, labels, reduction="none") for logits, labels in parts])
    found["membership"] = float(roc_auc_score(np.repeat([1, 0], [len(answers), len(said)]), -losses.numpy()))
    accuracy = (answers.argmax(1) == forgotten.labels).double().mean().item()
    return {"forget": accuracy, "retain": right.mean().item(), **found}


def measure(row: Row, folders: argparse.Namespace) -> dict:
    """The original, the retrained models, the method, and full fine-tuning."""
    setting, data = load(row, folders)
    without = row.words if row.samples else (row.words,)
    request = read_samples(row.words, data) if row.samples else ForgetClasses([row.words])
    original = trained(setting, data, folders.folder, row.seed)
    problem = problem_of(original, data, request, row.seed, silent)
    models = {"original": measured(original, original, data, request)}
    references = {
        f"retrained {number}": trained(setting, data, folders.folder, number, without) for number in REFERENCES
    }
    models |= {name: measured(original, reference, data, request) for name, reference in references.items()}
    begun = time.perf_counter()
    model, record = row.method(problem)
    seconds = time.perf_counter() - begun
    models["rfa"] = measured(original, model, data, request) | {"seconds": seconds}
    if row.full:
        models["full fine-tuning"] = measured(original, full_finetuning(row.method, problem), data, request)
    verdicts = {}
    if row.samples:
        judged = {"original": original, "rfa": model}
        findings = audit_all(judged, data, request, original, list(references.values()), row.seed, silent)
        verdicts = {name: said(finding) for name, finding in findings.items()}
    residuals = {part: [line[-1] for line in record["residuals"][part]] for part in ("retain", "forget")}
    about = {"part": row.part, "setting": row.setting, "net": setting.net, "epochs": setting.recipe.epochs}
    about |= {"request": row.words, "seed": row.seed, "settings": asdict(row.method.resolved(problem))}
    return about | {
        "trainable_share": record["trainable_share"],
        "residuals": residuals,
        "rows": models,
        "audit": verdicts,
    }


def said(finding: Finding) -> dict:
    """The verdict, and the areas under the curve of what tells forgotten from unseen examples."""
    scores = (one for one in finding.content["comparisons"] if one["decoder"] == "membership")
    areas = {one["layer"]: {"model": one["model"], "retrained": one["references"]} for one in scores}
    return {"verdict": finding.verdict, "where": finding.where, "reason": finding.reason, "membership": areas}


def plan() -> Iterator[Row]:
    """Every row of every part."""
    for name, setting in IMAGES.items():
        seeds = SEEDS[:1] if name == "fashion-mnist" else SEEDS
        yield from (Row("class", name, words, seed, full=True) for seed in seeds for words in setting.classes)
    yield from (Row("samples", name, share, seed) for name in SAMPLED for share in SHARES for seed in SEEDS)
    yield from (Row("samples", MAIN, share, seed) for share in DRAWS for seed in SEEDS)
    yield from (Row("text", "imdb", words, seed, full=words == "neg") for words in (*SHARES, "neg") for seed in SEEDS)
    yield from (Row("canaries", name, PLANTED, seed) for name in (MAIN, "imdb") for seed in SEEDS)
    for words in ("T-shirt/top", "10%"):
        yield from (Row("gamma", MAIN, words, 0, Rfa(gamma=gamma)) for gamma in GAMMAS)
    yield from (Row("rank", MAIN, "T-shirt/top", 0, Rfa(rank=rank)) for rank in RANKS)
    yield from (Row("layers", MAIN, "T-shirt/top", 0, Rfa(layers=places)) for places in PLACES)
    yield from (Row("thorough", "imdb", words, seed, THOROUGH) for words in (*SHARES, PLANTED) for seed in SEEDS)
    yield from (Row("thorough", "cifar10", "10%", seed, LONGER) for seed in SEEDS)


def difference(cells: list[dict], who: str, score: str, to: Callable[[dict], float]) -> dict:
    """Mean over cells of a score less another one, with its 95 % interval (Student's t over cells)."""
    values = [one["rows"][who][score] - to(one["rows"]) for one in cells if who in one["rows"]]
    half = t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
    mean = float(np.mean(values))
    return {"n": len(values), "mean": mean, "low": mean - half, "high": mean + half, "worst": max(values, key=abs)}


def of_retrained(score: str) -> Callable[[dict], float]:
    return lambda rows: float(np.mean([one[score] for name, one in rows.items() if name.startswith("retrained")]))


def summary(rows: list[dict]) -> list[dict]:
    """Differences to the retrained models by setting and request; classes of a setting, and draws, together."""
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        if row["part"] not in SWEEPS:
            samples = "membership" in row["rows"]["rfa"]
            kind = row["request"].partition("@")[0] if samples else "classes"
            groups.setdefault((row["part"], row["setting"], row["net"], kind), []).append(row)
    found = []
    for (part, setting, net, kind), these in groups.items():
        accuracies = {who: [one["rows"][who]["forget"] for one in these] for who in ("original", "rfa")}
        line: dict = {"part": part, "setting": setting, "net": net, "request": kind, "forget accuracy": accuracies}
        for score in ("forget", "retain", *(["membership"] if kind != "classes" else [])):
            line[f"{score} less retrained"] = difference(these, "rfa", score, of_retrained(score))
        if all("full fine-tuning" in one["rows"] for one in these):
            full = "distance less full fine-tuning"
            line[full] = difference(these, "rfa", "distance", lambda rows: rows["full fine-tuning"]["distance"])
        found.append(line)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    rows = list(plan())
    for name in ("parts", "settings"):
        known = list(dict.fromkeys(getattr(row, name.removesuffix("s")) for row in rows))
        parser.add_argument(f"--{name}", nargs="+", default=known, choices=known)
    parser.add_argument("--cifar10", default="cifar-10-batches-bin", help="folder of the binary version")
    parser.add_argument("--imdb", default="imdb", help="folder with train.jsonl and test.jsonl")
    parser.add_argument("--folder", type=Path, default=Path("runs/rfa"), help="where models and rows are kept")
    parser.add_argument("--collect", action="store_true", help="only sum up the rows that are in the folder")
    parser.add_argument("--out", type=Path, help="also write all of it to this JSON file")
    arguments = parser.parse_args()
    found = []
    for row in (one for one in rows if one.part in arguments.parts and one.setting in arguments.settings):
        kept = arguments.folder / "rows" / row.name
        if not kept.exists() and not arguments.collect:
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(measure(row, arguments)))
            print(kept.read_text(), flush=True)
        if kept.exists():
            found.append(json.loads(kept.read_text()))
    for line in summary(found):
        print(json.dumps(line), flush=True)
    if arguments.out:
        about = {"command": "python benchmarks/rfa_quality.py", "machine": machine(), "versions": versions()}
        content = about | {"seeds": SEEDS, "summary": summary(found), "rows": found}
        arguments.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
