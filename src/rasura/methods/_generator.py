"""A small generator and discriminator of images, trained on the examples to forget (DCGAN's kind of pair)."""

import hashlib
import itertools
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rasura.data import examples_from
from rasura.errors import InputError, first_line
from rasura.files import write_whole
from rasura.progress import Progress, silent
from rasura.randomness import seeded
from rasura.training import Batch, DivergedError, Recipe, evaluating, fit

LEAST_SIDE = 8
"""Images below have no room for one doubling from four pixels."""
GRAIN = 4
"""The coarsest side that the generator starts from."""
LATENT = 64
"""Latent dimensions."""
RUNAWAY = 8.0
"""Mean cross-entropy (nats) of either net at which the other has won for good: it is then right with 2,980 to 1."""
COLLAPSED = 0.05
"""Share of the data's pixel deviation below which all generated images are one, if untrained ones vary more."""
SMALLER = 0.1
"""The step of the second attempt, as a share of the first one's."""


@dataclass(frozen=True, eq=False)
class Pixels:
    """The range of the model's inputs, per channel, `[1, C, 1, 1]` each: generated images use −1..1."""

    low: Tensor
    high: Tensor

    @staticmethod
    def of(inputs: Tensor) -> "Pixels":
        """The least and largest value of each channel of `[N, C, H, W]`."""
        low, high = inputs.amin((0, 2, 3), keepdim=True), inputs.amax((0, 2, 3), keepdim=True)
        return Pixels(low, high.maximum(low + 1e-6))

    def squeezed(self, inputs: Tensor) -> Tensor:
        """Model inputs → −1..1."""
        return 2 * (inputs - self.low) / (self.high - self.low) - 1

    def stretched(self, images: Tensor) -> Tensor:
        """−1..1 → model inputs, on the images' device."""
        low, high = self.low.to(images.device), self.high.to(images.device)
        return low + (images + 1) / 2 * (high - low)


class Generator(nn.Module):
    """Latent codes `[B, 64]` → images `[B, C, H, W]` in −1..1, by doublings of a coarse map."""

    def __init__(self, channels: int, height: int, width: int, features: int):
        super().__init__()
        doublings, (rows, columns) = _grid(height, width)
        widths = [features * 2 ** max(doublings - 1 - k, 0) for k in range(doublings)]
        self.size = height, width
        self.start = nn.Linear(LATENT, widths[0] * rows * columns)
        self.shape = widths[0], rows, columns
        self.norm = nn.BatchNorm2d(widths[0])
        layers: list[nn.Module] = []
        for wide, narrow in itertools.pairwise(widths):
            layers += [nn.ConvTranspose2d(wide, narrow, 4, 2, 1), nn.BatchNorm2d(narrow), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.ConvTranspose2d(widths[-1], channels, 4, 2, 1))

    def forward(self, codes: Tensor) -> Tensor:
        coarse = F.relu(self.norm(self.start(codes).view(-1, *self.shape)))
        images = self.body(coarse)[:, :, : self.size[0], : self.size[1]]
        return images.tanh()


class Discriminator(nn.Module):
    """Images `[B, C, H, W]` in −1..1 → logits `[B]` of being real."""

    def __init__(self, channels: int, height: int, width: int, features: int):
        super().__init__()
        doublings, (rows, columns) = _grid(height, width)
        widths = [features * 2**k for k in range(doublings)]
        layers: list[nn.Module] = []
        for before, after in zip([channels, *widths[:-1]], widths, strict=True):
            layers += [nn.Conv2d(before, after, 4, 2, 1), nn.LeakyReLU(0.2)]
        self.room = height, width, rows << doublings, columns << doublings
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * rows * columns, 1))

    def forward(self, images: Tensor) -> Tensor:
        height, width, rows, columns = self.room
        return self.body(F.pad(images, (0, columns - width, 0, rows - height), value=-1.0))[:, 0]


class Pair(nn.Module):
    """Generator and discriminator, trained side by side."""

    def __init__(self, channels: int, height: int, width: int, features: int):
        super().__init__()
        self.generator = Generator(channels, height, width, features)
        self.discriminator = Discriminator(channels, height, width, features)


@dataclass(frozen=True, eq=False)
class Trained:
    """A pair in eval mode, on the CPU or GPU, and how it came about.

    Attributes:
        pair: generator and discriminator.
        losses: mean losses of generator and discriminator per epoch; empty for a stored pair.
        restarts: how often training began again with a smaller step.
        stored: whether it was read from a file.
    """

    pair: Pair
    losses: tuple[tuple[float, float], ...] = ()
    restarts: int = 0
    stored: bool = False


def check_images(inputs: object, generated: bool) -> Tensor:
    """The batch as images, of which a generator can make more if `generated`.

    Raises:
        InputError: tokens, columns or vectors, or images with a side below 8 pixels.
    """
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point() or inputs.ndim != 4:
        raise InputError(
            "data: cnr moves images along gradients and learns to generate them, which texts and columns do not allow; "
            "allowed: images [B, C, H, W]"
        )
    if generated and min(inputs.shape[2:]) < LEAST_SIDE:
        raise InputError(
            f"data: images of {inputs.shape[2]}×{inputs.shape[3]} pixels are too small for cnr's generator; "
            f"allowed: {LEAST_SIDE} or more on either side, or synthesis=False"
        )
    return inputs


def trained_pair(
    images: Tensor,
    features: int,
    epochs: int,
    rate: float,
    seed: int,
    store: str = "",
    device: torch.device | str = "cpu",
    progress: Progress = silent,
) -> Trained:
    """A pair trained on images `[N, C, H, W]` in −1..1, or the stored one of the very same images and settings.

    The discriminator's loss is the mean binary cross-entropy on real and on generated images, the generator's that of
    its images called real (Goodfellow et al., 2014, the non-saturating form). Where one of the two runs away or all
    generated images become one, training begins again, once, with a tenth of the step.

    Args:
        store: a folder, made if needed, in which pairs are kept; empty keeps none.

    Raises:
        InputError: it diverged twice.
    """
    path = Path(store) / f"cnr-{_key(images, features, epochs, rate, seed)}.safetensors" if store else None
    if path is not None and path.exists():
        return Trained(_read(path, _fresh(images, features, seed)).to(device).eval(), stored=True)
    reasons: list[str] = []
    for restarts, step in enumerate((rate, rate * SMALLER)):
        try:
            pair, losses = _attempt(images, features, epochs, step, seed, device, progress)
        except DivergedError as error:
            reasons.append(str(error))
            continue
        if path is not None:
            _write(path, pair)
        return Trained(pair, losses, restarts)
    raise InputError(
        f"generator_rate: {rate} and {rate * SMALLER:g} both diverged ({reasons[-1]}); allowed: a smaller one, or "
        "synthesis=False"
    )


def adversarial_losses(pair: Pair, real: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Losses of generator and discriminator; each has gradients in its own net only."""
    made = pair.generator(codes)
    judge = {name: weight.detach() for name, weight in pair.discriminator.named_parameters()}
    flattered = F.softplus(-torch.func.functional_call(pair.discriminator, judge, (made,))).mean()
    told = F.softplus(-pair.discriminator(real)).mean() + F.softplus(pair.discriminator(made.detach())).mean()
    return flattered, told / 2


def _attempt(
    images: Tensor,
    features: int,
    epochs: int,
    rate: float,
    seed: int,
    device: torch.device | str,
    progress: Progress,
) -> tuple[Pair, tuple[tuple[float, float], ...]]:
    pair, examples = _fresh(images, features, seed).to(device), examples_from(images, torch.zeros(len(images)).long())
    generator, seen, least = torch.Generator().manual_seed(seed), [], _spread(pair) / 2

    def loss(_: nn.Module, batch: Batch) -> Tensor:
        codes = torch.randn(len(batch.labels), LATENT, generator=generator)
        assert isinstance(batch.inputs, Tensor)
        flattered, told = adversarial_losses(pair, batch.inputs, codes.to(batch.inputs.device))
        seen.append((flattered.item(), told.item()))
        return flattered + told

    recipe = Recipe(epochs, 64, "adamw", rate, weight_decay=0, schedule="constant", clip=0)
    fit(pair, examples, recipe, seed, loss, progress=progress, label="cnr: generator")
    _check_sound(pair, images, seen, least)
    steps = -(-len(images) // 64)
    means = torch.tensor(seen).split(steps)
    return pair, tuple((one[:, 0].mean().item(), one[:, 1].mean().item()) for one in means)


@torch.no_grad()
def _check_sound(pair: Pair, images: Tensor, seen: list[tuple[float, float]], least: float) -> None:
    """Whether neither net has run away and the generated images differ from each other."""
    last = torch.tensor(seen[-max(1, len(seen) // 10) :]).mean(0)
    if not bool((last < RUNAWAY).all()):
        raise DivergedError(f"the losses ended at {last[0]:.3g} and {last[1]:.3g}; allowed: below {RUNAWAY}")
    made, wanted = _spread(pair), images.std(0).mean().item()
    if not made >= min(COLLAPSED * wanted, least):
        bound = min(COLLAPSED * wanted, least)
        raise DivergedError(f"all generated images are one: pixels deviate by {made:.2g}; allowed: {bound:.2g} or more")


@torch.no_grad()
def _spread(pair: Pair) -> float:
    """Mean standard deviation of a pixel over generated images."""
    codes = torch.randn(64, LATENT, generator=torch.Generator().manual_seed(0))
    with evaluating(pair):
        return pair.generator(codes.to(next(pair.parameters()).device)).std(0).mean().item()


def _fresh(images: Tensor, features: int, seed: int) -> Pair:
    """An untrained pair for images of this size, its weights drawn from `seed`."""
    channels, height, width = images.shape[1:]
    with seeded(seed):
        return Pair(channels, height, width, features)


def _grid(height: int, width: int) -> tuple[int, tuple[int, int]]:
    """Doublings, and the coarse grid that they lead from to `height` × `width` or a little more.

    >>> _grid(28, 28), _grid(32, 32), _grid(96, 64), _grid(8, 8)
    ((2, (7, 7)), (3, (4, 4)), (4, (6, 4)), (1, (4, 4)))
    """
    doublings = 1
    while min(height, width) >= GRAIN << (doublings + 1):
        doublings += 1
    return doublings, tuple(-(-side // (1 << doublings)) for side in (height, width))  # pyright: ignore


def _key(images: Tensor, *settings: float) -> str:
    digest = hashlib.sha256(repr((tuple(images.shape), settings)).encode())
    digest.update(images.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _write(path: Path, pair: Pair) -> None:
    from safetensors.torch import save

    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, save({name: tensor.cpu().contiguous() for name, tensor in pair.state_dict().items()}))


def _read(path: Path, pair: Pair) -> Pair:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        pair.load_state_dict(load_file(path))
    except (SafetensorError, OSError, RuntimeError) as error:
        raise InputError(
            f"store: {path} is not a stored generator ({first_line(error)}); allowed: remove it"
        ) from error
    return pair
