"""Held-out images that are training images retouched: another hash, but nothing that was held out."""

import torch
from torch import Tensor, nn

from rasura.data import Examples

SAMPLE = 500
"""Held-out images that are looked up among all training images."""
SIDE = 8
"""Images are compared in full only where their 8×8 thumbnails are as close: averaging brings no two images apart."""
GREY_LEVELS = 2 / 255
"""Root mean square of the difference, in shares of the range of values, up to which two images count as one."""
PORTION = 4096


def near_copies(held_out: Examples, training: Examples) -> tuple[int, int]:
    """How many of (at most 500) held-out images have a training image within two grey levels, and of how many.

    (0, 0) for inputs that are no images.
    """
    step = max(1, len(held_out) // SAMPLE)
    chosen = held_out.take(torch.arange(0, len(held_out), step)[:SAMPLE])
    images = chosen.batch(torch.arange(len(chosen)))[0]
    if not isinstance(images, Tensor) or images.ndim != 4:
        return 0, 0
    limit = GREY_LEVELS * float(images.amax() - images.amin())
    nearest, at = _nearest(_thumbnails(images), training)
    close = (nearest <= limit).nonzero()[:, 0]
    if not len(close):
        return 0, len(chosen)
    others = training.batch(at[close])[0]
    assert isinstance(others, Tensor)
    apart = (images[close] - others).flatten(1).square().mean(1).sqrt()
    return int((apart <= limit).sum()), len(chosen)


def _thumbnails(images: Tensor) -> Tensor:
    small = nn.functional.adaptive_avg_pool2d(images, SIDE) if min(images.shape[2:]) > SIDE else images
    return small.flatten(1)


def _nearest(thumbnails: Tensor, training: Examples) -> tuple[Tensor, Tensor]:
    """Root mean square distance to the nearest training thumbnail, and where that is."""
    best, at = torch.full((len(thumbnails),), torch.inf), torch.zeros(len(thumbnails), dtype=torch.int64)
    for start in range(0, len(training), PORTION):
        images = training.batch(torch.arange(start, min(start + PORTION, len(training))))[0]
        assert isinstance(images, Tensor)
        distance, where = torch.cdist(thumbnails, _thumbnails(images)).min(1)
        nearer = distance < best
        best, at = torch.where(nearer, distance, best), torch.where(nearer, start + where, at)
    return best / thumbnails.shape[1] ** 0.5, at
