"""Anchors that never learned anything: what decoders read of untrained nets, and of the inputs themselves."""

import torch
from torch import Tensor, nn

from rasura.auditing.decoded import Decoded
from rasura.auditing.measure import decode_vectors
from rasura.auditing.probe import Probe
from rasura.auditing.reading import inner_of
from rasura.auditing.scores import RANDOM_NET, RAW_INPUTS
from rasura.data import are_images
from rasura.data.examples import Inputs
from rasura.errors import InputError
from rasura.models import reinitialised
from rasura.progress import Progress, silent

LARGEST_SIDE = 32
"""Larger images are averaged down to this side before their pixels are read."""
WORDS = 512
"""Token numbers are counted modulo this."""
COMPONENTS = 128
"""Principal components of the inputs that are read."""


def measure_untrained(
    original: nn.Module, probe: Probe, nets: int, seed: int, progress: Progress = silent
) -> dict[str, list[Decoded]]:
    """What the head-input decoders read of freshly initialised copies of a net, and of the raw inputs.

    Args:
        original: gives the architecture; where it cannot be initialised anew, there are no nets.
        probe: the held-out examples.
        nets: how many, with seeds of their own.
        seed: of the first net and of all draws.
        progress: called as the nets run.
    """
    found = {}
    for number in range(nets):
        vectors = _of_random_net(original, probe, seed + number, progress)
        if vectors is not None:
            found[f"{RANDOM_NET} {number + 1}" if nets > 1 else RANDOM_NET] = decode_vectors(vectors, probe, seed)
    return found | {RAW_INPUTS: decode_vectors(raw_inputs(probe), probe, seed)}


def _of_random_net(original: nn.Module, probe: Probe, seed: int, progress: Progress) -> Tensor | None:
    try:
        net = reinitialised(original, seed)
    except InputError:
        return None  # its modules cannot be initialised anew: there is no such anchor
    try:
        return inner_of(net, probe.examples, progress, f"audit: {RANDOM_NET}")
    except InputError:
        return None  # untrained, it gives no finite numbers


def raw_inputs(probe: Probe) -> Tensor:
    """The inputs as vectors `[N, d]`, d ≤ 128: principal components of pixels, of columns, or of token counts."""
    batches = [_flat(inputs) for inputs, _ in probe.examples.batches(512)]
    vectors = torch.cat(batches).double()
    centred = vectors - vectors.mean(0)
    directions = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -COMPONENTS:]
    return (centred @ directions).float()


def _flat(inputs: Inputs) -> Tensor:
    if isinstance(inputs, dict):
        tokens = next((column for column in inputs.values() if not column.is_floating_point()), None)
        if tokens is None:
            return torch.cat([column.flatten(1) for column in inputs.values()], 1).float()
        return torch.stack([row.flatten().remainder(WORDS).bincount(minlength=WORDS) for row in tokens]).float()
    if are_images(inputs) and max(inputs.shape[2:]) > LARGEST_SIDE:
        inputs = nn.functional.adaptive_avg_pool2d(inputs, LARGEST_SIDE)
    return inputs.flatten(1).float()
