"""What one model shows: its own answers, and what decoders read out of it. Models are compared later, in `judge`."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from rasura.auditing.decoded import (
    BATCH_NORM,
    BIAS,
    HEAD_INPUT,
    HEAD_SWAP,
    KERNEL,
    LINEAR,
    LOG_ODDS,
    NEIGHBOURS,
    OUTPUT,
    PERCEPTRON,
    PROTOTYPE,
    QUANTISED,
    RUNNER_UP,
    SHUFFLED,
    STITCH,
    UNWRAPPED,
    WHITENED,
    Anchor,
    Decoded,
    as_decoded,
)
from rasura.auditing.decoders import cross_fitted, finite, refit_bias
from rasura.auditing.few_shot import DRAWS, STAGE_DRAWS, few_shot_curve
from rasura.auditing.inside import Inside, look_inside
from rasura.auditing.members import Members, remember
from rasura.auditing.nonlinear import (
    kernel_machine,
    nearest_neighbours,
    perceptron,
    shuffled_linear,
    whitened_linear,
)
from rasura.auditing.outputs import forget_log_odds
from rasura.auditing.probe import Probe
from rasura.auditing.reading import parts_of, read, read_head
from rasura.auditing.recovery import answers, batch_norm_recalibrated, linear_stitch, prototypes, quantised
from rasura.auditing.stages import stage_names
from rasura.errors import InputError
from rasura.progress import Progress, silent


@dataclass(frozen=True, eq=False)
class Measured:
    """All that the audit keeps of one model.

    Attributes:
        decoded: what each decoder said.
        stages: what its stages are called.
        inside: what is compared between models stage by stage; None for an anchor that has no vote.
        members: how much training examples of the request look like training examples; None if not asked for.
        unread: parts that could not be read, with the reason.
        seconds: wall-clock time per block.
    """

    decoded: list[Decoded]
    stages: tuple[str, ...] = ()
    inside: Inside | None = None
    members: Members | None = None
    unread: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def measure(
    model: nn.Module,
    probe: Probe,
    anchor: Anchor | None,
    seed: int,
    progress: Progress = silent,
    label: str = "audit",
    like: Sequence[str] = (),
) -> Measured:
    """Run the model over the probe, then every decoder on what was found.

    Args:
        model: any classifier.
        probe: the held-out examples.
        anchor: the original's head and features, for the rungs that need them; None leaves those out.
        seed: of draws.
        progress: called per batch.
        label: what the progress bar says.
        like: what the original's stages are called.

    Raises:
        InputError: NaN logits or features.
    """
    seconds: dict[str, float] = {}
    with _timed(seconds, "forward"):
        parts = parts_of(model, probe.examples)
        found = read(model, probe.examples, parts, stages=True, progress=progress, label=label)
    logits, inner, stages = found.logits, found.inner, stage_names(parts, like)
    layers = _unlike({name: found.stages[stage] for stage, name in stages.items() if stage in found.stages}, inner)
    unread, names = dict(found.unread), tuple(stages[stage] for stage in found.stages)
    decoded, inside, members = _answers(logits, probe), None, None
    with _timed(seconds, "linear decoders"):
        decoded += [_linear(name, vectors, probe) for name, vectors in layers.items()]
    if probe.pairs is not None:
        with _timed(seconds, "membership"):
            members = remember(found, read(model, probe.pairs.members, parts, label="membership"), probe, anchor)
    if not probe.forget_classes:
        return Measured(decoded, names, inside, members, unread, seconds)
    with _timed(seconds, "few-shot heads"):
        for name, vectors in layers.items():
            decoded += few_shot_curve(vectors, name, probe, seed, DRAWS if name == HEAD_INPUT else STAGE_DRAWS)
    with _timed(seconds, "other decoders"):
        decoded += _other_readers(inner, probe, seed)
        decoded += _readers_of_logits(logits, probe, seed)
    with _timed(seconds, "recovery"):
        decoded += _ladder(logits, found.said, inner, probe, anchor)
        decoded += _further_rungs(model, inner, probe, anchor, seed)
        rounded, reasons = _rounded_weights(model, probe, seed)
        decoded, unread = decoded + rounded, unread | reasons
    with _timed(seconds, "geometry"):
        inside = look_inside(layers, probe, read_head(model, parts, inner, probe.classes), seed)
    return Measured(decoded, names, inside, members, unread, seconds)


def decode_vectors(vectors: Tensor, probe: Probe, seed: int) -> list[Decoded]:
    """What the head-input decoders read of any vectors `[N, d]`, for anchors that are no trained model."""
    return [
        _linear(HEAD_INPUT, vectors, probe),
        *few_shot_curve(vectors, HEAD_INPUT, probe, seed),
        *_other_readers(vectors, probe, seed),
    ]


@contextlib.contextmanager
def _timed(seconds: dict[str, float], block: str) -> Iterator[None]:
    begun = time.perf_counter()
    yield
    seconds[block] = seconds.get(block, 0.0) + time.perf_counter() - begun


def _answers(logits: Tensor, probe: Probe) -> list[Decoded]:
    """The model's own answers, with its confidence; its best other answers; its log-odds of the forget classes."""
    said, confidence = logits.argmax(1), logits.softmax(1).amax(1)
    forgotten = list(probe.forget_classes)
    others = logits.clone()
    others[:, forgotten] = -torch.inf
    found = [as_decoded(OUTPUT, "output", said, value=confidence), as_decoded(RUNNER_UP, "output", others.argmax(1))]
    if forgotten:
        found.append(as_decoded(LOG_ODDS, "output", said, value=forget_log_odds(logits, forgotten)))
    return found


def _unlike(stages: dict[str, Tensor], inner: Tensor) -> dict[str, Tensor]:
    """The stages but those whose features are the head's inputs, which need not be decoded twice, and these inputs."""
    kept = {name: one for name, one in stages.items() if one.shape != inner.shape or not torch.equal(one, inner)}
    return kept | {HEAD_INPUT: inner}


def _linear(name: str, vectors: Tensor, probe: Probe) -> Decoded:
    return as_decoded(LINEAR, name, cross_fitted(vectors, probe.labels, probe.folds, probe.classes))


def _other_readers(inner: Tensor, probe: Probe, seed: int) -> list[Decoded]:
    """Decoders that tricks on the linear one do not fool, and the control that must read nothing."""
    given = inner, probe.labels, probe.folds, probe.classes
    said = {
        WHITENED: whitened_linear(*given),
        NEIGHBOURS: nearest_neighbours(*given),
        KERNEL: kernel_machine(*given, seed),
        PERCEPTRON: perceptron(*given, seed),
        SHUFFLED: shuffled_linear(*given, seed),
    }
    return [as_decoded(name, HEAD_INPUT, one) for name, one in said.items()]


def _readers_of_logits(logits: Tensor, probe: Probe, seed: int) -> list[Decoded]:
    """What the answers say of the class without naming it: by another size or shape of the logits."""
    given = finite(logits), probe.labels, probe.folds, probe.classes
    said = {
        LINEAR: cross_fitted(*given),
        NEIGHBOURS: nearest_neighbours(*given),
        KERNEL: kernel_machine(*given, seed),
        PERCEPTRON: perceptron(*given, seed),
    }
    return [as_decoded(name, OUTPUT, one) for name, one in said.items()]


def _ladder(logits: Tensor, head_logits: Tensor, inner: Tensor, probe: Probe, anchor: Anchor | None) -> list[Decoded]:
    """Ways to bring the class back with next to no effort, cheapest first."""
    rungs = []
    if head_logits.shape[1] == probe.classes and not torch.equal(head_logits.argmax(1), logits.argmax(1)):
        rungs.append(as_decoded(UNWRAPPED, "output", head_logits.argmax(1)))
    rungs.append(as_decoded(BIAS, "output", refit_bias(logits, probe.labels, probe.folds)))
    if anchor is not None and anchor.head.weight.shape[1] == inner.shape[1]:
        rungs.append(as_decoded(HEAD_SWAP, HEAD_INPUT, anchor.head(inner).argmax(1)))
    return rungs


def _further_rungs(model: nn.Module, inner: Tensor, probe: Probe, anchor: Anchor | None, seed: int) -> list[Decoded]:
    """Ways that need some retained examples, a few labels, or the net to be run again."""
    rungs = [
        as_decoded(PROTOTYPE, HEAD_INPUT, said, shots, draw)
        for shots, draws in prototypes(
            inner, probe.labels, probe.halves, probe.forget_classes, probe.classes, draws=DRAWS, seed=seed
        ).items()
        for draw, said in enumerate(draws)
    ]
    if anchor is not None:
        said = linear_stitch(inner, anchor.inputs, ~probe.forget, anchor.head, probe.folds)
        rungs.append(as_decoded(STITCH, HEAD_INPUT, said))
    recalibrated = batch_norm_recalibrated(model, probe, seed)
    if recalibrated is not None:
        rungs.append(as_decoded(BATCH_NORM, "output", recalibrated))
    return rungs


def _rounded_weights(model: nn.Module, probe: Probe, seed: int) -> tuple[list[Decoded], dict[str, str]]:
    """Answers with rounded weights; none, and the reason, where hooks compute the weights and would undo it."""
    try:
        copies = {name: quantised(model, bits) for name, bits in QUANTISED.items()}
    except InputError as error:
        return [], {"rounded weights": str(error)}
    return [as_decoded(name, "output", answers(copied, probe, seed)) for name, copied in copies.items()], {}
