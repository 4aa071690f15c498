"""The whole path on the embedded data: train, forget, audit, one page."""

from pathlib import Path
from typing import Any

from rasura.audits import PAGE
from rasura.data import ForgetClasses, load_data
from rasura.files import locked
from rasura.methods import Damp, Finetune, LogitMask
from rasura.progress import Progress
from rasura.runs import audit_runs, forget_run, train_run
from rasura.sealed import RUN, replace_files, shared
from rasura.training import Recipe

ARCHITECTURE = "resnet8"
RECIPE = Recipe(epochs=8)
FORGET = "T-shirt/top"
METHODS = {"damp": Damp(), "finetune": Finetune(epochs=1), "logit-mask": LogitMask()}
REFERENCES = 3


def run_demo(folder: Path, progress: Progress) -> list[dict[str, Any]]:
    """Train an original and four models without the class, forget by three methods, audit five models.

    Shirts look like T-shirts: a hard class to forget without losing another.

    Args:
        folder: where everything goes; finished parts that are there already are reused.
        progress: where progress goes.

    Returns:
        The five findings' JSON values: original, three methods, and a retrained model that is no reference.
    """
    from rasura.report import page

    data, request = load_data("fashion-mini"), ForgetClasses([FORGET])

    def trained(name: str, seed: int, without: tuple[str, ...]) -> Any:
        return train_run(data, ARCHITECTURE, RECIPE, without, seed, folder / name, progress)

    original = trained("original", 0, ())
    references = [trained(f"reference-{k}", k, (FORGET,)) for k in range(1, REFERENCES + 1)]
    models = {"original": original}
    for name, method in METHODS.items():
        models[name], _ = forget_run(original, data, request, method, 0, folder / name, progress)
    models["held-out retrained"] = trained("held-out-retrained", REFERENCES + 1, (FORGET,))
    places = {name: (model, folder / "audits" / name.replace(" ", "-")) for name, model in models.items()}
    findings = list(audit_runs(places, data, request, original, references, 0, progress).values())
    with locked(folder / RUN):
        replace_files(folder, {PAGE: page(findings).encode()}, shared(folder, "demo"))
    return findings
