"""A run is a folder: written whole, found again by the hash of its spec, never overwritten by another."""

import functools
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rasura.auditing import Goal, Shadows
from rasura.audits import VERDICT, write_audit
from rasura.class_order import check_never_saw, in_order_of_pretrained, ordered
from rasura.contents import versions
from rasura.data import Data, ForgetClasses, ForgetSamples, Request, identity_of_data, resolve
from rasura.errors import FolderError, check_seed, isolated
from rasura.files import hash_of_json, lock_of, locked, read_json, whole_folder, write_json
from rasura.finding import NO_SHADOWS, Finding, auditor
from rasura.identity import described
from rasura.memory import peak_memory
from rasura.methods.contract import Method, forget, name_of
from rasura.models import (
    card_of,
    copy_of,
    device_of,
    for_data,
    fresh_model,
    identity_of_model,
    load_model,
    named,
    to_card,
    with_card,
    write_model,
)
from rasura.progress import Progress
from rasura.randomness import seeded
from rasura.sealed import CHECKPOINT, RUN, seal, sealed
from rasura.strength import Search, search_strength
from rasura.training import Recipe, fit, resolved


def is_done(folder: Path, spec: dict[str, Any]) -> bool:
    """Whether the folder holds a finished run of this very spec.

    Raises:
        FolderError: it holds another run, one of other versions, something else, or files that have changed.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    if not (folder / RUN).is_file():
        raise FolderError(f"out: {folder} exists and is no run; allowed: a new or empty folder, or the same run's")
    found = sealed(folder, "out")
    if found["hash"] != hash_of_json(spec):
        raise _another(folder, found["spec"], spec)
    return True


def make_run(folder: Path, spec: dict[str, Any], work: Callable[[Path], None], keep: str | None = None) -> None:
    """Do the work in a folder that appears whole or not at all; nothing if this very run is there already.

    A process that is doing the same run is waited for.

    Args:
        folder: where the run goes.
        spec: JSON values that determine the result; their hash is the run's identity.
        work: fills the folder that it is given.
        keep: a checkpoint file that survives a failure, so that the same spec resumes.
    """
    if is_done(folder, spec) and not lock_of(folder).exists():
        return
    identity = hash_of_json(spec)
    with locked(folder, identity):
        if is_done(folder, spec):  # by another process, which may have been killed before it removed the checkpoint
            if keep is not None:
                (folder / keep).unlink(missing_ok=True)
            return
        with whole_folder(folder, keep) as partial:
            begun = time.perf_counter()
            work(partial)
            seconds = round(time.perf_counter() - begun, 2)
            about = {"seconds": seconds, "versions": versions(), "machine": machine()}
            seal(partial, {"hash": identity, "spec": spec, **about})


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
    with seeded(seed):
        model = fresh_model(card)
    check_never_saw(training["without"], model, architecture)
    turned = in_order_of_pretrained(model, data)
    spec = _spec("train", data, model=card.to_json(), start=identity_of_model(model))

    def work(partial: Path) -> None:
        fit(
            model,
            turned.train.take(kept),
            recipe,
            seed,
            checkpoint=partial / CHECKPOINT,
            progress=progress,
            label=f"train {folder.name}",
        )
        used = training | {"recipe": asdict(resolved(recipe, model))}
        with_card(model, to_card(architecture, turned, training=used))
        write_model(named(model, turned.classes), partial)

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
    asked = ordered(model, data, request)
    spec = _spec(
        "forget",
        asked.data,
        method=name_of(method),
        settings=described(method),
        **_asked(asked.request, asked.data),
        model=identity_of_model(model),
        seed=seed,
        **({"search": asdict(search)} if search else {}),
        **({"earlier": earlier} if earlier else {}),
    )

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
    failed: dict[str, str] | None = None,
) -> dict[str, dict[str, Any]]:
    """Audit models by name into one run folder each; those that are there already are read. Their `verdict.json`.

    Each is written as soon as it is done. Where `failed` is given, a model that cannot be audited is named there with
    the reason, and the others go on.
    """
    asked = ordered(original, data, request)
    spec = _spec(
        "audit",
        asked.data,
        **_asked(asked.request, asked.data),
        original=identity_of_model(original),
        references=[identity_of_model(one) for one in references],
        seed=seed,
        goal=goal,
        **({"also": sorted(also)} if also else {}),
        **{kind: [identity_of_model(one) for one in given] for kind, given in vars(shadows).items() if given},
    )
    specs = {name: spec | {"model": identity_of_model(model)} for name, (model, _) in models.items()}
    for name, (_, folder) in models.items():
        is_done(folder, specs[name])  # a folder that holds something else is refused before any work

    @functools.cache
    def audited() -> Callable[[str, nn.Module], Finding]:
        return auditor(data, request, original, references, seed, progress, goal, also, shadows)

    def work(name: str, partial: Path) -> None:
        write_audit(audited()(name, models[name][0]), partial)

    found = {}
    for name, (_, folder) in models.items():
        with isolated(name, failed):
            make_run(folder, specs[name], functools.partial(work, name))
            found[name] = read_json(folder / VERDICT)
    return found


def _asked(request: Request, data: Data) -> dict[str, Any]:
    """The request as part of a spec."""
    if isinstance(request, ForgetClasses):
        return {"forget": list(data.class_numbers(request.classes))}
    return {"forget_samples": sorted(request.indices)}


def load_run(folder: Path, architecture: str | nn.Module | None = None) -> nn.Module:
    """The model in a run folder.

    Args:
        folder: a finished run.
        architecture: its name as the user gave it (so that a Python file which it names may run), or a model of the
            same, which is copied.
    """
    return load_model(folder, copy_of(architecture) if isinstance(architecture, nn.Module) else architecture)


def machine() -> dict[str, Any]:
    """What a timing depends on."""
    return {"system": platform.platform(), "cores": os.cpu_count(), "threads": torch.get_num_threads()}


def _spec(kind: str, data: Data, **rest: Any) -> dict[str, Any]:
    """All that decides a run's result, as JSON values. Another version may make something else of the same."""
    made_with = {name: versions()[name] for name in ("rasura", "torch")}
    spec = {"kind": kind, "data": identity_of_data(data), **rest, "versions": made_with}
    return json.loads(json.dumps(spec))


def _another(folder: Path, old: dict[str, Any], new: dict[str, Any]) -> FolderError:
    """The complaint about a folder with another run's spec; what differs is named."""
    before, now = dict(_leaves(old)), dict(_leaves(new))
    differing = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
    if all("versions." in key for key in differing):
        made, here = (
            ", ".join(sorted({f"{key.rpartition('.')[2]} {found.get(key, '(none)')}" for key in differing}))
            for found in (before, now)
        )
        return FolderError(
            f"out: {folder} was written by {made}, this is {here}; allowed: these versions, or a new folder"
        )
    return FolderError(
        f"out: {folder} holds another run ({old.get('kind')}); allowed: a new or empty folder, or the same run's. "
        f"It differs in {', '.join(differing)}"
    )


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """What lies at the ends of nested JSON objects, and of lists of them, with the way there."""
    if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        value = {str(number): one for number, one in enumerate(value, start=1)}
    if not isinstance(value, dict) or not value:
        yield path.lstrip("."), value
        return
    for key, one in value.items():
        yield from _leaves(one, f"{path}.{key}")
