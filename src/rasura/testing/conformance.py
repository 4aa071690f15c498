"""The audit's conformance suite: every case that it must get right, as data. `check_audit(case)` plays one.

Honest models must not be accused, silent ones not be cleared, and what proves nothing must be refused. `stage` trains
what the cases are made of.
"""

from collections import Counter
from collections.abc import Iterable

from rasura.auditing import MODEL, ORIGINAL, Scores, judge, reference_name
from rasura.errors import InputError
from rasura.finding import audit_all
from rasura.progress import silent
from rasura.testing.case import REFUSED, Case, Found
from rasura.testing.honest import HONEST
from rasura.testing.masks import DAMAGES, MASKS
from rasura.testing.settings import SETTINGS
from rasura.testing.stage import Inputs, Stage, stage
from rasura.testing.switches import SWITCHES
from rasura.testing.tricks import TRICKS

__all__ = [
    "CASES",
    "PENDING",
    "Case",
    "Found",
    "Inputs",
    "Stage",
    "check_audit",
    "run_cases",
    "stage",
    "verdicts_held_out",
]

CASES: tuple[Case, ...] = (*HONEST, *MASKS, *DAMAGES, *TRICKS, *SWITCHES, *SETTINGS)

PENDING: tuple[str, ...] = ()
"""Cases that the audit gets wrong today; each says in `needs` what would settle it."""


def check_audit(case: Case, on: Stage | None = None) -> None:
    """Check that the audit says what it must of one case.

    Args:
        case: one of `CASES`, or your own.
        on: default: `stage()`.

    Raises:
        AssertionError: another verdict, or another place, than the case allows; the message gives the audit's reason.
    """
    mistake = run_cases([case], on or stage())[case.name].mistake(case)
    assert not mistake, mistake


def run_cases(cases: Iterable[Case], on: Stage) -> dict[str, Found]:
    """What the audit says of each case, by name.

    Cases that share data, original and references are audited together, so that these are measured once.
    """
    groups: dict[tuple, dict[str, Inputs]] = {}
    for case in cases:
        made = case.make(on)
        inputs = made if isinstance(made, Inputs) else on.inputs(made)
        anchors = (id(inputs.data), inputs.request, id(inputs.original), *map(id, inputs.references))
        alone = case.name if REFUSED in case.expected else ""
        groups.setdefault((alone, *anchors), {})[case.name] = inputs
    return {name: found for group in groups.values() for name, found in _audited(group).items()}


def _audited(group: dict[str, Inputs]) -> dict[str, Found]:
    """Verdicts on models that share all else."""
    one = next(iter(group.values()))
    models = {name: inputs.model for name, inputs in group.items()}
    try:
        findings = audit_all(models, one.data, one.request, one.original, one.references, progress=silent)
    except InputError as error:
        if len(group) == 1:
            return {name: Found(REFUSED, "", str(error)) for name in group}
        names = list(group)  # one model is refused: find it by halves
        halves = names[: len(names) // 2], names[len(names) // 2 :]
        return {name: found for half in halves for name, found in _audited({k: group[k] for k in half}).items()}
    return {name: Found(finding.verdict, finding.where, finding.reason) for name, finding in findings.items()}


def verdicts_held_out(on: Stage) -> Counter[str]:
    """Verdicts on every retrained model of the stage in turn, each audited beside all the others."""
    one = on.inputs(on.retrained)
    models = {MODEL: one.model}
    scores = audit_all(models, one.data, one.request, one.original, one.references, progress=silent)[MODEL].scores
    honest = {name: said for name, said in scores.models.items() if name != ORIGINAL}
    return Counter(_verdict_beside_the_others(scores, name, list(honest)) for name in honest)


def _verdict_beside_the_others(scores: Scores, name: str, honest: list[str]) -> str:
    others = [other for other in honest if other != name]
    roles = {MODEL: name, ORIGINAL: ORIGINAL} | {reference_name(at): other for at, other in enumerate(others)}
    return judge(scores.recast(roles), seed=0).ruling.verdict
