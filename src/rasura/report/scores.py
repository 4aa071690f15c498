"""The scores of a finding as rows: original, model and retrained models, with what lies beyond the margin."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from rasura.auditing import MODEL, ORIGINAL
from rasura.report.numbers import span

FORGET, RETAIN, LINEAR, AREA, RETAIN_PROBE = "forget", "retain", "linear", "area", "retain probe"
SAMPLES = "samples"
SUMMARY = {
    "classes": {
        FORGET: "Forget accuracy",
        RETAIN: "Retain accuracy",
        LINEAR: "Linear probe, head input",
        AREA: "Few-shot area",
    },
    SAMPLES: {
        "rmia": "Membership, RMIA",
        "attack": "Membership, attack",
        FORGET: "Forget accuracy",
        RETAIN: "Retain accuracy",
    },
}
"""The scores that the first table shows, with its headings, by kind of request."""

_OWN = "what the model itself answers"
_MAIN = {
    ("output", "output"): (FORGET, "Forget accuracy", _OWN),
    ("linear", "head input"): (LINEAR, "Linear probe, head input", "what its last features still tell"),
    ("few-shot area", "head input"): (AREA, "Few-shot area", "mean recall with few labels, over log n"),
}
_RETAIN = {
    ("output", "output"): (RETAIN, "Retain accuracy", _OWN),
    ("linear", "head input"): (RETAIN_PROBE, "Linear probe, head input", "what its last features still tell"),
}
RUNGS = {
    "output": ("Nothing changed", "what the model itself answers"),
    "unwrapped": ("Unwrapped", "code after the head taken away"),
    "bias": ("Bias", "one bias per class refitted"),
    "head swap": ("Head swap", "the original’s last layer put back"),
    "batch norm": ("Batch norm", "statistics taken anew on retained examples"),
    "prototype": ("Prototype", "their mean feature as the class’s row"),
    "few-shot": ("Few-shot head", "the last layer refitted"),
    "8 bits": ("8 bits", "weights rounded, no data needed"),
    "6 bits": ("6 bits", "weights rounded more"),
    "4 bits": ("4 bits", "weights rounded coarsely"),
    "linear stitch": ("Linear stitch", "a linear map in front of the original’s head"),
}
"""The rungs of the recovery ladder from cheap to costly: what the page calls them, and what is done."""
_FLAG = {"MASKED": "it comes back here", "NOT FORGOTTEN": "it never left"}
FEW = 50
"""Labels up to which a refitted head counts as a rung."""
READERS = {
    "linear": ("Linear", "logistic regression on standardised features"),
    "whitened linear": ("Linear, whitened", "finds what was scaled down"),
    "nearest neighbours": ("Nearest neighbours", "the five nearest examples vote"),
    "kernel machine": ("Kernel machine", "curved borders (RBF)"),
    "perceptron": ("Perceptron", "one hidden layer"),
    "shuffled labels": ("Control: shuffled labels", "must be near chance, or the decoders cannot be believed"),
}
"""The decoders at the head input: what the page calls them, and what they add."""
_ELSEWHERE = {
    ("few-shot area", "all stages"): ("Few labels, all stages", "mean over the stages in front of the head input"),
    ("readers of the logits", "output"): ("Readers of the logits", "mean of four: what the answers tell unsaid"),
}
SIGNALS = {
    "attack": ("Attack", "logistic regression on the four below (AUC)"),
    "rmia": ("RMIA", "likelihood beside the retrained models’ (AUC)"),
    "lira": ("LiRA", "log-odds in deviations from the retrained models’ (AUC)"),
    "loss": ("Loss", "members have the lower loss (AUC)"),
    "entropy": ("Entropy", "members get the surer answer (AUC)"),
    "margin": ("Margin", "the true class’s logit above the best other (AUC)"),
    "log-odds": ("Log-odds", "of the true class against all others (AUC)"),
    "features": ("Features", "logistic regression on the head’s inputs (AUC)"),
    "unwrapped": ("Unwrapped loss", "of the head’s own outputs (AUC)"),
    "head swap": ("Loss, head swapped", "under the original’s last layer (AUC)"),
}
"""The membership signals: what the page calls them, and how they tell."""


@dataclass(frozen=True)
class Row:
    """One score of the original, the model and the retrained models. Shares 0..1; None where there is none.

    Attributes:
        original: a point and, where known, the 95 % interval; so is `model`.
        references: mean and range.
        anchors: the same decoder on an untrained net and on raw inputs.
        mark: "above" or "below" where the model is surely so by more than the margin.
        flag: what the verdict says of this rung; empty if it says nothing.
    """

    label: str
    hint: str
    original: dict[str, float] | None = None
    model: dict[str, float] | None = None
    references: dict[str, float] | None = None
    excess: dict[str, float] | None = None
    margin: float | None = None
    anchors: dict[str, float] = field(default_factory=dict)
    mark: str = ""
    primary: bool = False
    flag: str = ""


def reference_roles(finding: dict[str, Any]) -> list[str]:
    """The names of the retrained models."""
    return [name for name in finding["outputs"] if name not in (MODEL, ORIGINAL)]


def main_rows(finding: dict[str, Any]) -> dict[str, Row]:
    """The scores of the main table by key; without references only the models' own accuracies."""
    rows = {}
    parts = ((_MAIN, finding["comparisons"], FORGET), (_RETAIN, finding["retain"], RETAIN))
    for labels, comparisons, part in parts:
        own = {name: finding["outputs"][name][part] for name in (ORIGINAL, MODEL)}
        key, label, hint = labels["output", "output"]
        rows[key] = Row(label, hint, own[ORIGINAL], own[MODEL])
        for one in comparisons:
            if (one["decoder"], one["layer"]) in labels and not one["shots"]:
                key, label, hint = labels[one["decoder"], one["layer"]]
                rows[key] = _row(label, hint, one, own if one["decoder"] == "output" else {})
    return rows | dict(_membership_rows(finding))


def absent(finding: dict[str, Any], rows: dict[str, Row]) -> list[str]:
    """What was not compared because some model lacks it; class requests only."""
    if finding["request"]["kind"] == SAMPLES:
        return []
    missing = [label for key, label, _ in _MAIN.values() if key not in rows]
    compared = {one["decoder"] for one in finding["comparisons"]}
    missing += [RUNGS[key][0] for key in ("bias", "head swap") if key not in compared]
    return [one.lower() for one in missing]


def ladder(finding: dict[str, Any]) -> list[Row]:
    """The rungs from cheap to costly; the one at which the verdict says that the class comes back is marked.

    A rung that decides without being comparable (code that retrained models do not have) stands there without numbers.
    """
    places = [one for one in finding["comparisons"] if one["decoder"] != "few-shot" or one["layer"] == "head input"]
    found = [one for decoder in RUNGS for one in places if one["decoder"] == decoder]
    most = max((one["shots"] for one in found if one["decoder"] == "few-shot" and one["shots"] <= FEW), default=0)
    found = [one for one in found if one["decoder"] != "few-shot" or 0 < one["shots"] == most]
    back = _return(finding, found)
    rows = []
    for decoder, (name, hint) in RUNGS.items():
        mine = [one for one in found if one["decoder"] == decoder]
        rows += [
            _row(_labelled(name, one["shots"]), hint, one, flag=_FLAG[finding["verdict"]] if one is back else "")
            for one in mine
        ]
        if not mine and _decides(finding, decoder):
            rows.append(Row(name, "only this model has it; see the verdict’s reason", flag=_FLAG[finding["verdict"]]))
    return rows if len(rows) > 1 else []


def readers(finding: dict[str, Any]) -> list[Row]:
    """What every decoder at the head input reads, then what is read at the stages and of the logits."""
    named = {(decoder, "head input"): said for decoder, said in READERS.items()} | _ELSEWHERE
    return [
        replace(
            _row(name, hint, one), anchors={key: share for key, share in one["anchors"].items() if share is not None}
        )
        for place, (name, hint) in named.items()
        for one in finding["comparisons"]
        if (one["decoder"], one["layer"]) == place
    ]


def answer_rows(finding: dict[str, Any]) -> list[Row]:
    """Three more scores of the models' own answers."""
    meaning = {
        "forget_logit_auroc": ("Forget-logit AUROC", "forget from retained by the score; 50% cannot tell"),
        "selectivity": ("Selectivity", "drop on forget minus drop on retain"),
        "calibration_error": ("Calibration error", "between confidence and accuracy"),
    }
    rows = []
    for key, (label, hint) in meaning.items():
        values = {name: one.get(key) for name, one in finding["outputs"].items()}
        if values[MODEL] is None:
            continue
        original = values[ORIGINAL]
        known = [value for name in reference_roles(finding) if (value := values[name]) is not None]
        rows.append(
            Row(label, hint, None if original is None else {"point": original}, {"point": values[MODEL]}, span(known))
        )
    return rows


def membership(finding: dict[str, Any]) -> list[Row]:
    """How well each signal tells forgotten training examples from unseen ones."""
    return [row for _, row in _membership_rows(finding)]


def _membership_rows(finding: dict[str, Any]) -> Iterator[tuple[str, Row]]:
    for one in (finding["membership"] or {}).get("rows", []):
        label, hint = SIGNALS.get(one["signal"], (one["signal"], "AUC"))
        yield (
            one["signal"],
            Row(
                label=label,
                hint=hint,
                original=None if one["original"] is None else {"point": one["original"]},
                model={"point": one["model"]},
                references=span(one["references"]),
                excess=one["excess"],
                margin=one["margin"],
                mark=_mark(one),
                primary=one["primary"],
            ),
        )


def _row(
    label: str, hint: str, one: dict[str, Any], own: dict[str, dict[str, float]] | None = None, flag: str = ""
) -> Row:
    own = own or {}
    return Row(
        label=label,
        hint=hint,
        original=own.get(ORIGINAL, {"point": one["original"]}),
        model=own.get(MODEL, {"point": one["model"]}),
        references=one["reference_summary"],
        excess=one["excess"],
        margin=one["margin"],
        mark=_mark(one),
        primary=one["primary"],
        flag=flag,
    )


def _mark(one: dict[str, Any]) -> str:
    return "above" if one["above"] else "below" if one["below"] else ""


def _labelled(name: str, shots: int) -> str:
    return f"{name}, {shots} label{'s' * (shots > 1)}" if shots else name


def _decides(finding: dict[str, Any], decoder: str) -> bool:
    """Whether the verdict says that the class comes back by this change, or never left."""
    return finding["verdict"] in _FLAG and finding["where"].split(" of ")[0].startswith(decoder)


def _return(finding: dict[str, Any], rungs: list[dict[str, Any]]) -> dict[str, Any] | None:
    decisive = [one for one in rungs if _decides(finding, one["decoder"])]
    return next((one for one in decisive if one["above"]), decisive[0] if decisive else None)


def headline(finding: dict[str, Any], rows: dict[str, Row], rungs: list[Row]) -> list[Row]:
    """The few scores that the verdict page shows, in plain words."""
    shown = [replace(row, label="Told from unseen ones", hint=row.label) for row in membership(finding) if row.primary]
    if FORGET in rows:
        shown.append(replace(rows[FORGET], label="Asked directly", hint="forget accuracy"))
    changes = [row for row in rungs[1:] if row.model and row.excess]
    if changes and finding["request"]["kind"] != SAMPLES:
        largest = next((row for row in changes if row.flag), max(changes, key=_excess))
        shown.append(replace(largest, label="After one change", hint=largest.label.lower()))
    if LINEAR in rows:
        shown.append(replace(rows[LINEAR], label="Read from inside", hint="linear probe, head input"))
    shown.append(replace(rows[RETAIN], label="Still right on the rest", hint="retain accuracy"))
    return shown


def _excess(row: Row) -> float:
    return row.excess["point"] if row.excess else 0.0
