"""Findings to make pages of: what `verdict.json` holds, with plausible numbers, from the least to all that there is."""

import base64
import copy
import io
from typing import Any

import numpy as np
from PIL import Image

REFERENCES = ("reference 1", "reference 2", "reference 3")


def picture() -> str:
    """A data URI as `rasura.finding` writes it."""
    buffer = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def estimate(point: float, half: float = 0.02) -> dict[str, float]:
    return {"point": point, "low": round(point - half, 5), "high": round(point + half, 5)}


def comparison(decoder: str, layer: str, model: float, shots: int = 0, **changes: Any) -> dict[str, Any]:
    """A model between an original at 0.9012 and references around a third of the model's score."""
    references = [round(model / 3 + step, 5) for step in (-0.0123, 0.0, 0.0234)]
    mean = round(sum(references) / 3, 5)
    made = {
        "decoder": decoder,
        "layer": layer,
        "shots": shots,
        "original": 0.9012,
        "model": model,
        "references": references,
        "reference_summary": {"mean": mean, "spread": 0.018, "low": min(references), "high": max(references)},
        "excess": estimate(model - mean, 0.031),
        "gap": estimate(0.9012 - mean, 0.027),
        "margin": 0.0567,
        "equivalence_margin": 0.0321,
        "resolved": True,
        "residual_index": 0.4321,
        "primary": False,
        "above": False,
        "below": False,
    }
    return made | changes


def provenance(method: str | None = None) -> dict[str, Any]:
    history = [{"method": method, "settings": {"energy": 0.987}, "request": {"forget": "cat", "classes": [1]}}]
    return {
        "type": "Net",
        "architecture": "tinynet",
        "parameters": 12345,
        "trained_on": "pets",
        "training": {"recipe": {"epochs": 7}, "seed": 11, "without": []},
        "history": history if method else [],
    }


def finding(**changes: Any) -> dict[str, Any]:
    """What `verdict.json` holds after an audit with three references; `changes` replace its top-level entries."""
    classes = ["dog", "cat", "wolf", "fox"]
    shares = {
        "model": [0.5123, 0.0, 0.3877, 0.1],
        "original": [0.02, 0.9, 0.05, 0.03],
        "reference 1": [0.6, 0.0, 0.3, 0.1],
        "reference 2": [0.6123, 0.0, 0.2877, 0.1],
        "reference 3": [0.64, 0.0, 0.26, 0.1],
    }
    outputs = {
        role: {
            "forget": estimate(0.9012 if role == "original" else 0.0456),
            "retain": estimate(round(0.8765 + number / 1000, 5)),
            "per_class": [0.81 + number / 100, 0.0, 0.92, 0.87],
        }
        for number, role in enumerate(shares)
    }
    made = {
        "format": 2,
        "name": "damp",
        "verdict": "MASKED",
        "where": "bias",
        "reason": "Refitting one bias per class brings the class back.",
        "qualifiers": [],
        "goal": "retrain-equivalent",
        "request": {"kind": "classes", "forget": "cat", "classes": [1], "samples": None},
        "data": {"name": "pets", "classes": classes, "held_out": 4000, "held_out_forget": 1000, "overlap_left_out": 5},
        "gates": [
            {
                "name": "the original knows the class",
                "passed": True,
                "found": "forget accuracy 90.1%",
                "allowed": "at least 30%",
                "remedy": "give the model that was trained with the class",
            }
        ],
        "outputs": outputs,
        "comparisons": [
            comparison("output", "output", 0.0456),
            comparison("linear", "layer1", 0.3345),
            comparison("linear", "head input", 0.7654, primary=True, below=True),
            *[comparison("few-shot", "head input", 0.1 + shots / 200, shots) for shots in (1, 2, 5, 10)],
            comparison("few-shot", "head input", 0.777),
            comparison("few-shot area", "head input", 0.2468, primary=True, above=True),
            comparison("unwrapped", "output", 0.1357),
            comparison("bias", "output", 0.8642, above=True),
            comparison("head swap", "head input", 0.5791, resolved=False, residual_index=None),
        ],
        "retain": [
            comparison("output", "output", 0.8765, original=0.8775),
            comparison("linear", "head input", 0.8111),
        ],
        "routing": {"shares": shares, "distance": 0.1234, "band": 0.1012, "outside": True},
        "pictures": [
            {
                "example": example,
                "label": "cat",
                "image": picture(),
                "answers": {"model": "dog", "original": "cat"} | dict.fromkeys(REFERENCES, "wolf"),
            }
            for example in (17, 23, 42)
        ],
        "models": {"model": provenance("damp"), "original": provenance()}
        | dict.fromkeys(REFERENCES, provenance("retrain")),
        "settings": {"seed": 3},
        "versions": {"rasura": "0.1.0", "torch": "2.13.0", "numpy": "2.4.6", "python": "3.11.7"},
        "seconds": 16.59,
    }
    return copy.deepcopy(made | changes)


def without_references() -> dict[str, Any]:
    """What an audit finds that was given the original and the model only."""
    made = finding(
        verdict="INCONCLUSIVE",
        where="",
        qualifiers=["provisional"],
        reason="No retrained model was given.",
        comparisons=[],
        retain=[],
    )
    for role in REFERENCES:
        del made["outputs"][role], made["models"][role], made["routing"]["shares"][role]
        for one in made["pictures"]:
            del one["answers"][role]
    made["routing"] |= {"distance": None, "band": None, "outside": False}
    return made


ROLES = ("original", "model", "reference 1")
"""The models that maps and heat maps show."""
CURVE = (
    (1, 0.12, 0.1),
    (2, 0.2, 0.16),
    (5, 0.4, 0.3),
    (10, 0.55, 0.3),
    (20, 0.7, 0.2),
    (50, 0.8, 0.1),
    (100, 0.86, 0.05),
    (0, 0.9, 0.04),
)
"""Labels, recall of the original, and how far the retrained models lie below."""
LAYERS = ("conv1", "layer1", "layer2", "layer3", "head input")


def full_finding(seed: int = 0, **changes: Any) -> dict[str, Any]:
    """Every block of a class request, on ten classes; `changes` replace its top-level entries."""
    made = enriched(_plain(seed), seed)
    made["models"]["model"]["edits"] = edit_record()
    return made | copy.deepcopy(changes)


def edit_record() -> list[dict[str, Any]]:
    """What a closed-form method says of four linear maps: two left alone, one projected, the head's rows replaced."""

    def entry(operator: str, separability: float, **changes: Any) -> dict[str, Any]:
        nothing = {"edit": "", "rank": 0, "alpha": 0.0, "removed": 0.0, "mean": "", "skipped": "too early in the net"}
        return {"operator": operator, "separability": separability, **nothing} | changes

    return [
        entry("stem.conv", 0.25),
        entry("layer<1>", 0.25, skipped="its weight is shared with stem.conv"),
        entry("layer2", 0.75, edit="project", rank=3, alpha=0.51, removed=0.1234, mean="bias", skipped=""),
        entry("head", 1.0, edit="retire", removed=0.4321, skipped=""),
    ]


def sample_finding(seed: int = 0, **changes: Any) -> dict[str, Any]:
    """What an audit of 312 examples holds: membership first, no decoders of classes."""
    made = enriched(_plain(seed), seed)
    made |= {
        "verdict": "RESIDUAL",
        "where": "membership, rmia",
        "reason": "RMIA tells the examples from unseen ones with an AUC of 68.0%; retrained 50.3%.",
        "request": {"kind": "samples", "forget": "312 examples", "classes": [], "samples": 312},
        "comparisons": [one for one in made["comparisons"] if one["decoder"] == "output"],
        "routing": None,
        "heads": None,
        "geometry": None,
    }
    for row in made["membership"]["rows"]:
        row["primary"] = row["signal"] == "rmia"
    return made | copy.deepcopy(changes)


def enriched(base: dict[str, Any], seed: int = 0) -> dict[str, Any]:
    """A finding with references, and every block that it may have besides."""
    random = np.random.default_rng(seed)
    made: dict[str, Any] = copy.deepcopy(base) | {"format": 2}
    made["request"] = {"kind": "classes", "samples": None} | made["request"]
    roles = [role for role in made["outputs"] if role != "original"]
    roles = ["original", "model", *(role for role in roles if role != "model")]
    for role in roles:
        made["outputs"][role] |= {
            "calibration_error": _number(random, 0.04, 0.01),
            "forget_logit_auroc": {"original": 0.99, "model": 0.93}.get(role, _number(random, 0.62, 0.03)),
            "selectivity": 0.0 if role == "original" else _number(random, 0.83, 0.02),
        }
    made["routing"] |= {"jensen_shannon": 0.0312, "jensen_shannon_band": 0.0214}
    made["comparisons"] = [*_with_anchors(made["comparisons"], random), *_more_comparisons(random)]
    made["heads"] = {role: _head(random, made, role == "model") for role in roles}
    made["geometry"] = _geometry(random, len(roles) - 2)
    made["membership"] = _membership(random, roles)
    made["maps"] = _maps(random, made)
    made["on_request"] = _on_request(random, roles)
    for one in made["pictures"]:
        one.setdefault("heat", dict.fromkeys(ROLES, one["image"]))
    made["provenance"] = {
        "data_hash": "5d41402abc4b2a76b9719d911017c592",
        "models": {role: f"{at:032x}" for at, role in enumerate(roles, 0xABCDEF)},
        "command": "rasura audit runs/damp --data pets --forget cat --original runs/original",
    }
    made["seconds_per_block"] = {"features": 6.1, "decoders": 21.4, "ladder": 9.7, "maps": 4.2}
    return made


def _plain(seed: int) -> dict[str, Any]:
    """Ten classes and the rungs, stages and shots of a usual net."""
    random = np.random.default_rng(seed)
    made: dict[str, Any] = finding()
    classes = ["dog", "cat", "wolf", "fox", "lynx", "bear", "otter", "badger", "hare", "marten"]
    made["data"]["classes"] = classes
    for role, output in made["outputs"].items():
        output["per_class"] = random.uniform(0.8, 0.97, 10).round(5).tolist()
        output["per_class"][1] = 0.91 if role == "original" else 0.0
        others = random.dirichlet([8, 0.1, 14, 2, 1, 0.3, 0.3, 0.3, 0.3, 0.3])
        others[1] = 0
        mixed = others / others.sum() * (0.09 if role == "original" else 1)
        mixed[1] = 1 - mixed.sum()
        made["routing"]["shares"][role] = mixed.round(5).tolist()
    depth = {"conv1": 0.36, "layer1": 0.71, "layer2": 0.8, "layer3": 0.87, "head input": 0.87}
    made["comparisons"] = [
        _compared(random, "output", "output", 0.91, 0.045, 0.0, above=True),
        *(
            _compared(random, "linear", layer, share, share - 0.01, share - 0.05, primary=layer == "head input")
            for layer, share in depth.items()
        ),
        *(
            _compared(random, "few-shot", "head input", share, share - 0.02, share - less, shots=shots)
            for shots, share, less in CURVE
        ),
        _compared(random, "few-shot area", "head input", 0.5, 0.48, 0.33, primary=True, above=True),
        _compared(random, "bias", "output", 0.9, 0.87, 0.28, above=True),
        _compared(random, "head swap", "head input", 0.91, 0.64, 0.06, above=True),
    ]
    made["retain"] = [
        _compared(random, "output", "output", 0.8775, 0.8765, 0.88),
        _compared(random, "linear", "head input", 0.89, 0.885, 0.884),
    ]
    return made


def _compared(
    random: np.random.Generator,
    decoder: str,
    layer: str,
    original: float,
    model: float,
    retrained: float,
    shots: int = 0,
    **changes: Any,
) -> dict[str, Any]:
    """A comparison whose summary, excess and gap follow from its scores."""
    references = [min(max(_number(random, retrained, 0.02), 0.0), 1.0) for _ in REFERENCES]
    mean, spread = round(float(np.mean(references)), 5), round(float(np.std(references, ddof=1)), 5)
    return comparison(decoder, layer, model, shots) | {
        "original": original,
        "references": references,
        "reference_summary": {"mean": mean, "spread": spread, "low": min(references), "high": max(references)},
        "excess": estimate(round(model - mean, 5), 0.06),
        "gap": estimate(round(original - mean, 5), 0.06),
        "margin": round(max(0.05, 5 * spread), 5),
        "residual_index": round((model - mean) / (original - mean), 4) if original != mean else None,
        **changes,
    }


def _with_anchors(found: list[dict[str, Any]], random: np.random.Generator) -> list[dict[str, Any]]:
    none = {"random net": None, "raw inputs": None}
    linear = {"raw inputs": 0.421}
    return [
        one | {"anchors": linear | {"random net": _number(random, 0.38, 0.02)} if one["decoder"] == "linear" else none}
        for one in found
    ]


def _more_comparisons(random: np.random.Generator) -> list[dict[str, Any]]:
    readers = [
        _compared(random, decoder, "head input", original, model, retrained)
        | {"anchors": {"random net": _number(random, 0.4, 0.03), "raw inputs": _number(random, 0.5, 0.03)}}
        for decoder, original, model, retrained in (
            ("whitened linear", 0.88, 0.88, 0.82),
            ("nearest neighbours", 0.86, 0.85, 0.7),
            ("kernel machine", 0.9, 0.89, 0.83),
            ("perceptron", 0.89, 0.89, 0.82),
            ("shuffled labels", 0.1, 0.11, 0.1),
        )
    ]
    rungs = [
        _compared(random, "batch norm", "output", 0.9, 0.06, 0.0),
        *(
            _compared(random, "prototype", "head input", share, share - 0.02, share - 0.3, shots)
            for shots, share in ((1, 0.6), (5, 0.63), (10, 0.66), (50, 0.85))
        ),
        _compared(random, "linear stitch", "head input", 0.9, 0.83, 0.2, above=True),
        *(_compared(random, bits, "output", 0.9, 0.05, 0.0) for bits in ("8 bits", "6 bits", "4 bits")),
    ]
    none = {"random net": None, "raw inputs": None}
    return [*readers, *(one | {"anchors": none} for one in rungs)]


def _head(random: np.random.Generator, made: dict[str, Any], forgets: bool) -> dict[str, Any]:
    classes, forget = len(made["data"]["classes"]), made["request"]["classes"]
    bias, alignment = random.normal(0, 0.4, classes), random.normal(0.7, 0.05, classes)
    bias[forget] -= 4 * forgets
    alignment[forget] -= 0.9 * forgets
    return {"effective_bias": bias.round(4).tolist(), "alignment": alignment.round(4).tolist()}


def _geometry(random: np.random.Generator, references: int) -> dict[str, Any]:
    def rows(middle: float, original: bool, **given: Any) -> list[dict[str, Any]]:
        return [
            given
            | {"layer": layer, "model": _number(random, middle, 0.04)}
            | {"references": [_number(random, middle - 0.05 * depth, 0.03) for _ in range(references)]}
            | ({"original": _number(random, middle + 0.05, 0.02)} if original else {})
            for depth, layer in enumerate(LAYERS)
        ]

    return {
        "layers": list(LAYERS),
        "similarity": [
            row
            for part in ("forget", "retain")
            for to, middle in (("original", 0.9), ("retrained", 0.75))
            for row in rows(middle, False, part=part, to=to)
        ],
        "agreement": [row for to in ("original", "retrained") for row in rows(0.85, False, to=to)],
        "purity": rows(0.55, True),
        "selectivity": rows(0.21, True),
    }


def _membership(random: np.random.Generator, roles: list[str]) -> dict[str, Any]:
    areas = {"loss": (0.61, 0.52), "attack": (0.63, 0.53), "rmia": (0.68, 0.5)}
    rates = np.linspace(0, 1, 60)
    powers = {"original": 0.35, "model": 0.55}
    return {
        "members": 312,
        "non_members": 300,
        "rows": [
            {
                "signal": signal,
                "original": round(model + 0.08, 4),
                "model": model,
                "references": [_number(random, retrained, 0.01) for _ in roles[2:]],
                "excess": estimate(round(model - retrained, 4), 0.04),
                "margin": 0.05,
                "equivalence_margin": 0.05,
                "above": True,
                "below": False,
                "primary": False,
            }
            for signal, (model, retrained) in areas.items()
        ],
        "true_positive_rate": {role: _number(random, 0.04, 0.01) for role in roles},
        "roc": {
            role: [[round(x, 4), round(float(x ** powers.get(role, 0.95)), 4)] for x in rates.tolist()]
            for role in roles
        },
    }


def _maps(random: np.random.Generator, made: dict[str, Any]) -> dict[str, Any]:
    classes = len(made["data"]["classes"])
    labels = [*([1] * 80), *(number for number in range(classes) if number != 1 for _ in range(120 // (classes - 1)))]
    homes = random.uniform(0.12, 0.88, (classes, 2))

    def stage(depth: int) -> list[list[float]]:
        spread = random.normal(0, 0.22 / (1 + depth), (len(labels), 2))
        return np.clip(homes[labels] + spread, 0, 1).round(2).tolist()

    return {
        "layers": list(LAYERS),
        "labels": labels,
        "forget": [label == 1 for label in labels],
        "points": {role: [stage(depth) for depth in range(len(LAYERS))] for role in ROLES},
    }


def _on_request(random: np.random.Generator, roles: list[str]) -> dict[str, Any]:
    steps = list(range(0, 110, 10))
    speed = {"original": 2.0, "model": 25.0}
    return {
        "relearn time": {
            "title": "Relearn time",
            "how": "training resumes on the class. A line that climbs sooner than the retrained: it was still there.",
            "x_label": "steps",
            "y_label": "recall, %",
            "curves": [
                {
                    "role": role,
                    "x": steps,
                    "y": [round(95 * (1 - float(np.exp(-step / speed.get(role, 45)))), 2) for step in steps],
                }
                for role in roles
            ],
            "rows": [],
        },
        "code length": {
            "title": "Code length",
            "how": "bits that it takes to send the labels with the features at hand: fewer means more readable.",
            "x_label": "",
            "y_label": "",
            "curves": [],
            "rows": [{"role": role, "value": _number(random, 412, 20)} for role in roles],
        },
    }


def _number(random: np.random.Generator, middle: float, spread: float) -> float:
    return round(float(random.normal(middle, spread)), 4)
