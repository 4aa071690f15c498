"""Data, nets, recipes and requests that quality benchmarks share, and the models trained for them."""

from dataclasses import dataclass, replace
from pathlib import Path

from comparison import HOME, between
from torch import nn

from rasura.data import Data, load_data, read_samples
from rasura.progress import terminal
from rasura.runs import train_run
from rasura.training import Recipe


@dataclass(frozen=True)
class Setting:
    """Data, net and recipe, the classes that are forgotten one by one, and sets of classes.

    `training`: images of each class that nets are trained on, the first ones; 0 means all.
    """

    data: str
    net: str
    recipe: Recipe
    classes: tuple[str, ...]
    several: tuple[tuple[str, ...], ...] = ()
    training: int = 0


CLOTHES = ("T-shirt/top", "Trouser", "Shirt")
SEVERAL = (("Shirt", "Trouser"), ("Shirt", "Trouser", "Bag"), ("Shirt", "Trouser", "Bag", "Coat", "Sandal"))
SETTINGS = {
    "digits": Setting("digits", "resnet8,width=8", Recipe(epochs=12), ("3", "8", "0"), (("3", "8"), ("3", "8", "0"))),
    "fashion-mini": Setting("fashion-mini", "resnet8", Recipe(epochs=8), CLOTHES, SEVERAL),
    "fashion-mini-resnet18": Setting("fashion-mini", "resnet18,width=8", Recipe(epochs=8), ("T-shirt/top", "Trouser")),
    "fashion-mini-vit": Setting("fashion-mini", "vit", Recipe(epochs=15), CLOTHES, SEVERAL),
    "fashion-mnist": Setting("fashion-mnist", "resnet8", Recipe(epochs=5), CLOTHES),
    "fashion-mnist-vit": Setting("fashion-mnist", "vit", Recipe(epochs=3), CLOTHES),
    "cifar10": Setting(
        "cifar10", "resnet8", Recipe(epochs=10, augment=("flip",)), ("automobile", "cat", "frog"), training=2000
    ),
}


def data_of(setting: Setting, cifar10: str) -> Data:
    """The data with as many training images as the setting says, and all held-out ones.

    `cifar10`: the folder of CIFAR-10, binary version, where a setting needs it.
    """
    data = load_data({"cifar10": f"cifar10:{cifar10}", "fashion-mnist": str(HOME)}.get(setting.data, setting.data))
    train = between(data.train, 0, setting.training) if setting.training else data.train
    return replace(data, train=train, name=setting.data)


def trained(setting: Setting, data: Data, folder: Path, seed: int, without: tuple[str, ...] | str = ()) -> nn.Module:
    """An original, or a model retrained without some classes, or samples in words; read where it lies in the folder."""
    home = folder / "models" / setting.data / setting.net.partition(",")[0]
    samples = read_samples(without, data) if isinstance(without, str) else None
    classes = () if isinstance(without, str) else without
    words = without if isinstance(without, str) else "-".join(without)
    name = f"without-{words.replace('/', '-').replace(':', '-')}-{seed}" if words else f"original-{seed}"
    with terminal() as progress:
        return train_run(data, setting.net, setting.recipe, classes, seed, home / name, progress, samples)
