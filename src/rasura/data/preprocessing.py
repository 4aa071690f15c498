"""A model's own way with its inputs, in place of the data's: images brought to its size and scale, or its tokenizer."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rasura.data.examples import Standardise
from rasura.errors import InputError

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Preprocessing:
    """How a model wants its images. As the `transform` of examples it turns stored bytes into model inputs.

    Attributes:
        mean: one value per channel of the model, in units of the 0..1 range.
        std: one value per channel, in the same units, above 0.
        settings: what the model's library says of it, as JSON values: the same settings give the same inputs.
        resized: images `[C, H, W]` of any sizes, with as many channels as the model → uint8 `[B, C, h, w]`.
        said_by: whose settings these are, for the user.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    settings: dict[str, Any]
    resized: Callable[[Sequence[Image]], Tensor] = field(repr=False, compare=False)
    said_by: str = field(repr=False, compare=False)

    def fitted(self, images: Iterable[Image]) -> Tensor:
        """Images `[C, H, W]` as uint8 `[B, C, h, w]` of the model's size and channels, not yet standardised.

        Raises:
            InputError: images with channels that the model does not take; grey ones are repeated.
        """
        return self.resized([_with_channels(image, len(self.mean)) for image in images])

    def __call__(self, stored: Tensor) -> Tensor:
        """`[B, C, H, W]` bytes → float32 `[B, C, h, w]`."""
        if not len(stored):  # libraries make nothing of no images, not even their size
            return self(stored.new_zeros(1, *stored.shape[1:]))[:0]
        return Standardise(self.mean, self.std)(self.fitted(stored.numpy()))


@dataclass(frozen=True)
class OwnTokenizer:
    """The tokenizer that lies in a text model's folder.

    Attributes:
        name: the folder.
        settings: a hash of its files, as JSON values.
        said_by: whose tokenizer it is, for the user.
    """

    name: str
    settings: dict[str, Any]
    said_by: str = field(repr=False, compare=False)


ModelsOwn = Preprocessing | OwnTokenizer


def _with_channels(image: Image, channels: int) -> Image:
    if len(image) not in (1, channels):
        raise InputError(
            f"data: images of {len(image)} channels; allowed: {channels}, as the model takes, or grey ones"
        )
    repeated = image if len(image) == channels else image.repeat(channels, axis=0)
    return np.require(repeated, requirements=["C", "W"])  # torch warns of arrays that are read-only
