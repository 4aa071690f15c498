"""What `verdict.json` holds: a judgement, and all that it rests on, as JSON values."""

import base64
import io
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rasura.auditing import MEMBERSHIP, Judgement, Probe, Scores, roc_curves
from rasura.auditing.illustrations import heat_maps, spatial_stage
from rasura.data import Data, ForgetClasses, Request, are_images, describe, hash_of_data
from rasura.models import card_of, hash_of_model

FORMAT = 2
PICTURES = 8
"""Forget images that a finding shows, at most."""
SHOWN = ("original", "model", "reference 1")
"""Models whose maps and heat maps are shown."""
EDIT_KEYS = {"operator", "edit", "rank", "alpha", "removed", "separability", "mean", "skipped"}
"""What a method's record must say of a linear map for the page to draw it (see `rasura.methods.damp`)."""


def judged(judgement: Judgement, scores: Scores) -> dict[str, Any]:
    """What follows from the scores."""
    ruling = judgement.ruling
    return {
        "verdict": ruling.verdict,
        "where": ruling.where,
        "reason": ruling.reason,
        "qualifiers": list(judgement.qualifiers),
        "gates": [asdict(gate) for gate in judgement.gates],
        "outputs": judgement.outputs,
        "comparisons": [one.to_json() for one in judgement.comparisons],
        "retain": [one.to_json() for one in judgement.retain],
        "routing": judgement.routing,
        "membership": _membership(judgement, scores),
    }


def _membership(judgement: Judgement, scores: Scores) -> dict[str, Any] | None:
    if not scores.members:
        return None
    pairs = len(next(iter(scores.members.values())).labels)
    rows = [{"signal": one.layer, **one.to_json()} for one in judgement.membership if one.decoder == MEMBERSHIP]
    return {"members": pairs, "non_members": pairs, "rows": rows, **roc_curves(scores.members)}


def about(
    name: str,
    data: Data,
    request: Request,
    probe: Probe,
    scores: Scores,
    models: Mapping[str, nn.Module],
    settings: dict[str, Any],
) -> dict[str, Any]:
    """What was asked, of which models, on which examples."""
    kind = "classes" if isinstance(request, ForgetClasses) else "samples"
    return {
        "format": FORMAT,
        "name": name,
        "goal": settings["goal"],
        "request": {
            "kind": kind,
            "forget": describe(request, data),
            "classes": list(probe.forget_classes),
            "samples": None if isinstance(request, ForgetClasses) else len(request.indices),
        },
        "data": {
            "name": data.name,
            "classes": list(data.classes),
            "held_out": len(probe.labels),
            "held_out_forget": int(probe.forget.sum()),
            "overlap_left_out": probe.overlap,
        },
        "pictures": _pictures(probe, scores, data, models),
        "models": {role: _record(model) for role, model in models.items()},
        "provenance": {
            "data_hash": hash_of_data(data),
            "models": {role: hash_of_model(model) for role, model in models.items()},
        },
        "settings": settings,
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    import rasura

    return {
        "rasura": rasura.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def _record(model: nn.Module) -> dict[str, Any]:
    card = card_of(model)
    return {
        "type": type(model).__name__,
        "architecture": card.architecture,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "trained_on": card.data,
        "training": card.training,
        "history": [_entry(entry) for entry in card.history],
        "edits": _edits(card.history),
    }


def _entry(entry: dict[str, Any]) -> dict[str, Any]:
    """A forgetting, with what its adapters or neurons did and which weights were tried, if it had any."""
    told = {key: entry.get(key) for key in ("method", "settings", "request")}
    details, search = entry.get("details"), entry.get("search", {})
    if isinstance(details, dict) and "residuals" in details:
        told["residuals"] = details["residuals"]
    if isinstance(details, dict) and "units" in details:
        told["neurons"] = {key: details[key] for key in ("units", "generator", "curves") if key in details}
    if search.get("field") == "gamma" and entry.get("method") == "rfa":
        tried = [one for one in search["trials"] if not one["error"]]
        parts = "forget_accuracy", "retain_accuracy"
        told["gamma_trials"] = [{"gamma": one["setting"], **{part: one[part] for part in parts}} for one in tried]
    return told


def _edits(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the last forgetting did to each linear map, if its method's record has a depth profile."""
    details = history[-1].get("details") if history else None
    found = details.get("operators") if isinstance(details, dict) else None
    return [one for one in found or [] if isinstance(one, dict) and one.keys() >= EDIT_KEYS]


def _pictures(probe: Probe, scores: Scores, data: Data, models: Mapping[str, nn.Module]) -> list[dict[str, Any]]:
    """A few forget images with every model's answer and what it looks at; none where the inputs are no images."""
    rows = probe.forget.nonzero()[:, 0]
    if not len(rows):
        return []
    chosen = rows[torch.linspace(0, len(rows) - 1, min(PICTURES, len(rows))).long()]
    stored = probe.examples.stored(chosen)
    if not are_images(stored) or stored.shape[1] not in (1, 3):
        return []
    answers = {
        model: next(one.predicted for one in said if one.decoder == "output") for model, said in scores.models.items()
    }
    inputs, labels = probe.examples.batch(chosen)
    heat = {}
    if isinstance(inputs, Tensor):  # a transform may make named inputs of images
        heat = {role: _heat(model, inputs, labels) for role, model in models.items() if role in SHOWN}
    return [
        {
            "example": int(probe.rows[row]),
            "label": data.classes[int(probe.labels[row])],
            "image": _data_uri(image),
            "answers": {model: data.classes[said[row]] for model, said in answers.items()},
            "heat": {role: drawn[at] for role, drawn in heat.items() if at in drawn},
        }
        for at, (row, image) in enumerate(zip(chosen.tolist(), stored, strict=True))
    ]


def _heat(model: nn.Module, inputs: Tensor, labels: Tensor) -> dict[int, str]:
    """Picture → where the score of its class comes from; empty for a net without maps, or without captum."""
    layer, drawn = spatial_stage(model, inputs), {}
    if layer is None:
        return {}
    for number in labels.unique().tolist():
        rows = (labels == number).nonzero()[:, 0]
        drawn |= zip(rows.tolist(), heat_maps(model, inputs[rows], number, layer), strict=False)
    return drawn


def _data_uri(image: Tensor) -> str:
    """`[C, H, W]` as a PNG in a data URI; floats are stretched to the full range."""
    from PIL import Image

    if image.dtype != torch.uint8:
        image = ((image - image.min()) / (image.max() - image.min()).clamp(min=1e-9) * 255).to(torch.uint8)
    pixels = image.permute(1, 2, 0).cpu().numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
