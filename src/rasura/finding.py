"""`rasura.audit`: measure models once, judge each beside the others, and hand out a finding that can be kept."""

import base64
import io
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rasura.auditing import (
    MODEL,
    ORIGINAL,
    SELF_TEST,
    Decoded,
    Gate,
    Judgement,
    Probe,
    Scores,
    judge,
    make_probe,
    measure,
    read_head,
    reference_name,
    self_test,
    write_scores,
)
from rasura.data import Data, Request, describe, resolve
from rasura.errors import check_seed
from rasura.files import write_json, write_whole
from rasura.methods.contract import check_fits
from rasura.models import card_of, complete
from rasura.progress import Progress, reporting
from rasura.training import predict

PICTURES = 8
"""Forget images that a finding shows, at most."""
FEW = 32
"""Examples that tell probabilities from logits."""


@dataclass(frozen=True, eq=False)
class Finding:
    """What an audit found of one model.

    Attributes:
        verdict: one of `rasura.VERDICTS`.
        where: the rung, layer or gate that decided; empty if none did.
        reason: the verdict's reason in plain words.
        qualifiers: such as "provisional" (fewer than three references).
        content: everything, as JSON values; this is what `verdict.json` holds.
        scores: what every decoder said of every example.
    """

    verdict: str
    where: str
    reason: str
    qualifiers: tuple[str, ...]
    content: dict[str, Any]
    scores: Scores

    def to_json(self, path: str | Path) -> None:
        """Write everything but the per-example scores."""
        write_json(Path(path), self.content)

    def to_parquet(self, path: str | Path) -> None:
        """Write the per-example scores, from which all the rest can be computed again."""
        write_scores(self.scores, Path(path))

    def to_html(self, path: str | Path) -> None:
        """Write one self-contained page."""
        from rasura.report import page

        write_whole(Path(path), page([self.content]).encode())

    def __repr__(self) -> str:
        extra = f" ({', '.join(self.qualifiers)})" if self.qualifiers else ""
        return f"{self.verdict}{extra}: {self.reason}"


def audit(
    model: nn.Module,
    data: Data,
    request: Request,
    original: nn.Module,
    references: Sequence[nn.Module] = (),
    seed: int = 0,
    progress: Progress | None = None,
) -> Finding:
    """Say what is left of a class in a model that is said to have forgotten it.

    Args:
        model: the model in question.
        data: its `test` part must have been kept out of training and unlearning; the audit decodes from it.
        request: what was to be forgotten.
        original: the model before forgetting.
        references: models trained without the class, from scratch, with other seeds. Three or more; without any the
            verdict is never ERASED.
        seed: of folds, draws and the bootstrap.
        progress: default: a bar on stderr.

    Raises:
        InputError: models that do not fit the data, a sample request, or too few held-out examples.
    """
    return audit_all({MODEL: model}, data, request, original, references, seed, progress)[MODEL]


def audit_all(
    models: Mapping[str, nn.Module],
    data: Data,
    request: Request,
    original: nn.Module,
    references: Sequence[nn.Module] = (),
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Finding]:
    """`audit` for several models by name; original and references are measured once."""
    check_seed(seed)
    with reporting(progress) as report:
        begun = time.perf_counter()
        lacking = resolve(request, data).forget_classes
        anchors = {ORIGINAL: _fitting(original, data)}
        anchors |= {reference_name(k): _fitting(one, data, lacking) for k, one in enumerate(references)}
        models = {name: _fitting(one, data, lacking) for name, one in models.items()}
        probe = make_probe(data, request, seed)
        head = read_head(original, probe)
        measured = {name: measure(one, probe, head, seed, report, f"audit: {name}") for name, one in anchors.items()}
        shared = time.perf_counter() - begun
        found, tested = {}, None
        for name, model in models.items():
            begun = time.perf_counter()
            same = next((at for at, one in anchors.items() if one is model), None)
            own = measured[same] if same else measure(model, probe, head, seed, report, f"audit: {name}")
            scores = _scores(probe, data, {MODEL: own} | measured)
            tested = self_test(scores, seed) if tested is None else tested  # of the anchors alone
            gates = (*_identity_gates(model, anchors), *_record_gates(anchors, request, data))
            judgement = judge(scores, seed, (*gates, *tested))
            seconds = shared + time.perf_counter() - begun
            found[name] = _finding(
                name, judgement, scores, data, request, probe, {MODEL: model} | anchors, seed, seconds
            )
    return found


def _fitting(model: nn.Module, data: Data, lacking: Sequence[int] = ()) -> nn.Module:
    """The model, checked, with logits of all classes; of those in `lacking` it may have no outputs."""
    check_fits(model, data, lacking)
    answers = predict(model, data.train.take(torch.arange(min(FEW, len(data.train)))))
    return complete(model, answers, len(data.classes), lacking)


def _scores(probe: Probe, data: Data, models: dict[str, list[Decoded]]) -> Scores:
    labels = probe.labels.to(torch.int16).numpy()
    return Scores(labels, probe.rows.numpy(), probe.forget_classes, data.classes, models)


def _identity_gates(model: nn.Module, anchors: dict[str, nn.Module]) -> Iterator[Gate]:
    """No reference may be the original, the model or another reference over again."""
    states = {MODEL: model.state_dict()} | {name: one.state_dict() for name, one in anchors.items()}
    names = list(states)
    for at, name in enumerate(names):
        if name in (MODEL, ORIGINAL):
            continue
        twin = next((other for other in names[:at] if _same(states[name], states[other])), None)
        yield Gate(
            f"{name} is a model of its own",
            twin is None,
            f"same weights as the {twin}" if twin else "different from all others",
            "different weights",
            "retrain it from scratch with another seed",
        )


def _record_gates(anchors: dict[str, nn.Module], request: Request, data: Data) -> Iterator[Gate]:
    """What references' own records say of how they came about: a masked original also answers like one."""
    forgotten = {data.classes[number] for number in resolve(request, data).forget_classes}
    for name, model in anchors.items():
        card = card_of(model)
        if name == ORIGINAL or not (card.history or card.training):
            continue
        methods = ", ".join(str(entry.get("method")) for entry in card.history)
        seen = sorted(forgotten - set(card.training.get("without", forgotten)))
        found = f"made by {methods}" if methods else f"trained with {', '.join(seen)}" if seen else "trained without it"
        yield Gate(
            f"{name} was trained from scratch without the class",
            not (methods or seen),
            found,
            "a model trained from scratch without the class",
            "retrain it: a model that was made to forget is no yardstick",
        )


def _same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(
        one[name].shape == two[name].shape and torch.equal(one[name].cpu(), two[name].cpu()) for name in one
    )


def _finding(
    name: str,
    judgement: Judgement,
    scores: Scores,
    data: Data,
    request: Request,
    probe: Probe,
    models: dict[str, nn.Module],
    seed: int,
    seconds: float,
) -> Finding:
    content = {
        "format": 1,
        "name": name,
        **_judged(judgement),
        "goal": "retrain-equivalent",
        "request": {"forget": describe(request, data), "classes": list(probe.forget_classes)},
        "data": {
            "name": data.name,
            "classes": list(data.classes),
            "held_out": len(probe.labels),
            "held_out_forget": int(probe.forget.sum()),
            "overlap_left_out": probe.overlap,
        },
        "pictures": _pictures(probe, scores, data),
        "models": {role: _provenance(model) for role, model in models.items()},
        "settings": {"seed": seed},
        "versions": versions(),
        "seconds": round(seconds, 2),
    }
    return _whole(content, scores)


def recomputed(content: dict[str, Any], scores: Scores) -> Finding:
    """Judge stored scores again: everything that follows from them is computed anew, the rest stays as it is.

    Args:
        content: what `verdict.json` holds.
        scores: what `scores.parquet` holds.
    """
    seed = content["settings"]["seed"]
    computed = {gate.name for gate in judge(scores, seed).gates}
    of_models = [Gate(**one) for one in content["gates"] if one["name"] not in computed]
    kept = [gate for gate in of_models if not gate.name.startswith(SELF_TEST)]
    judgement = judge(scores, seed, (*kept, *self_test(scores, seed)))
    return _whole(content | _judged(judgement), scores)


def _judged(judgement: Judgement) -> dict[str, Any]:
    """What follows from the scores, as JSON values."""
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
    }


def _whole(content: dict[str, Any], scores: Scores) -> Finding:
    content = json.loads(json.dumps(content))  # tuples become lists, as they will be when read back
    return Finding(
        content["verdict"], content["where"], content["reason"], tuple(content["qualifiers"]), content, scores
    )


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    import platform

    import rasura

    return {
        "rasura": rasura.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def _provenance(model: nn.Module) -> dict[str, Any]:
    card = card_of(model)
    return {
        "type": type(model).__name__,
        "architecture": card.architecture,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "trained_on": card.data,
        "training": card.training,
        "history": [{key: entry.get(key) for key in ("method", "settings", "request")} for entry in card.history],
    }


def _pictures(probe: Probe, scores: Scores, data: Data) -> list[dict[str, Any]]:
    """A few forget images with every model's answer; none where the inputs are no images."""
    rows = probe.forget.nonzero()[:, 0]
    chosen = rows[torch.linspace(0, len(rows) - 1, min(PICTURES, len(rows))).long()]
    stored = probe.examples.stored(chosen)
    if not isinstance(stored, Tensor) or stored.ndim != 4 or stored.shape[1] not in (1, 3):
        return []
    answers = {
        model: next(one.predicted for one in said if one.decoder == "output") for model, said in scores.models.items()
    }
    return [
        {
            "example": int(probe.rows[row]),
            "label": data.classes[int(probe.labels[row])],
            "image": _data_uri(image),
            "answers": {model: data.classes[said[row]] for model, said in answers.items()},
        }
        for row, image in zip(chosen.tolist(), stored, strict=True)
    ]


def _data_uri(image: Tensor) -> str:
    """`[C, H, W]` as a PNG in a data URI; floats are stretched to the full range."""
    from PIL import Image

    if image.dtype != torch.uint8:
        image = ((image - image.min()) / (image.max() - image.min()).clamp(min=1e-9) * 255).to(torch.uint8)
    pixels = image.permute(1, 2, 0).cpu().numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
