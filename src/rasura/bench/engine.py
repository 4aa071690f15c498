"""Run a grid, cell by cell. What is there already is read: a bench that was stopped goes on where it was."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from torch import nn

from rasura.bench.grid import Cell, Grid
from rasura.bench.summary import KIND
from rasura.data import ForgetClasses, load_data
from rasura.errors import InputError, alone
from rasura.files import hash_of_json
from rasura.models import fresh_model, to_card
from rasura.progress import Progress, silent
from rasura.runs import audit_runs, forget_run, train_run
from rasura.sealed import shared

Engine = Literal["local", "ray"]
FIRST_REFERENCE_SEED = 1000
"""References get seeds of their own, so that none equals the seed of an original."""


def run_grid(grid: Grid, folder: Path, engine: Engine, progress: Progress) -> list[dict[str, Any]]:
    """Train, forget and audit every cell into run folders.

    Args:
        grid: what to run.
        folder: where the run folders go.
        engine: "local" runs one cell after another in this process; "ray" hands cells to a Ray cluster that sees the
            same folder (references are trained first, so that no two cells train the same one).
        progress: called after every cell.

    Returns:
        One finding per cell and method: the JSON values of `verdict.json`, with the cell's model, seed and request.
        Where there is none, the method's `name`, the cell, and the reason as `failed`.

    Raises:
        InputError: a class or model is unknown, or there is no finding at all.
        FolderError: the folder holds something else.
    """
    cells = list(grid.cells())
    _check(grid)
    shared(folder, KIND)
    found = []
    if engine == "ray":
        found = _on_ray(grid, cells, folder, progress)
    else:
        for done, cell in enumerate(cells, start=1):
            found += run_cell(grid, cell, folder, progress)
            progress("bench: cells", done, len(cells))
    if all("failed" in one for one in found):
        raise InputError(f"grid: every cell failed ({found[0]['failed']}); allowed: one that gives a model, or more")
    return found


def _check(grid: Grid) -> None:
    """Refuse unknown classes and models before hours of work, not between them."""
    data = load_data(grid.data)
    for request in grid.forget:
        data.class_numbers(request)
    for model in grid.models:
        fresh_model(to_card(model, data))


def run_cell(grid: Grid, cell: Cell, folder: Path, progress: Progress = silent) -> list[dict[str, Any]]:
    """Compare all methods of the grid on one original and one request.

    A method that fails, for whatever reason, costs its own finding; a training that fails, those of the cell.
    """
    findings: dict[str, Any] = {}
    failed: dict[str, str] = {}
    whole: dict[str, str] = {}
    with alone("cell", whole):
        findings = _audited(grid, cell, folder, progress, failed)
    about = {"cell": {"model": cell.model, "seed": cell.seed, "forget": list(cell.forget)}}
    missing = [name for name in grid.methods if name not in findings]
    return [
        *(finding | about for finding in findings.values()),
        *({"name": name, "failed": failed.get(name) or whole["cell"]} | about for name in missing),
    ]


def _audited(
    grid: Grid, cell: Cell, folder: Path, progress: Progress, failed: dict[str, str]
) -> dict[str, dict[str, Any]]:
    """The findings of a cell by method; methods without one go into `failed`."""
    data, request = load_data(grid.data), ForgetClasses(cell.forget)
    original, references = _original(grid, cell, folder, progress), _references(grid, cell, folder, progress)
    place = folder / _slug(cell.model) / _slug("+".join(cell.forget)) / f"seed-{cell.seed}"
    models = {}
    for name, method in grid.methods.items():
        with alone(name, failed):
            models[name], _ = forget_run(original, data, request, method, cell.seed, place / _slug(name), progress)
    places = {name: (model, place / "audits" / _slug(name)) for name, model in models.items()}
    return audit_runs(places, data, request, original, references, cell.seed, progress, failed=failed)


def _original(grid: Grid, cell: Cell, folder: Path, progress: Progress) -> nn.Module:
    place = folder / _slug(cell.model) / f"original-{cell.seed}"
    return train_run(load_data(grid.data), cell.model, grid.recipe, (), cell.seed, place, progress)


def _references(grid: Grid, cell: Cell, folder: Path, progress: Progress) -> list[nn.Module]:
    home = folder / _slug(cell.model) / _slug("+".join(cell.forget))
    seeds = [FIRST_REFERENCE_SEED + k for k in range(grid.references)]
    data = load_data(grid.data)
    return [
        train_run(data, cell.model, grid.recipe, cell.forget, seed, home / f"reference-{seed}", progress)
        for seed in seeds
    ]


def _on_ray(grid: Grid, cells: list[Cell], folder: Path, progress: Progress) -> list[dict[str, Any]]:
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise InputError("engine: ray is not installed; allowed: local, or pip install 'rasura[ray]'") from None
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False)

    def all_of(work: Callable[..., Any], rows: list[Cell], label: str) -> list[Any]:
        waiting = [ray.remote(work).remote(grid, row, folder.resolve()) for row in rows]
        results = []
        for done, one in enumerate(waiting, start=1):
            results.append(ray.get(one))
            progress(label, done, len(waiting))
        return results

    # Originals and references are shared by cells: train each once, before the cells that need them.
    all_of(_train_references, list({(one.model, one.forget): one for one in cells}.values()), "bench: references")
    all_of(_train_original, list({(one.model, one.seed): one for one in cells}.values()), "bench: originals")
    return [finding for found in all_of(run_cell, cells, "bench: cells") for finding in found]


def _train_references(grid: Grid, cell: Cell, folder: Path) -> None:
    with alone("references", {}):  # the cells that need them say why there are none
        _references(grid, cell, folder, silent)


def _train_original(grid: Grid, cell: Cell, folder: Path) -> None:
    with alone("original", {}):
        _original(grid, cell, folder, silent)


def _slug(text: str) -> str:
    """A folder name; names that lose letters on the way get a hash, so that no two meet."""
    plain = "".join(letter if letter.isalnum() or letter in "-+=." else "_" for letter in text)
    return plain if plain == text else f"{plain}-{hash_of_json(text)[:6]}"
