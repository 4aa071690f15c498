"""Data sets of torch, torchvision and Hugging Face: what is read, what is refused, and that audits take them."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import Dataset, Subset

from rasura import ForgetClasses, ForgetSamples, audit
from rasura.auditing.near_copies import near_copies
from rasura.auditing.probe import make_probe
from rasura.data import Data, Standardise, are_images, examples_from, hash_of_data, input_shape, load_data
from rasura.errors import InputError

NAMES = ("cat", "dog", "wolf")
EACH = 12
HALF = Standardise((0.5,) * 3, (0.5,) * 3)


def pixels(seed: int) -> np.ndarray:
    """Bytes `[36, 8, 8, 3]`, twelve of each class, no two alike."""
    return np.random.default_rng(seed).integers(0, 256, (3 * EACH, 8, 8, 3), dtype=np.uint8)


LABELS = np.repeat(np.arange(3), EACH)


class Items(Dataset):
    """A torch data set with the classes of its items, as torchvision has them."""

    classes = NAMES

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, row):
        return self.items[row]


class Drawn(Items):
    """Items with noise, as a random transform makes it."""

    def __getitem__(self, row):
        image, label = self.items[row]
        return image + torch.rand(image.shape), label


def floats(seed: int) -> torch.Tensor:
    return HALF(torch.from_numpy(pixels(seed)).permute(0, 3, 1, 2))


def as_pairs(seed: int) -> Items:
    return Items(list(zip(floats(seed), LABELS.tolist(), strict=True)))


def as_dicts(seed: int) -> Items:
    return Items([{"pixel_values": one, "labels": label} for one, label in as_pairs(seed).items])


def hugging_face(seed: int, label: str = "label", image: str = "image"):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({image: datasets.Image(), "path": datasets.Value("string")})
    features[label] = datasets.ClassLabel(names=list(NAMES))
    pictures = [Image.fromarray(one) for one in pixels(seed)]
    paths = [f"{seed}-{k}.png" for k in range(len(LABELS))]
    return datasets.Dataset.from_dict({image: pictures, "path": paths, label: LABELS.tolist()}, features=features)


def with_pixel_values(seed: int):
    """As the tutorials of Hugging Face do it: the image column stays beside what the model takes."""

    def transform(batch):
        arrays = [torch.from_numpy(np.array(one)).permute(2, 0, 1) for one in batch["image"]]
        return batch | {"pixel_values": list(HALF(torch.stack(arrays)))}

    return hugging_face(seed).with_transform(transform)


SETS = {
    "pairs": as_pairs,
    "dicts": as_dicts,
    "subset": lambda seed: Subset(as_pairs(seed), range(len(LABELS))),
    "hugging face": with_pixel_values,
}


def of_tensors() -> Data:
    return Data.from_tensors((floats(0), LABELS), (floats(1), LABELS), NAMES, name="set")


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()


@pytest.mark.parametrize("kind", SETS)
def test_data_sets_hold_what_tensors_of_the_same_content_hold(kind):
    data, oracle = Data.from_datasets(SETS[kind](0), SETS[kind](1), name="set"), of_tensors()
    assert data.classes == NAMES
    assert hash_of_data(data) == hash_of_data(oracle)
    inputs, labels = data.test.batch(torch.tensor([30, 2]))
    assert are_images(inputs) and torch.equal(inputs, floats(1)[[30, 2]])
    assert labels.tolist() == [2, 0]


@pytest.mark.parametrize("kind", SETS)
def test_a_probe_is_drawn_from_data_sets_without_near_copies(kind):
    data = Data.from_datasets(SETS[kind](0), SETS[kind](1))
    probe = make_probe(data, ForgetClasses(["cat"]), 0)
    assert torch.equal(probe.rows, make_probe(of_tensors(), ForgetClasses(["cat"]), 0).rows)
    assert near_copies(data.test, data.train) == (0, len(LABELS))
    assert near_copies(data.train, data.train) == (len(LABELS), len(LABELS))


@pytest.mark.parametrize("kind", [pytest.param("pairs", marks=pytest.mark.slow), "hugging face"])
def test_an_audit_of_data_sets_says_what_it_says_of_tensors(kind, net):
    data = Data.from_datasets(SETS[kind](0), SETS[kind](1), name="set")
    found, oracle = (
        audit(net, one, ForgetClasses(["cat"]), original=net, goal="concept") for one in (data, of_tensors())
    )
    assert (found.verdict, found.reason) == (oracle.verdict, oracle.reason)
    for name, said in oracle.scores.models.items():
        for one, other in zip(found.scores.models[name], said, strict=True):
            assert np.array_equal(one.predicted, other.predicted)
    assert found.scores.untrained.keys() == oracle.scores.untrained.keys()


def test_an_audit_of_training_examples_of_a_data_set_ends(net):
    data = Data.from_datasets(as_dicts(0), as_dicts(1))
    assert audit(net, data, ForgetSamples(range(0, 36, 3)), original=net).content["verdict"]


def test_raw_inputs_of_columns_of_floats_are_read():
    """Not every dict holds tokens."""
    from rasura.auditing.untrained import raw_inputs

    columns = {"x": torch.randn(40, 3), "y": torch.randn(40, 2)}
    labels = torch.arange(40) % 2
    data = Data.from_tensors((columns, labels), ({k: v + 1 for k, v in columns.items()}, labels))
    assert raw_inputs(make_probe(data, ForgetClasses([0]), 0)).shape == (40, 5)


# ---------------------------------------------------------------------------------- columns of Hugging Face


@pytest.mark.parametrize(("label", "image"), [("label", "image"), ("labels", "img"), ("species", "image")])
@pytest.mark.parametrize("form", [None, "torch"])
def test_images_and_labels_are_found_under_their_usual_names(label, image, form):
    sets = [hugging_face(seed, label, image).with_format(form) for seed in (0, 1)]
    data = Data.from_datasets(*sets, standardise=HALF)
    assert data.classes == NAMES
    assert data.train.labels.tolist() == LABELS.tolist()
    inputs, _ = data.train.batch(torch.arange(3))
    assert are_images(inputs) and torch.equal(inputs, floats(0)[:3])


def test_two_columns_of_named_classes_are_ambiguous():
    datasets = pytest.importorskip("datasets")
    fine = hugging_face(0, "fine_label")
    both = fine.add_column("coarse_label", LABELS.tolist())
    both = both.cast_column("coarse_label", datasets.ClassLabel(names=list(NAMES)))
    with pytest.raises(InputError, match="columns fine_label, coarse_label; allowed: one of them renamed to 'label'"):
        Data.from_datasets(both, both, standardise=HALF)
    renamed = both.rename_column("fine_label", "label")
    assert Data.from_datasets(renamed, renamed, standardise=HALF).classes == NAMES


def test_bytes_without_anything_to_scale_them_are_refused():
    for sets in (hugging_face(0), hugging_face(0).with_format("torch"), Items([(Image.new("L", (4, 4)), 0)] * 2)):
        with pytest.raises(InputError, match=r"train: images of torch.uint8; allowed: floats, as of Standardise"):
            Data.from_datasets(sets, sets, classes=NAMES)


def test_items_that_hold_nan_are_refused_by_their_place():
    items = as_pairs(0).items
    items[35] = torch.full((3, 8, 8), torch.nan), 2
    with pytest.raises(InputError, match="test: example 35 holds NaN or infinite values"):
        Data.from_datasets(as_pairs(0), Items(items))


def test_pictures_of_other_modes_are_refused():
    items = Items([(Image.new("CMYK", (4, 4)), 0)] * 2)
    with pytest.raises(InputError, match="a picture of mode CMYK; allowed: L or RGB"):
        Data.from_datasets(items, items, standardise=HALF)


# --------------------------------------------------------------------------------------------- torchvision


@pytest.fixture
def folders(tmp_path) -> Path:
    for name, start in (("cat", 0), ("dog", EACH)):
        (tmp_path / name).mkdir()
        for row in range(start, start + 4):
            Image.fromarray(pixels(0)[row]).save(tmp_path / name / f"{row}.png")
    return tmp_path


def test_torchvision_sets_are_read_with_or_without_a_transform(folders):
    vision = pytest.importorskip("torchvision")
    plain = vision.datasets.ImageFolder(folders)
    data = Data.from_datasets(plain, plain, standardise=HALF)
    assert (data.classes, input_shape(data.train)) == (("cat", "dog"), (3, 8, 8))
    own = vision.datasets.ImageFolder(folders, vision.transforms.ToTensor())
    inputs, _ = Data.from_datasets(own, own).train.batch(torch.arange(8))
    assert torch.equal(inputs, data.train.stored(torch.arange(8)) / 255)


def test_a_transform_of_labels_counts(folders):
    vision = pytest.importorskip("torchvision")
    turned = vision.datasets.ImageFolder(folders, target_transform=lambda label: 1 - label)
    assert examples_from(turned).labels.tolist() == [1] * 4 + [0] * 4
    assert examples_from(Subset(turned, [7, 0])).labels.tolist() == [0, 1]


def test_random_transforms_are_refused_in_either_part(folders):
    vision = pytest.importorskip("torchvision")
    steps = vision.transforms
    still = vision.datasets.ImageFolder(folders, steps.ToTensor())
    moving = vision.datasets.ImageFolder(folders, steps.Compose([steps.RandomHorizontalFlip(), steps.ToTensor()]))
    for part, sets in (("train", (moving, still)), ("test", (still, moving))):
        with pytest.raises(InputError, match=f"{part}: example . differs when it is read again; allowed: .*Recipe"):
            Data.from_datasets(*sets)
    drawn = Drawn(as_pairs(0).items)  # a data set that has nothing but what it draws
    with pytest.raises(InputError, match="train: example 0 differs"):
        Data.from_datasets(drawn, drawn)


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "subset"])
def test_one_photograph_in_both_parts_is_found_under_different_transforms(whole, folders):
    vision = pytest.importorskip("torchvision")
    steps = vision.transforms
    train, test = (
        vision.datasets.ImageFolder(folders, steps.Compose([step, steps.ToTensor()]))
        for step in (steps.CenterCrop(6), steps.Resize(6))
    )
    data = Data.from_datasets(train if whole else Subset(train, range(8)), test)
    assert not set(data.train.fingerprints()) & set(data.test.fingerprints())
    assert data.train.origins() == data.test.origins()
    with pytest.raises(InputError, match="8 of 8 held-out examples occur in the training data too"):
        make_probe(data, ForgetClasses(["cat"]), 0)


def test_originals_of_hugging_face_are_what_its_transform_got():
    plain, moved = hugging_face(0), with_pixel_values(0)
    assert examples_from(plain).origins() == examples_from(moved).origins()
    assert len(set(examples_from(moved).origins())) == len(LABELS)


# ------------------------------------------------------------------------------------------- FILE.py:FUNCTION

NEIGHBOURS = """
import torch
import helper

class Items(torch.utils.data.Dataset):
    classes = ("cat", "dog")
    def __len__(self):
        return 4
    def __getitem__(self, row):
        import lazily
        assert lazily.HOME == helper.HOME
        return torch.full((1, 2, 2), float(row + helper.FIRST)), row % 2

def pair():
    return Items(), Items()

def parts():
    return {"train": Items(), "unsupervised": None, "validation": Items()}

def hugging_face():
    import datasets
    one = datasets.Dataset.from_dict({"x": [[0.0], [1.0]], "label": [0, 1]}).with_format("torch")
    return datasets.DatasetDict(train=one, test=one)

def alone():
    return {"train": Items()}

def single():
    return Items()
"""


def write_file(folder: Path, first: int) -> Path:
    folder.mkdir()
    (folder / "mine.py").write_text(NEIGHBOURS)
    (folder / "helper.py").write_text(f"HOME, FIRST = {folder.name!r}, {first}")
    (folder / "lazily.py").write_text(f"HOME = {folder.name!r}")
    return folder / "mine.py"


def test_a_data_file_may_return_a_pair_or_parts_of_data_sets(tmp_path):
    path = write_file(tmp_path / "one", 0)
    for function in ("pair", "parts"):
        data = load_data(f"{path}:{function}")
        assert (data.name, data.classes, len(data.train), len(data.test)) == ("mine", ("cat", "dog"), 4, 4)
    pytest.importorskip("datasets")
    assert len(load_data(f"{path}:hugging_face").test) == 2
    for function, returned in (("alone", "parts train"), ("single", "Items")):
        with pytest.raises(InputError, match=f"{function} of .* returned {returned}; allowed: .* a pair"):
            load_data(f"{path}:{function}")


def test_data_files_import_their_own_neighbours_and_hide_nothing_that_is_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    paths = [write_file(tmp_path / name, first) for name, first in (("one", 0), ("two", 10))]
    (tmp_path / "two" / "json.py").write_text("raise RuntimeError('not the library')")
    for path, first in zip(paths, (0, 10), strict=True):
        data = load_data(f"{path}:pair")
        inputs, _ = data.train.batch(torch.tensor([0]))  # its items import a neighbour only now
        assert isinstance(inputs, torch.Tensor)
        assert inputs.unique().tolist() == [first]
    installed = str(Path(np.__file__).parents[1])
    assert sys.path.index(installed) < sys.path.index(str(paths[1].parent)) < sys.path.index(str(paths[0].parent))
    assert hasattr(sys.modules["json"], "dumps")
