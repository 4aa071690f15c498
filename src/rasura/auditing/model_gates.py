"""Preconditions that only the models themselves can show: twins, records that speak against them, other inputs."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from rasura.auditing.gates import Gate
from rasura.auditing.probe import Probe
from rasura.auditing.scores import MODEL, ORIGINAL
from rasura.data import Data, ForgetClasses, Request, describe, resolve
from rasura.models import card_of, device_of, logits_of
from rasura.training import evaluating

SAMPLE = 500
"""Retained examples on which other preprocessings are tried."""
LEAST_SHARE = 0.8
"""Share of the original's accuracy that a model reaches with other inputs, if it was made for those."""


def identity_gates(model: nn.Module, anchors: Mapping[str, nn.Module]) -> Iterator[Gate]:
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


def record_gates(anchors: Mapping[str, nn.Module], request: Request, data: Data) -> Iterator[Gate]:
    """What references' own records say of how they came about: a masked original also answers like one."""
    what = "the class" if isinstance(request, ForgetClasses) else "the examples"
    for name, model in anchors.items():
        card = card_of(model)
        if name == ORIGINAL or not (card.history or card.training):
            continue
        methods = ", ".join(str(entry.get("method")) for entry in card.history)
        seen = _seen(card.training, request, data)
        found = f"made by {methods}" if methods else f"trained with {seen}" if seen else "trained without it"
        yield Gate(
            f"{name} was trained from scratch without {what}",
            not (methods or seen),
            found,
            f"a model trained from scratch without {what}",
            "retrain it: a model that was made to forget is no yardstick",
        )


def _seen(training: Mapping[str, object], request: Request, data: Data) -> str:
    """What of the request the training saw by its record; empty if nothing, or if the record does not say."""
    if isinstance(request, ForgetClasses):
        forgotten = {data.classes[number] for number in resolve(request, data).forget_classes}
        without = training.get("without", forgotten)
        return ", ".join(sorted(forgotten - set(without)))  # pyright: ignore[reportArgumentType]
    without = training.get("without_samples", request.indices)
    return describe(request, data) if set(request.indices) - set(without) else ""  # pyright: ignore


def preprocessing_gate(model: nn.Module, probe: Probe, accuracy: float, original: float) -> Gate | None:
    """Whether a model that names few retained examples names many once their values are scaled otherwise.

    Args:
        model: the model in question.
        probe: the held-out examples.
        accuracy: its accuracy on the retained ones as they are; at most half of the original's.
        original: the original's accuracy on them.

    Returns:
        A failed gate that names the scaling; None if no other scaling helps, or inputs are no images.
    """
    rows = (~probe.forget).nonzero()[:, 0][:SAMPLE]
    inputs, labels = probe.examples.batch(rows)
    if not isinstance(inputs, Tensor) or inputs.ndim != 4:
        return None
    for name, changed in _scalings(inputs).items():
        found = _accuracy(model, changed, labels)
        if found >= LEAST_SHARE * original:
            return Gate(
                "the model takes the data's inputs",
                False,
                f"it names {accuracy:.1%} of the retained examples, and {found:.1%} of them with {name}",
                "a model made for the preprocessing of this data",
                "give the data the preprocessing that the model was trained with",
            )
    return None


def _scalings(inputs: Tensor) -> dict[str, Tensor]:
    low, high = inputs.amin((0, 2, 3), keepdim=True), inputs.amax((0, 2, 3), keepdim=True)
    unit = (inputs - low) / (high - low).clamp(min=1e-9)
    middle, spread = inputs.mean((0, 2, 3), keepdim=True), inputs.std((0, 2, 3), keepdim=True).clamp(min=1e-9)
    found = {
        "values from 0 to 1": unit,
        "values from 0 to 255": 255 * unit,
        "values from −1 to 1": 2 * unit - 1,
        "standardised values": (inputs - middle) / spread,
        "dark and light exchanged": high + low - inputs,
    }
    return found | {"the channels in reverse order": inputs.flip(1)} if inputs.shape[1] > 1 else found


@torch.no_grad()
def _accuracy(model: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    with evaluating(model):
        said = logits_of(model, inputs.to(device_of(model))).argmax(1).cpu()
    return float((said == labels).double().mean())


def _same(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(
        one[name].shape == two[name].shape and torch.equal(one[name].cpu(), two[name].cpu()) for name in one
    )
