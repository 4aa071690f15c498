"""`page`: from what `verdict.json` holds to one HTML page that opens offline."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from rasura.auditing import MODEL, ORIGINAL, VERDICTS
from rasura.errors import InputError

if TYPE_CHECKING:
    from jinja2 import Environment

FORMAT = 1
FORGET, RETAIN, LINEAR, AREA, RETAIN_PROBE = "forget", "retain", "linear", "area", "retain probe"
SUMMARY = {
    FORGET: "Forget accuracy",
    RETAIN: "Retain accuracy",
    LINEAR: "Linear probe, head input",
    AREA: "Few-shot area",
}
"""The scores that the first table shows, with its headings."""
RUNGS = {
    "output": "nothing changed",
    "unwrapped": "unwrapped",
    "bias": "bias refitted",
    "head swap": "head swapped",
}

_LABELS = {
    ("output", "output"): (FORGET, "Forget accuracy", "what the model itself answers"),
    ("linear", "head input"): (LINEAR, "Linear probe, head input", "what its last features still tell"),
    ("few-shot area", "head input"): (AREA, "Few-shot area", "mean recall with few labels, over log n"),
    ("unwrapped", "output"): ("unwrapped", "Unwrapped", "code after the head taken away"),
    ("bias", "output"): ("bias", "Bias", "one bias per class refitted"),
    ("head swap", "head input"): ("head swap", "Head swap", "the original’s last layer put back"),
}
_RETAIN_LABELS = {
    ("output", "output"): (RETAIN, "Retain accuracy", "what the model itself answers"),
    ("linear", "head input"): (RETAIN_PROBE, "Linear probe, head input", "what its last features still tell"),
}
_GROUPS = (
    ("To be forgotten", (FORGET, LINEAR, AREA)),
    ("To be forgotten, after a cheap change", ("unwrapped", "bias", "head swap")),
    ("To be kept", (RETAIN, RETAIN_PROBE)),
)

_NEXT = {
    "INVALID": "Repair what the failed gate names, then audit again. Until then nothing is known about this model.",
    "NOT FORGOTTEN": "Do not treat the request as fulfilled: run a method that forgets, or retrain without the class.",
    "DAMAGED": "Do not put it to use: forget with a milder setting, or retrain without the class.",
    "MASKED": "Do not treat the request as fulfilled where others can get at the weights: use a method that changes "
    "the features, or retrain without the class.",
    "RESIDUAL": "The answers are silent, the inside is not: use a stronger method, or retrain without the class.",
    "OVER-ERASED": "What was removed can be told from how the model now behaves: forget with a milder setting, or "
    "retrain without the class.",
    "INCONCLUSIVE": "Neither “erased” nor “kept” is shown. Give more retrained models (five are advised) or more "
    "held-out examples, then audit again.",
    "ERASED": "Within the stated margin it is as a model that never saw the class. Keep this page and verdict.json "
    "with the model as the record.",
}
"""What to do on each verdict."""


def page(findings: Sequence[dict[str, Any]]) -> str:
    """One self-contained HTML page for one finding, or for several of the same request.

    Args:
        findings: what `verdict.json` holds, one dict per audited model.

    Raises:
        InputError: no findings, findings of another format, or of different requests.
    """
    _check(findings)
    environment = _environment()
    sections = [_section(finding, f"model-{number}") for number, finding in enumerate(findings, 1)]
    return environment.from_string(_asset("page.html")).render(
        style=_asset("page.css"),
        first=findings[0],
        sections=sections,
        summary=SUMMARY,
        anchors=_anchors(sections),
        erased=[section for section in sections if section["finding"]["verdict"] == "ERASED"],
        seen="images" if any(finding["pictures"] for finding in findings) else "examples",
    )


def _check(findings: Sequence[dict[str, Any]]) -> None:
    if not findings:
        raise InputError("findings: none given; allowed: at least one")
    for finding in findings:
        if finding.get("format") != FORMAT:
            raise InputError(f"findings: format {finding.get('format')!r}; allowed: {FORMAT}")
        if finding["verdict"] not in VERDICTS:
            raise InputError(f"findings: verdict {finding['verdict']!r}; allowed: {', '.join(VERDICTS)}")
    requests = list(dict.fromkeys(f"{one['request']['forget']} of {one['data']['name']}" for one in findings))
    if len(requests) > 1:
        raise InputError(f"findings: different requests ({'; '.join(requests)}); allowed: one request on a page")


def _environment() -> "Environment":
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "percent": _percent,
        "points": _points,
        "position": _position,
        "words": _words,
        "slug": lambda verdict: verdict.lower().replace(" ", "-"),
        "role": _role,
    }
    return environment


def _asset(name: str) -> Any:
    from markupsafe import Markup

    text = files("rasura.report").joinpath(name).read_text(encoding="utf-8")
    return Markup(text) if name.endswith(".css") else text


@dataclass(frozen=True)
class _Row:
    """One score of the original, the model and the retrained models. Shares 0..1; None where there is none.

    `original` and `model` hold a point and, where known, the 95 % interval; `references` mean and range; `mark` is
    "above" or "below" where the model is surely so by more than the margin.
    """

    label: str
    hint: str
    original: dict[str, float]
    model: dict[str, float]
    references: dict[str, float] | None = None
    excess: dict[str, float] | None = None
    margin: float | None = None
    mark: str = ""
    primary: bool = False


def _section(finding: dict[str, Any], anchor: str) -> dict[str, Any]:
    rows = _rows(finding)
    return {
        "finding": finding,
        "anchor": anchor,
        "meaning": VERDICTS[finding["verdict"]],
        "next": _NEXT[finding["verdict"]],
        "rows": rows,
        "groups": [(name, [rows[key] for key in keys if key in rows]) for name, keys in _GROUPS],
        "absent": [label.lower() for key, label, _ in _LABELS.values() if key not in rows],
        "figures": _figures(finding, anchor),
        "pictures": [one for one in finding["pictures"] if _is_picture(one["image"])],
        "references": _references(finding),
        "failed": [gate for gate in finding["gates"] if not gate["passed"]],
        "classes": _classes(finding),
    }


def _rows(finding: dict[str, Any]) -> dict[str, _Row]:
    """The scores of the main table; without references only the models' own accuracies."""
    rows = {}
    for labels, comparisons, part in (
        (_LABELS, finding["comparisons"], FORGET),
        (_RETAIN_LABELS, finding["retain"], RETAIN),
    ):
        own = {role: finding["outputs"][role][part] for role in (ORIGINAL, MODEL)}
        key, label, hint = labels["output", "output"]
        rows[key] = _Row(label, hint, own[ORIGINAL], own[MODEL])
        for one in comparisons:
            if (one["decoder"], one["layer"]) in labels and not one["shots"]:
                key, label, hint = labels[one["decoder"], one["layer"]]
                rows[key] = _row(label, hint, one, own if one["decoder"] == "output" else {})
    return rows


def _row(label: str, hint: str, one: dict[str, Any], own: dict[str, dict[str, float]]) -> _Row:
    return _Row(
        label=label,
        hint=hint,
        original=own.get(ORIGINAL, {"point": one["original"]}),
        model=own.get(MODEL, {"point": one["model"]}),
        references=one["reference_summary"],
        excess=one["excess"],
        margin=one["margin"],
        mark="above" if one["above"] else "below" if one["below"] else "",
        primary=one["primary"],
    )


def _anchors(sections: list[dict[str, Any]]) -> dict[str, Any]:
    """Original and retrained models over all findings: one mean and one range, also if references differ."""
    original, retrained = {}, {}
    for key in SUMMARY:
        rows = [section["rows"][key] for section in sections if key in section["rows"]]
        original[key] = _span([row.original["point"] for row in rows])
        given = [row.references for row in rows if row.references]
        ends = _span([end for one in given for end in (one["low"], one["high"])])
        retrained[key] = ends and ends | {"mean": sum(one["mean"] for one in given) / len(given)}
    count = sorted({len(section["references"]) for section in sections})
    return {"original": original, "retrained": retrained, "count": count}


def _span(values: list[float]) -> dict[str, float] | None:
    return {"mean": sum(values) / len(values), "low": min(values), "high": max(values)} if values else None


def _figures(finding: dict[str, Any], anchor: str) -> list[dict[str, Any]]:
    """The four figures, each with how to read it; `svg` is None where there was nothing to compare with."""
    from markupsafe import Markup

    from rasura.report import figures

    drawn = (
        (
            "Layer by layer",
            figures.layer_profile(finding, f"{anchor}-layers"),
            "how well a linear probe reads the class at each stage, from input to output. Where this model’s line runs "
            "in the retrained band, the stage tells no more than if the class had never been seen.",
        ),
        (
            "With few labels",
            figures.few_shot_curve(finding, f"{anchor}-shots"),
            "the last layer is refitted with n labels of the class. A line above the retrained band means that fewer "
            "labels bring the class back than in a model that never saw it.",
        ),
        (
            "After a cheap change",
            figures.recovery_ladder(finding, RUNGS, f"{anchor}-ladder"),
            "each row is one easy change to the model. A bar far beyond the retrained one means that the class was "
            "hidden, not erased.",
        ),
        (
            "Where the forgotten class goes",
            figures.routing(finding, f"{anchor}-routing"),
            "which class the model names instead. Bars as long as the retrained ones: it answers like a model that "
            "never saw the class.",
        ),
    )
    return [{"title": title, "svg": svg and Markup(svg), "how": how} for title, svg, how in drawn]


def _classes(finding: dict[str, Any]) -> list[dict[str, Any]]:
    """Accuracy and share of the answers on forget examples, class by class."""
    outputs, shares, references = finding["outputs"], finding["routing"]["shares"], _references(finding)
    return [
        {
            "name": name,
            "forget": number in finding["request"]["classes"],
            "accuracy": [outputs[role]["per_class"][number] for role in (ORIGINAL, MODEL)],
            "accuracy_retrained": _span([outputs[role]["per_class"][number] for role in references]),
            "share": [shares[role][number] for role in (ORIGINAL, MODEL)],
            "share_retrained": _span([shares[role][number] for role in references]),
        }
        for number, name in enumerate(finding["data"]["classes"])
    ]


def _references(finding: dict[str, Any]) -> list[str]:
    return [role for role in finding["outputs"] if role not in (MODEL, ORIGINAL)]


def _is_picture(text: str) -> bool:
    """Whether the browser needs nothing but the page to show it."""
    return re.fullmatch(r"data:image/(png|jpeg|gif|webp);base64,[A-Za-z0-9+/=]+", text) is not None


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}%"


def _points(share: float | None, sign: str = "+") -> str:
    """A difference of shares in points, with a minus sign that is as wide as the plus."""
    if share is None:
        return "–"
    text = f"{100 * share:{sign}.1f}"
    return ("0.0" if text in ("+0.0", "-0.0") else text).replace("-", "−")


def _position(share: float) -> str:
    """A share as a length for a style attribute."""
    return f"{100 * min(max(share, 0.0), 1.0):.1f}%"


def _words(value: Any) -> str:
    """JSON values as a line of text."""
    if isinstance(value, dict):
        return ", ".join(
            f"{key} ({_words(one)})" if isinstance(one, dict) and one else f"{key} {_words(one)}"
            for key, one in value.items()
        )
    if isinstance(value, list):
        return ", ".join(_words(one) for one in value)
    return "none" if value is None else str(value)


def _role(name: str) -> str:
    """What the page calls a model: "this model", "original", "retrained 1"."""
    return "this model" if name == MODEL else name.replace("reference", "retrained")
