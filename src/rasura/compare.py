"""Several methods on one model and request: each forgets, all are audited, one page ranks them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from rasura.data import Data, ForgetClasses
from rasura.errors import InputError, isolated
from rasura.files import as_json, locked
from rasura.methods import BiasShift, LogitMask, Strength
from rasura.methods.contract import Method
from rasura.progress import Progress
from rasura.report.comparison_page import Cost, Row, comparison_page, ranked
from rasura.runs import audit_runs, forget_run
from rasura.sealed import RUN, replace_files, shared
from rasura.strength import Search

PAGE, ROWS = "comparison.html", "comparison.json"
CONTROLS: dict[str, Method] = {"logit-mask": LogitMask(), "bias-shift": BiasShift()}
"""Methods that only silence the answers: an audit that does not expose them would be worth nothing."""


def compare(
    model: nn.Module,
    data: Data,
    request: ForgetClasses,
    methods: Mapping[str, Method],
    references: list[nn.Module],
    folder: Path,
    progress: Progress,
    seed: int = 0,
    search: Search | None = None,
) -> tuple[list[Row], dict[str, str]]:
    """Run methods and the two controls, audit all, and write `comparison.html` and `comparison.json`.

    What is in the folder already is read, so a stopped comparison goes on. A method that fails, for whatever reason,
    costs its own row: it is named on the page.

    Args:
        model: the original.
        data: what it was trained on; the held-out part is for the audits.
        request: classes to forget.
        methods: by name on the page.
        references: models trained without the classes. One or more; three are advised.
        folder: where the runs, the audits and the page go.
        progress: where progress goes.
        seed: of methods and audits.
        search: search the strength of every method that has one.

    Returns:
        The rows, nearest to the retrained models first, and the reasons of methods that failed, by name.

    Raises:
        InputError: no references, or no method that gave a model.
    """
    if not references:
        raise InputError("reference: none; allowed: 1 or more models trained without the classes")
    with locked(folder / RUN):
        sheet = shared(folder, "compare")
        models, costs, failed = {}, {}, {}
        for name, method in {**methods, **CONTROLS}.items():
            searched = isinstance(getattr(type(method), "strength", None), Strength) and name not in CONTROLS
            used = search if searched else None
            with isolated(name, failed):
                models[name], record = forget_run(model, data, request, method, seed, folder / name, progress, used)
                costs[name] = Cost(record["seconds"], record.get("memory_mib"))
        places = {name: (one, folder / "audits" / name) for name, one in models.items()}
        found = audit_runs(places, data, request, model, references, seed, progress, failed=failed)
        if not found:
            reason = next(iter(failed.values()))
            raise InputError(f"methods: every one failed ({reason}); allowed: one that gives a model, or more")
        rows = ranked(list(found.values()), costs)
        content: dict[str, Any] = {"format": 2, "rows": [row.to_json() for row in rows], "failed": failed}
        page = comparison_page(list(found.values()), costs, failed, CONTROLS)
        replace_files(folder, {ROWS: as_json(content), PAGE: page.encode()}, sheet)
    return rows, failed
