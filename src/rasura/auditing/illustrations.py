"""Pictures for the reader of an audit, without a vote: t-SNE maps of the stages, and Grad-CAM on forget images."""

import base64
import importlib.util
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from rasura.activations import Point, tap
from rasura.auditing.reading import parts_of
from rasura.errors import InputError
from rasura.models import device_of, logits_of
from rasura.training import evaluating

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_MAPS = 5
"""Stages with a map, at most."""
MOST_POINTS, MOST_FORGET = 200, 80
"""Examples on a map, and how many of them may be of the forgotten class."""
ITERATIONS = 400
PERPLEXITY = 30
HEAT_PIXELS = 96
"""Longest side of a heat map as it is stored."""
COLOURS = 64
"""Colours of a stored heat map: a quarter of the bytes, and no difference to the eye."""


def stage_maps(
    layers: Sequence[str], features: Mapping[str, Sequence[Tensor]], labels: Tensor, forget: Tensor, seed: int
) -> dict[str, Any]:
    """t-SNE of the same examples at several stages of several models.

    Every map is turned (and mirrored) onto its neighbour, a stage of the first model onto the stage before, one of
    another model onto that of the first: t-SNE leaves the turn open. Distances within a map stay as they are.

    Args:
        layers: names of the stages in order; at most five are shown, evenly chosen, the last one always.
        features: role → one tensor `[N, d]` per layer, of the same examples for all.
        labels: int64 `[N]`.
        forget: bool `[N]`, true for the forgotten examples; up to 80 are shown, and as many of the others as make 200,
            in the shares of their classes.
        seed: of the choice and of t-SNE.

    Returns:
        JSON values: "layers", "labels" and "forget" of the examples shown, and "points": role → `[layer][example]` →
        `[x, y]` in 0..1, two decimals.

    It does not show how far apart groups are, how large or how dense: t-SNE keeps neighbours, not distances, and
    groups may appear where there are none.

    Source: van der Maaten and Hinton, 2008; the computation is scikit-learn's.
    """
    kept = _evenly(len(layers), MOST_MAPS)
    rows = _shown(labels, forget, seed)
    points: dict[str, list[NDArray[np.float64]]] = {}
    for role, stages in features.items():
        drawn: list[NDArray[np.float64]] = []
        for place, stage in enumerate(kept):
            found = _embedded(stages[stage][rows].float().cpu().numpy(), seed)
            neighbour = next(iter(points.values()))[place] if points else drawn[-1] if drawn else found
            drawn.append(_turned(found, neighbour))
        points[role] = drawn
    return {
        "layers": [layers[stage] for stage in kept],
        "labels": labels[rows].tolist(),
        "forget": forget[rows].tolist(),
        "points": {role: [_unit(one).round(2).tolist() for one in drawn] for role, drawn in points.items()},
    }


def with_maps_of(maps: dict[str, Any], role: str, stages: Mapping[str, Tensor], seed: int) -> dict[str, Any]:
    """`stage_maps` of one more model, turned onto those of the first.

    Args:
        maps: of other models, all of whose examples are shown.
        role: of the model.
        stages: layer → its features `[N, d]` of the same examples.
        seed: the one that the others were drawn with.
    """
    first = next(iter(maps["points"].values()))
    found = [_embedded(stages[layer].float().cpu().numpy(), seed) for layer in maps["layers"]]
    drawn = [_turned(points, np.asarray(onto)) for points, onto in zip(found, first, strict=True)]
    return maps | {"points": maps["points"] | {role: [_unit(one).round(2).tolist() for one in drawn]}}


def spatial_stage(model: nn.Module, inputs: Tensor) -> str | None:
    """The last stage whose output is a map `[B, C, H, W]` of more than one pixel; None where there is none.

    Args:
        model: any classifier.
        inputs: a small batch.
    """
    stages = parts_of(model, inputs[:2]).stages
    shapes: dict[str, torch.Size] = {}

    def keep(stage: str) -> Any:
        return lambda tensor: shapes.__setitem__(stage, tensor.shape)

    with torch.no_grad(), evaluating(model), tap(model, {Point(stage): keep(stage) for stage in stages}):
        logits_of(model, inputs[:2].to(device_of(model)))
    return next((stage for stage in reversed(stages) if _is_map(shapes[stage])), None)


def heat_maps(model: nn.Module, inputs: Tensor, target_class: int, layer: str) -> list[str]:
    """Grad-CAM: where in each image the score of a class comes from, as warm colour over the grey image.

    The map of an image is ReLU(Σ_c α_c A_c), with the layer's channels A_c and α_c the mean over pixels of the score's
    gradient; it is scaled to its own maximum. The model is left as it was: same bits, no gradients, no hooks.

    Args:
        model: any classifier.
        inputs: `[B, C, H, W]`, as the model takes them; C is 1 or 3.
        target_class: the class whose score is traced.
        layer: a module with an output `[B, C, H, W]` (see `spatial_stage`).

    Returns:
        One PNG as a data URI per image. None at all where captum is not installed, where the inputs are no images, or
        where the model has no output for the class.

    It does not show that a model knows the class: a score that is never the largest has a map too, and a map scaled
    to its own maximum says nothing about the score's size.

    Raises:
        InputError: the model has no such layer.

    Source: Selvaraju et al., 2017, eq. 1 and 2; the computation is captum's.
    """
    if importlib.util.find_spec("captum") is None or inputs.ndim != 4 or inputs.shape[1] not in (1, 3):
        return []
    modules = dict(model.named_modules())
    if layer not in modules:
        raise InputError(f"layer: the model has no module {layer!r}; allowed: a name of named_modules()")
    from captum.attr import LayerGradCam

    # Inputs that ask for gradients carry them through nets whose parameters are all frozen.
    asking = inputs.to(device_of(model)).detach().clone().requires_grad_(True)
    with evaluating(model), torch.enable_grad():
        if target_class >= logits_of(model, asking).shape[1]:
            return []
        tracer = LayerGradCam(lambda batch: logits_of(model, batch), modules[layer])
        try:
            found = tracer.attribute(asking, target=target_class, relu_attributions=True)
        except RuntimeError as error:
            # The score does not depend on the layer by gradients (rounded outputs, say): there is no map.
            if not any(words in str(error) for words in ("does not require grad", "not have been used in the graph")):
                raise
            return []
    assert isinstance(found, Tensor)
    heat = interpolate(found.detach().float().cpu(), inputs.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    return [_blended(image, one) for image, one in zip(inputs.detach().float().cpu(), heat, strict=True)]


def _evenly(count: int, most: int) -> list[int]:
    """Positions of at most so many, evenly spread, the last always.

    >>> _evenly(3, 5), _evenly(9, 5)
    ([0, 1, 2], [0, 2, 4, 6, 8])
    """
    return sorted({round(at) for at in np.linspace(0, count - 1, min(count, most))})


def _shown(labels: Tensor, forget: Tensor, seed: int) -> Tensor:
    """Rows to show, in order: forget examples, and retained ones in the shares of their classes."""
    generator = np.random.default_rng(seed)

    def drawn(among: Tensor, most: int) -> list[int]:
        rows = generator.permutation(among.nonzero()[:, 0].numpy())
        # Every class's k-th example of m lies at (k + 1/2) / m: the first of this order hold each class's share.
        groups = [rows[labels[rows].numpy() == number] for number in labels[rows].unique().tolist()]
        places = np.concatenate([(np.arange(len(group)) + 0.5) / len(group) for group in groups] or [np.empty(0)])
        spread = np.argsort(places, kind="stable")[:most]
        return np.concatenate([*groups, np.empty(0, int)])[spread].tolist()

    chosen = drawn(forget, MOST_FORGET)
    chosen += drawn(~forget, MOST_POINTS - len(chosen))
    return torch.tensor(sorted(chosen))


def _embedded(vectors: "NDArray[np.float32]", seed: int) -> "NDArray[np.float64]":
    """t-SNE `[n, 2]`; a single spot where all vectors are one."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    scale = np.float32(max(float(vectors.astype(np.float64).std()), 1e-12))  # squares of huge features overflow
    vectors = (vectors - vectors.mean(0)) / scale  # far or tiny features keep their digits
    if not np.abs(vectors).max() > 1e-6 or len(vectors) < 4:
        return np.zeros((len(vectors), 2))
    vectors = np.pad(vectors, ((0, 0), (0, max(2 - vectors.shape[1], 0))))  # the start is two principal components
    model = TSNE(
        perplexity=min(PERPLEXITY, (len(vectors) - 1) / 3),
        init="pca",
        learning_rate="auto",
        max_iter=ITERATIONS,
        random_state=seed,
    )
    with threadpool_limits(1):  # several threads add forces up in any order
        return model.fit_transform(vectors).astype(np.float64)


def _turned(points: "NDArray[np.float64]", onto: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Centred points, turned and mirrored to lie as near as can be to others (orthogonal Procrustes)."""
    from scipy.linalg import orthogonal_procrustes

    centred = points - points.mean(0)
    turn, _ = orthogonal_procrustes(centred, onto - onto.mean(0))
    return centred @ turn


def _unit(points: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Points in the unit square, in the middle, both axes on one scale."""
    low, high = points.min(0), points.max(0)
    return 0.5 + (points - (low + high) / 2) / max(float((high - low).max()), 1e-12)


def _is_map(shape: torch.Size) -> bool:
    channels_last = len(shape) == 4 and shape[1] == shape[2] != shape[3]  # as `rasura.activations.pooled` tells them
    return len(shape) == 4 and not channels_last and shape[2] * shape[3] > 1


def _blended(image: Tensor, heat: Tensor) -> str:
    """`[C, H, W]` under `[H, W]` ≥ 0 as a small PNG in a data URI: the image in grey, the heat as warm colour."""
    from matplotlib import colormaps
    from PIL import Image

    grey = image.mean(0)
    grey = ((grey - grey.min()) / (grey.max() - grey.min()).clamp(min=1e-12)).numpy()[:, :, None]
    share = (heat / heat.max().clamp(min=1e-12)).numpy()
    warm = colormaps["inferno"](share)[:, :, :3]
    opaque = 0.75 * share[:, :, None]
    pixels = np.uint8(255 * ((1 - opaque) * grey + opaque * warm))
    picture = Image.fromarray(pixels)
    picture.thumbnail((HEAT_PIXELS, HEAT_PIXELS))
    buffer = io.BytesIO()
    picture.quantize(COLOURS).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
