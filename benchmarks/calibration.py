"""How often the audit accuses an honest model: retrained ones are audited against other retrained ones.

    python benchmarks/calibration.py [--data digits fashion-mini] [--models 21] [--out results/calibration.json]

Trains an original and many models without the class (reused from the run folder), measures each once, and judges each
against references drawn from the others. Prints a JSON line per data set and number of references: verdicts, the share
worse than INCONCLUSIVE with its interval (of audits; those of one model are alike, so it is too narrow), and the
scatter of every score between retrained models.
"""

import argparse
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from rasura.auditing import (
    MODEL,
    ORIGINAL,
    Measured,
    Scores,
    judge,
    make_probe,
    measure,
    read_anchor,
    reference_name,
    wilson,
)
from rasura.auditing.evidence import forget_comparisons, membership_comparisons, retain_comparisons
from rasura.contents import versions
from rasura.data import ForgetClasses, load_data
from rasura.progress import terminal
from rasura.runs import machine, train_run
from rasura.training import Recipe

SETTINGS = {
    "digits": ("resnet8,width=8", Recipe(epochs=12, batch_size=64), "3"),
    "fashion-mini": ("resnet8", Recipe(epochs=8), "T-shirt/top"),
}
"""Per data set: the net, how it is trained, and the class to forget."""
REFERENCES = (1, 3, 5, 10)
DRAWS = 3
"""Times that every honest model is audited, each beside other references."""
FINE = ("ERASED", "INCONCLUSIVE")


def measured(data_name: str, count: int, folder: Path) -> tuple[Scores, Measured, list[Measured]]:
    """A table, what was measured of the original, and of each of `count` honest models."""
    architecture, recipe, name = SETTINGS[data_name]
    data, request = load_data(data_name), ForgetClasses([name])
    home = folder / data_name
    with terminal() as progress:
        original = train_run(data, architecture, recipe, (), 0, home / "original", progress)
        probe = make_probe(data, request, 0)
        anchor = read_anchor(original, probe)
        honest = []
        for seed in range(1, count + 1):
            model = train_run(data, architecture, recipe, (name,), seed, home / f"retrained-{seed}", progress)
            honest.append(measure(model, probe, anchor, 0, progress))
        kept = measure(original, probe, anchor, 0, progress)
    labels, rows = probe.labels.numpy().astype(np.int32), probe.rows.numpy()
    table = Scores(labels, rows, probe.forget_classes, data.classes, {})
    return with_models(table, {MODEL: honest[0], ORIGINAL: kept}), kept, honest


def judged(table: Scores, original: Measured, honest: list[Measured], references: int) -> Counter:
    """Verdicts on every honest model against references drawn from the others."""
    generator, verdicts = np.random.default_rng(references), Counter()
    for held_out, model in [*enumerate(honest)] * DRAWS:
        others = generator.permutation([k for k in range(len(honest)) if k != held_out])[:references]
        named = {reference_name(at): honest[k] for at, k in enumerate(others)}
        ruling = judge(with_models(table, {MODEL: model, ORIGINAL: original, **named}), 0).ruling
        verdicts[ruling.verdict + (f" at {ruling.where}" if ruling.verdict not in FINE else "")] += 1
    return verdicts


def with_models(table: Scores, measured: dict[str, Measured]) -> Scores:
    members = {name: one.members for name, one in measured.items() if one.members is not None}
    return replace(table, models={name: one.decoded for name, one in measured.items()}, members=members)


def scatter(table: Scores, original: Measured, honest: list[Measured]) -> dict[str, float]:
    """Standard deviation of every score over all honest models."""
    named = {reference_name(at): one for at, one in enumerate(honest)}
    whole = with_models(table, {MODEL: honest[0], ORIGINAL: original, **named})
    found = {}
    parts = {"forget": forget_comparisons, "retain": retain_comparisons, "pairs": membership_comparisons}
    for part, comparisons in ((name, compare(whole, 0)) for name, compare in parts.items()):
        for one in comparisons:
            shots = f", {one.shots} labels" if one.shots else ""
            found[f"{part}: {one.decoder}, {one.layer}{shots}"] = round(float(np.std(one.references, ddof=1)), 5)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--models", type=int, default=21, help="honest models per data set")
    parser.add_argument("--folder", type=Path, default=Path("runs/calibration"), help="where the models are kept")
    parser.add_argument("--out", type=Path, help="also write all of it to this JSON file")
    arguments = parser.parse_args()
    rows = []
    for name in arguments.data:
        table, original, honest = measured(name, arguments.models, arguments.folder)
        for references in REFERENCES:
            verdicts = judged(table, original, honest, references)
            accused = sum(count for verdict, count in verdicts.items() if verdict not in FINE)
            row = {"data": name, "model": SETTINGS[name][0], "forget": SETTINGS[name][2], "references": references}
            row |= {"verdicts": dict(verdicts), "accused": wilson(accused, verdicts.total()).to_json()}
            rows.append(row)
            print(json.dumps(row), flush=True)
        rows.append({"data": name, "scatter of retrained models": scatter(table, original, honest)})
        print(json.dumps(rows[-1]), flush=True)
    if arguments.out:
        about = {"command": "python benchmarks/calibration.py", "machine": machine(), "versions": versions()}
        arguments.out.write_text(json.dumps({**about, "models": arguments.models, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
