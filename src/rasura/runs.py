"""A run is a folder: written whole, found again by the hash of its spec, never overwritten by another."""

import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rasura.auditing import Goal, Shadows, read_scores
from rasura.contents import versions
from rasura.data import Data, ForgetClasses, ForgetSamples, Request, hash_of_data, resolve
from rasura.errors import InputError, check_seed, first_line
from rasura.files import hash_of_json, read_json, whole_folder, write_json, write_whole
from rasura.finding import NO_SHADOWS, Finding, audit_all, recomputed
from rasura.memory import peak_memory
from rasura.methods.contract import Method, forget, name_of
from rasura.models import card_of, device_of, for_data, fresh_model, hash_of_model, to_card, with_card, write_model
from rasura.models.card import Card
from rasura.progress import Progress
from rasura.strength import Search, search_strength
from rasura.training import Recipe, fit, resolved

RUN, CHECKPOINT = "run.json", "checkpoint.pt"
VERDICT, SCORES, PAGE = "verdict.json", "scores.parquet", "report.html"


def is_done(folder: Path, spec: dict[str, Any]) -> bool:
    """Whether the folder holds a finished run of this very spec.

    Raises:
        InputError: it holds another run, or something else.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    if not (folder / RUN).is_file():
        raise InputError(f"out: {folder} exists and is no run; allowed: a new or empty folder, or the same run's")
    found = read_json(folder / RUN)
    if found.get("hash") != hash_of_json(spec):
        raise InputError(
            f"out: {folder} holds another run ({found.get('spec', {}).get('kind')}); allowed: a new or empty folder, "
            f"or the same run's. It differs in {_difference(found.get('spec', {}), spec)}"
        )
    return True


def make_run(folder: Path, spec: dict[str, Any], work: Callable[[Path], None], keep: str | None = None) -> None:
    """Do the work in a folder that appears whole or not at all; nothing if this very run is there already.

    Args:
        folder: where the run goes.
        spec: JSON values that determine the result; their hash is the run's identity.
        work: fills the folder that it is given.
        keep: a checkpoint file that survives a failure, so that the same spec resumes.
    """
    if is_done(folder, spec):
        return
    with whole_folder(folder, keep) as partial:
        begun = time.perf_counter()
        work(partial)
        seconds = round(time.perf_counter() - begun, 2)
        about = {"seconds": seconds, "versions": versions(), "machine": machine()}
        write_json(partial / RUN, {"format": 1, "hash": hash_of_json(spec), "spec": spec, **about})


def train_run(
    data: Data,
    architecture: str,
    recipe: Recipe,
    without: tuple[str, ...],
    seed: int,
    folder: Path,
    progress: Progress,
    without_samples: ForgetSamples | None = None,
) -> nn.Module:
    """Train a model into a run folder, or take it from there; with something left out it is a retrained reference."""
    check_seed(seed)
    architecture = for_data(architecture, data)
    kept = torch.ones(len(data.train), dtype=torch.bool)
    training = {"recipe": asdict(recipe), "seed": seed, "without": []}
    if without:
        excluded = data.class_numbers(without)
        kept &= ~torch.isin(data.train.labels, torch.tensor(excluded))
        training["without"] = [data.classes[number] for number in excluded]
    if without_samples:
        kept[resolve(without_samples, data).forget_rows] = False
        training["without_samples"] = sorted(without_samples.indices)
    card = to_card(architecture, data, training=training)
    spec = {"kind": "train", "data": hash_of_data(data), "model": _as_json(card)}

    def work(partial: Path) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = fresh_model(card)
        fit(
            model,
            data.train.take(kept),
            recipe,
            seed,
            checkpoint=partial / CHECKPOINT,
            progress=progress,
            label=f"train {folder.name}",
        )
        used = training | {"recipe": asdict(resolved(recipe, model))}
        write_model(with_card(model, to_card(architecture, data, training=used)), partial)

    make_run(folder, spec, work, keep=CHECKPOINT)
    return load_run(folder, architecture)


def forget_run(
    model: nn.Module,
    data: Data,
    request: Request,
    method: Method,
    seed: int,
    folder: Path,
    progress: Progress,
    search: Search | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
    """Forget into a run folder, or take the result from there; the model, and the run's record.

    The record says what it cost: `seconds` of the method (of all trials, where a strength was searched), and
    `memory_mib`, by which memory grew at its peak (None where the system does not tell).

    With a `search`, the method's strength is searched (`search_strength`).
    """
    earlier = [entry["request"] for entry in card_of(model).history if "request" in entry]
    spec = {
        "kind": "forget",
        "method": name_of(method),
        "settings": asdict(method),  # pyright: ignore[reportArgumentType]
        "data": hash_of_data(data),
        **_asked(request, data),
        "model": hash_of_model(model),
        "seed": seed,
        **({"search": asdict(search)} if search else {}),
        **({"earlier": earlier} if earlier else {}),
    }

    def work(partial: Path) -> None:
        with peak_memory(device_of(model)) as peak:
            if search:
                outcome = search_strength(model, data, request, method, search, seed, progress)
            else:
                outcome = forget(model, data, request, method, seed, progress)
        write_model(outcome.model, partial)
        memory = round(peak[0], 1) if peak else None
        about = {"seconds": round(outcome.seconds, 3), "memory_mib": memory, "warnings": list(outcome.warnings)}
        write_json(partial / "record.json", outcome.record | about)

    make_run(folder, spec, work)
    return load_run(folder, model), read_json(folder / "record.json")


def audit_runs(
    models: dict[str, tuple[nn.Module, Path]],
    data: Data,
    request: Request,
    original: nn.Module,
    references: list[nn.Module],
    seed: int,
    progress: Progress,
    goal: Goal = "retrain-equivalent",
    also: tuple[str, ...] = (),
    shadows: Shadows = NO_SHADOWS,
) -> dict[str, dict[str, Any]]:
    """Audit models by name into one run folder each; those that are there already are read. Their `verdict.json`."""
    spec = {
        "kind": "audit",
        "data": hash_of_data(data),
        **_asked(request, data),
        "original": hash_of_model(original),
        "references": [hash_of_model(one) for one in references],
        "seed": seed,
        "goal": goal,
        **({"also": sorted(also)} if also else {}),
        **{kind: [hash_of_model(one) for one in given] for kind, given in vars(shadows).items() if given},
    }
    specs = {name: spec | {"model": hash_of_model(model)} for name, (model, _) in models.items()}
    missing = {name: model for name, (model, folder) in models.items() if not is_done(folder, specs[name])}
    if missing:
        found = audit_all(missing, data, request, original, references, seed, progress, goal, also, shadows)
        for name in missing:
            make_run(models[name][1], specs[name], _writer(found[name]))
    return {name: read_json(folder / VERDICT) for name, (_, folder) in models.items()}


def _asked(request: Request, data: Data) -> dict[str, Any]:
    """The request as part of a spec."""
    if isinstance(request, ForgetClasses):
        return {"forget": list(data.class_numbers(request.classes))}
    return {"forget_samples": sorted(request.indices)}


def write_report(folder: Path) -> Path:
    """Write report.html anew from the verdicts in a folder, or in the folders below it; where it was written.

    Raises:
        InputError: there is no verdict.
    """
    from jinja2 import UndefinedError

    from rasura.report import page

    found = [folder / VERDICT] if (folder / VERDICT).is_file() else _verdicts_below(folder)
    if not found:
        raise InputError(f"folder: {folder} holds no {VERDICT}; allowed: a folder that rasura audit or demo wrote")
    try:
        written = page([read_json(path) for path in found])
    except (KeyError, IndexError, TypeError, AttributeError, UndefinedError) as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise InputError(f"folder: a {VERDICT} in {folder} cannot be shown ({reason}); allowed: ours") from None
    write_whole(folder / PAGE, written.encode())
    return folder / PAGE


def _verdicts_below(folder: Path) -> list[Path]:
    """Finished ones: what a killed process left lies in folders whose names begin with a dot."""
    found = sorted(folder.rglob(VERDICT))
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def recompute(folder: Path) -> dict[str, Any]:
    """Judge the scores in an audit folder again, and write its verdict and page anew; the content of `verdict.json`.

    Raises:
        InputError: the folder holds no audit of this version.
    """
    for name in (VERDICT, SCORES):
        if not (folder / name).is_file():
            raise InputError(f"recompute: {folder} holds no {name}; allowed: a folder that rasura audit wrote")
    try:
        finding = recomputed(read_json(folder / VERDICT), read_scores(folder / SCORES))
    except (KeyError, TypeError, ValueError, OSError) as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise InputError(f"recompute: {folder} cannot be judged again ({reason}); allowed: ours") from error
    finding.to_json(folder / VERDICT)
    finding.to_html(folder / PAGE)
    return finding.content


def load_run(folder: Path, architecture: str | nn.Module | None = None) -> nn.Module:
    """The model in a run folder.

    Args:
        folder: a finished run.
        architecture: its name as the user gave it (so that a Python file which it names may run), or a model of the
            same, which is copied.
    """
    import copy

    from rasura.models import load_model

    return load_model(folder, copy.deepcopy(architecture) if isinstance(architecture, nn.Module) else architecture)


def machine() -> dict[str, Any]:
    """What a timing depends on."""
    return {"system": platform.platform(), "cores": os.cpu_count(), "threads": torch.get_num_threads()}


def _writer(finding: Finding) -> Callable[[Path], None]:
    def work(partial: Path) -> None:
        finding.to_json(partial / VERDICT)
        finding.to_parquet(partial / SCORES)
        finding.to_html(partial / PAGE)

    return work


def _as_json(card: Card) -> dict[str, Any]:
    import json

    return json.loads(json.dumps(card.to_json()))


def _difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    return ", ".join(sorted(key for key in {*old, *new} if old.get(key) != new.get(key))) or "its format"
