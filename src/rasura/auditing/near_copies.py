"""Held-out images that are training images retouched: another hash, but nothing that was held out."""

import torch
from torch import Tensor, nn

from rasura.data import Examples, are_images

SAMPLE = 500
"""Held-out images that are looked up among all training images."""
SIDE = 8
"""Images are compared in full only where their 8×8 thumbnails are as close: averaging brings no two images apart."""
GREY_LEVELS = 2 / 255
"""Root mean square of the difference, in shares of the range of values, up to which two images count as one."""
PORTION = 256
"""Images that are in memory at a time."""


def near_copies(held_out: Examples, training: Examples) -> tuple[int, int]:
    """How many of (at most 500) held-out images have a training image within two grey levels, and of how many.

    (0, 0) for inputs that are no images. Of the images only thumbnails are held, and those that are as close.
    """
    first = held_out.batch(torch.arange(1))[0]
    if not are_images(first):
        return 0, 0
    chosen = held_out.take(torch.arange(0, len(held_out), max(1, len(held_out) // SAMPLE))[:SAMPLE])
    low, high, parts = torch.inf, -torch.inf, []
    for images, _ in chosen.batches(PORTION):
        assert isinstance(images, Tensor)
        low, high = min(low, float(images.amin())), max(high, float(images.amax()))
        parts.append(_thumbnails(images))
    limit = GREY_LEVELS * (high - low)
    nearest, at = _nearest(torch.cat(parts), training)
    close = (nearest <= limit).nonzero()
    return sum(_apart(chosen, training, row, at) <= limit for row in close), len(chosen)


def _apart(held_out: Examples, training: Examples, row: Tensor, at: Tensor) -> float:
    """Root mean square difference of a held-out image (`row` is `[1]`) and the training image of nearest thumbnail."""
    one, other = held_out.batch(row)[0], training.batch(at[row])[0]
    assert isinstance(one, Tensor) and isinstance(other, Tensor)
    return float((one - other).square().mean().sqrt())


def _thumbnails(images: Tensor) -> Tensor:
    small = nn.functional.adaptive_avg_pool2d(images, SIDE) if min(images.shape[2:]) > SIDE else images
    return small.flatten(1)


def _nearest(thumbnails: Tensor, training: Examples) -> tuple[Tensor, Tensor]:
    """Root mean square distance to the nearest training thumbnail, and where that is."""
    best, at = torch.full((len(thumbnails),), torch.inf), torch.zeros(len(thumbnails), dtype=torch.int64)
    for portion, (images, _) in enumerate(training.batches(PORTION)):
        assert isinstance(images, Tensor)
        distance, where = torch.cdist(thumbnails, _thumbnails(images)).min(1)
        nearer = distance < best
        best, at = torch.where(nearer, distance, best), torch.where(nearer, portion * PORTION + where, at)
    return best / thumbnails.shape[1] ** 0.5, at
