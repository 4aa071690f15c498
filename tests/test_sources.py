"""Where data comes from: every format from real files, every way in which a file can be wrong."""

import gzip
import importlib.resources
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rasura.data import DATA_SOURCES, Data, Examples, Standardise, load_data
from rasura.errors import InputError

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")
needs_shared = pytest.mark.skipif(not (SHARED / "unpack.py").is_file(), reason=f"{SHARED} is not on this machine")
needs_fashion = pytest.mark.skipif(not DEBIAN_FASHION.is_dir(), reason="Debian's dataset-fashion-mnist is missing")

FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def stored(examples: Examples) -> torch.Tensor:
    """All images of a part as they are stored, bytes."""
    images = examples.stored(torch.arange(len(examples)))
    assert isinstance(images, torch.Tensor)
    return images


def standardise_of(data: Data) -> Standardise:
    assert isinstance(data.train.transform, Standardise)
    assert data.test.transform == data.train.transform  # the held-out images must not choose their own
    return data.train.transform


def per_class(examples: Examples) -> list[int]:
    return torch.bincount(examples.labels).tolist()


# -------------------------------------------------------------------------------------- small files


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">{1 + array.ndim}I", 0x0800 + array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


TRAIN_IMAGES = np.arange(4 * 2 * 3, dtype=np.uint8).reshape(4, 2, 3)
TRAIN_LABELS = np.array([0, 1, 2, 1])
TEST_IMAGES = TRAIN_IMAGES[:2] + 100
TEST_LABELS = np.array([2, 0])


def write_idx(folder: Path, joint="-", packed=False, **replaced: bytes) -> Path:
    """MNIST-style files; `replaced` has the bytes of a file that is to be wrong, by its key."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = {
        "train_images": idx_bytes(TRAIN_IMAGES),
        "train_labels": idx_bytes(TRAIN_LABELS),
        "t10k_images": idx_bytes(TEST_IMAGES),
        "t10k_labels": idx_bytes(TEST_LABELS),
    } | replaced
    for key, content in contents.items():
        ending = "idx3-ubyte" if key.endswith("images") else "idx1-ubyte"
        path = folder / f"{key.replace('_', '-')}{joint}{ending}"
        if packed:
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(content))
        else:
            path.write_bytes(content)
    return folder


def cifar_rows(labels, coarse=None) -> bytes:
    """Rows as in the binary version: row k is filled with the byte k, its first green pixel is 200."""
    pixels = np.repeat(np.arange(len(labels), dtype=np.uint8)[:, None], 3072, axis=1)
    pixels[:, 1024] = 200
    heads = [np.array(column, dtype=np.uint8)[:, None] for column in (coarse, labels) if column is not None]
    return np.concatenate([*heads, pixels], axis=1).tobytes()


def write_cifar10(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, 6):
        (folder / f"data_batch_{number}.bin").write_bytes(cifar_rows([number, 0]))
    (folder / "test_batch.bin").write_bytes(cifar_rows([5, 1, 0]))
    (folder / "batches.meta.txt").write_text("\n".join(CIFAR10) + "\n\n")
    return folder


def write_cifar100(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.bin").write_bytes(cifar_rows([99, 3, 7], coarse=[1, 2, 3]))
    (folder / "test.bin").write_bytes(cifar_rows([7, 99], coarse=[3, 1]))
    return folder


def write_image(path: Path, value, size=(4, 4), mode="L", **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path, **options)
    return path


def write_folder(root: Path, cat=5, dog=10) -> Path:
    """CLASS/image: `cat` and `dog` grey images, each of one value of its own."""
    for name, count, base in (("cat", cat, 0), ("dog", dog, 100)):
        for number in range(count):
            write_image(root / name / f"{number:02}.png", base + number)
    return root


def write_split_folder(root: Path, held="test") -> Path:
    for name, value in (("cat", 10), ("dog", 20)):
        write_image(root / "train" / name / "deeper" / "1.png", value)
        write_image(root / held / name / "2.png", value + 1)
    return root


def write_tiny_imagenet(root: Path) -> Path:
    for wnid, value in (("n02", 20), ("n01", 10), ("n03", 30)):
        write_image(root / "train" / wnid / "images" / f"{wnid}_0.JPEG", (value, 0, 0), mode="RGB", quality=100)
    for number, value in enumerate((30, 10)):
        write_image(root / "val" / "images" / f"val_{number}.JPEG", (value, 0, 0), mode="RGB", quality=100)
    (root / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn03\t0\t0\t63\t63\nval_1.JPEG\tn01\t0\t0\t63\t63\n")
    (root / "wnids.txt").write_text("n02\nn01\nn03\n")
    # Two classes are called "crane" and nobody could tell them apart by that name. Not all words are used.
    (root / "words.txt").write_text("n00\tentity\nn01\tcrane\nn02\tEgyptian cat\nn03\tcrane\n")
    return root


def arrays(**changed) -> dict[str, Any]:
    whole: dict[str, Any] = {
        "x_train": TRAIN_IMAGES,
        "y_train": TRAIN_LABELS,
        "x_test": TEST_IMAGES,
        "y_test": TEST_LABELS,
    } | changed
    return {name: array for name, array in whole.items() if array is not None}


def write_npz(path: Path, **changed) -> Path:
    np.savez_compressed(path, **arrays(**changed))
    return path


def assert_is_the_small_set(data: Data) -> None:
    assert stored(data.train).dtype == torch.uint8
    assert stored(data.train).tolist() == TRAIN_IMAGES[:, None].tolist()
    assert stored(data.test).tolist() == TEST_IMAGES[:, None].tolist()
    assert data.train.labels.tolist() == [0, 1, 2, 1]
    assert data.test.labels.tolist() == [2, 0]


def assert_refused(spec: object, *parts: object) -> None:
    """Refused with a message of one line that holds all parts."""
    with pytest.raises(InputError) as caught:
        load_data(str(spec))
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message


# -------------------------------------------------------------------------------- the embedded data


@pytest.fixture(scope="module")
def mini() -> Data:
    return load_data("fashion-mini")


def test_fashion_mini_is_stratified_and_named(mini):
    assert mini.name == "fashion-mini"
    assert mini.classes == FASHION
    assert per_class(mini.train) == [800] * 10
    assert per_class(mini.test) == [600] * 10
    assert stored(mini.train).shape == (8000, 1, 28, 28)
    assert stored(mini.test).shape == (6000, 1, 28, 28)
    assert stored(mini.train).dtype == torch.uint8


def test_fashion_mini_holds_no_image_twice(mini):
    prints = Counter(mini.train.fingerprints() + mini.test.fingerprints())
    assert len(prints) == 14_000


def test_fashion_mini_is_small_and_carries_its_licence():
    folder = importlib.resources.files("rasura.data")
    with importlib.resources.as_file(folder / "fashion_mini.npz") as path:
        assert path.stat().st_size <= 9_000_000
    licence = (folder / "fashion_mini.LICENSE").read_text(encoding="utf-8")
    assert "Copyright © 2017 Zalando SE" in licence
    assert "Permission is hereby granted, free of charge" in licence


def test_model_inputs_have_mean_0_and_standard_deviation_1_over_the_training_images(mini):
    total = squares = count = 0.0
    for inputs, _ in mini.train.batches(1000):
        total += float(inputs.double().sum())
        squares += float(inputs.double().square().sum())
        count += inputs.numel()
    assert total / count == pytest.approx(0, abs=1e-5)
    assert squares / count == pytest.approx(1, abs=1e-5)


@needs_fashion
def test_fashion_mini_is_built_from_the_original_again_pixel_by_pixel(tmp_path):
    script = Path(__file__).resolve().parents[1] / "benchmarks" / "build_fashion_mini.py"
    import rasura.data

    source = Path(rasura.data.__file__).parents[2]
    command = [sys.executable, str(script), str(DEBIAN_FASHION), str(tmp_path / "again.npz")]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(source)}, stdout=subprocess.DEVNULL)
    with (
        np.load(tmp_path / "again.npz") as again,
        np.load(source / "rasura" / "data" / "fashion_mini.npz") as embedded,
    ):
        assert again.files == embedded.files
        for name in again.files:  # the arrays, not the file: another zlib may pack the same bytes differently
            assert again[name].dtype == embedded[name].dtype
            assert np.array_equal(again[name], embedded[name])


# ------------------------------------------------------------------------------------------- digits


def test_digits_are_bytes_with_a_third_of_each_class_held_out():
    data = load_data("digits")
    assert (data.name, data.classes) == ("digits", tuple("0123456789"))
    assert len(data.train) + len(data.test) == 1797
    images = stored(data.train)
    assert images.dtype == torch.uint8
    assert images.shape[1:] == (1, 8, 8)
    # 17 grey values 0 … 16 times 255 / 16, rounded.
    assert {0, 16, 32, 128, 239, 255} <= set(images.unique().tolist())
    assert len(images.unique()) == 17
    for train, test in zip(per_class(data.train), per_class(data.test), strict=True):
        assert test / (train + test) == pytest.approx(1 / 3, abs=0.005)


def test_digits_are_split_the_same_way_each_time():
    first, second = load_data("digits"), load_data("digits")
    assert first.train.fingerprints() == second.train.fingerprints()
    assert first.test.fingerprints() == second.test.fingerprints()


# ---------------------------------------------------------------------------------------------- idx


@pytest.mark.parametrize("joint", ["-", "."])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("below", [".", "MNIST/raw", "FashionMNIST/raw", "raw"])
def test_idx_files_are_read_under_all_their_names(tmp_path, joint, packed, below):
    write_idx(tmp_path / "set" / below, joint, packed)
    assert_is_the_small_set(load_data(f"idx:{tmp_path / 'set'}"))


def test_idx_data_is_named_after_its_folder(tmp_path):
    assert load_data(f"idx:{write_idx(tmp_path / 'letters')}").name == "letters"
    write_idx(tmp_path / "root" / "MNIST" / "raw")
    assert load_data(f"idx:{tmp_path / 'root'}").name == "MNIST"


def test_idx_classes_are_the_fashion_names_in_a_folder_that_says_so_and_numbers_elsewhere(tmp_path):
    assert load_data(f"idx:{write_idx(tmp_path / 'my-Fashion-set')}").classes == FASHION
    assert load_data(f"idx:{write_idx(tmp_path / 'fashion' / 'raw')}").classes == FASHION
    assert load_data(f"idx:{write_idx(tmp_path / 'plain')}").classes == ("0", "1", "2")


@pytest.mark.parametrize(
    ("file", "content", "parts"),
    [
        ("train_images", idx_bytes(TRAIN_IMAGES)[:-5], ("train-images-idx3-ubyte", "35 bytes", "allowed: 40")),
        ("train_images", idx_bytes(TRAIN_IMAGES) + b"x", ("41 bytes", "allowed: 40")),
        ("t10k_labels", idx_bytes(TEST_LABELS)[:6], ("t10k-labels-idx1-ubyte", "6 bytes", "at least the 8")),
        ("t10k_labels", b"", ("0 bytes", "at least the 8")),
        ("train_labels", idx_bytes(TRAIN_IMAGES), ("magic number 2051", "allowed: 2049")),
        ("train_images", struct.pack(">4I", 2051, 2**31, 2**31, 2**31), ("16 bytes", f"allowed: {2**93 + 16}")),
        ("train_labels", idx_bytes(TRAIN_LABELS[:3]), ("3 labels for 4 inputs",)),
        ("t10k_labels", idx_bytes(np.array([1, 9])), ("class '9' has no training examples",)),
        ("t10k_images", idx_bytes(np.zeros((2, 9, 9))), ("test: inputs of shape (1, 9, 9)", "(1, 2, 3)")),
        ("train_images", idx_bytes(np.zeros((0, 2, 3))), ("0 inputs",)),
    ],
)
def test_damaged_idx_files_are_refused(tmp_path, file, content, parts):
    write_idx(tmp_path, **{file: content})
    assert_refused(f"idx:{tmp_path}", *parts)


def test_an_idx_label_beyond_the_fashion_names_is_refused(tmp_path):
    write_idx(tmp_path / "fashion", train_labels=idx_bytes(np.array([0, 1, 2, 10])))
    assert_refused(f"idx:{tmp_path / 'fashion'}", "train: label 10 is out of range; allowed: 0 to 9")


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[:-10],  # cut off
        lambda whole: b"not gzip at all",
        lambda whole: whole[:12] + bytes(byte ^ 0xFF for byte in whole[12:30]) + whole[30:],  # flipped bits
        lambda whole: whole[:-8] + b"\0\0\0\0" + whole[-4:],  # a wrong checksum
    ],
)
def test_broken_gzip_files_are_refused(tmp_path, damage):
    path = write_idx(tmp_path, packed=True) / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    assert_refused(f"idx:{tmp_path}", path, "no whole gzip file")


def test_missing_idx_files_are_named(tmp_path):
    assert_refused(f"idx:{tmp_path}", tmp_path, "holds no train-images-idx3-ubyte")
    (write_idx(tmp_path) / "t10k-labels-idx1-ubyte").unlink()
    assert_refused(f"idx:{tmp_path}", "holds no t10k-labels")


def test_a_folder_with_two_idx_sets_is_ambiguous(tmp_path):
    write_idx(tmp_path / "MNIST" / "raw")
    write_idx(tmp_path / "FashionMNIST" / "raw")
    assert_refused(f"idx:{tmp_path}", "name one of the two")
    assert_is_the_small_set(load_data(f"idx:{tmp_path / 'FashionMNIST'}"))


# -------------------------------------------------------------------------------------------- CIFAR


@pytest.mark.parametrize("below", [".", "cifar-10-batches-bin"])
def test_cifar10_batches_are_joined_in_order(tmp_path, below):
    write_cifar10(tmp_path / below)
    data = load_data(f"cifar10:{tmp_path}")
    assert data.name == "cifar10"
    assert data.classes[3] == "cat"
    assert len(data.classes) == 10
    assert data.train.labels.tolist() == [1, 0, 2, 0, 3, 0, 4, 0, 5, 0]
    assert data.test.labels.tolist() == [5, 1, 0]
    images = stored(data.test)
    assert images.shape == (3, 3, 32, 32)
    assert images[:, 0].flatten(1).unique(dim=1).flatten().tolist() == [0, 1, 2]  # red: the row's number everywhere
    assert images[:, 1, 0, 0].tolist() == [200, 200, 200]  # the first green pixel
    assert images[:, 1, 0, 1].tolist() == [0, 1, 2]


def test_cifar_classes_are_numbers_without_the_file_of_names(tmp_path):
    (write_cifar10(tmp_path) / "batches.meta.txt").unlink()
    assert load_data(f"cifar10:{tmp_path}").classes == tuple("0123456789")


@pytest.mark.parametrize("below", [".", "cifar-100-binary"])
def test_cifar100_uses_the_fine_labels(tmp_path, below):
    folder = write_cifar100(tmp_path / below)
    data = load_data(f"cifar100:{tmp_path}")
    assert data.name == "cifar100"
    assert data.train.labels.tolist() == [99, 3, 7]
    assert data.test.labels.tolist() == [7, 99]
    assert stored(data.train)[:, 1, 0, :2].tolist() == [[200, 0], [200, 1], [200, 2]]
    assert data.classes[99] == "99"
    (folder / "fine_label_names.txt").write_text("".join(f"thing_{number}\n" for number in range(100)))
    assert load_data(f"cifar100:{tmp_path}").classes[99] == "thing_99"


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("data_batch_2.bin", cifar_rows([1, 2])[:-1], ("data_batch_2.bin", "6145 bytes", "3073", "30730000")),
        ("test_batch.bin", b"", ("test_batch.bin", "0 bytes")),
        ("data_batch_1.bin", cifar_rows([10, 0]), ("train: label 10 is out of range; allowed: 0 to 9",)),
        ("test_batch.bin", cifar_rows([9]), ("class 'truck' has no training examples",)),
    ],
)
def test_damaged_cifar_files_are_refused(tmp_path, name, content, parts):
    (write_cifar10(tmp_path) / name).write_bytes(content)
    assert_refused(f"cifar10:{tmp_path}", *parts)


def test_a_missing_cifar_batch_is_named(tmp_path):
    (write_cifar10(tmp_path) / "data_batch_4.bin").unlink()
    assert_refused(f"cifar10:{tmp_path}", "data_batch_4.bin is missing")


@pytest.mark.parametrize("kind", ["cifar10", "cifar100"])
def test_the_pickled_version_of_cifar_is_refused_and_the_other_named(tmp_path, kind):
    inner = tmp_path / "cifar-10-batches-py"
    inner.mkdir()
    (inner / "data_batch_1").write_bytes(pickle.dumps({b"data": [1]}))
    assert_refused(f"{kind}:{tmp_path}", "binary version", "nothing is ever unpickled")


# ------------------------------------------------------------------------------------ image folders


def test_an_image_folder_without_a_split_holds_out_a_fifth_of_each_class(tmp_path):
    data = load_data(f"folder:{write_folder(tmp_path / 'pets')}")
    assert (data.name, data.classes) == ("pets", ("cat", "dog"))
    assert per_class(data.train) == [4, 8]
    assert per_class(data.test) == [1, 2]
    train, test = (set(stored(part)[:, 0, 0, 0].tolist()) for part in (data.train, data.test))
    assert train | test == set(range(5)) | set(range(100, 110))
    assert not train & test
    # An image keeps its class: cats are 0 … 4, dogs 100 … 109.
    for part in (data.train, data.test):
        assert (stored(part)[:, 0, 0, 0] >= 100).long().tolist() == part.labels.tolist()
    again = load_data(f"folder:{tmp_path / 'pets'}")
    assert torch.equal(stored(data.test), stored(again.test))


def test_a_class_of_one_image_is_only_trained_on(tmp_path):
    data = load_data(f"folder:{write_folder(tmp_path, cat=1)}")
    assert per_class(data.train) == [1, 8]
    assert data.test.labels.tolist() == [1, 1]


@pytest.mark.parametrize("held", ["test", "val", "valid"])
def test_an_image_folder_with_a_split_keeps_it(tmp_path, held):
    data = load_data(f"folder:{write_split_folder(tmp_path, held)}")
    assert data.classes == ("cat", "dog")
    assert stored(data.train)[:, 0, 0, 0].tolist() == [10, 20]
    assert stored(data.test)[:, 0, 0, 0].tolist() == [11, 21]
    assert data.test.labels.tolist() == [0, 1]


def test_a_class_may_be_called_train(tmp_path):
    for name in ("train", "bus"):
        for number in range(5):
            write_image(tmp_path / name / f"{number}.png", number)
    assert load_data(f"folder:{tmp_path}").classes == ("bus", "train")


def test_every_image_format_is_read_whatever_its_letter_case(tmp_path):
    for number, ending in enumerate(("png", "JPG", "jpeg", "Bmp", "webp", "ppm")):
        write_image(tmp_path / "train" / "a" / f"{number}.{ending}", (10, 20, 30), mode="RGB")
    write_image(tmp_path / "train" / "b" / "1.PNG", (0, 0, 0), mode="RGB")
    write_image(tmp_path / "test" / "a" / "1.PNG", (0, 0, 0), mode="RGB")
    (tmp_path / "train" / "a" / "notes.txt").write_text("no image")
    (tmp_path / "train" / "a" / "._1.png").write_bytes(b"what macOS leaves behind")
    (tmp_path / "train" / ".cache").mkdir()
    data = load_data(f"folder:{tmp_path}")
    assert per_class(data.train) == [6, 1]
    pixels = stored(data.train)[:6, :, 0, 0].int()
    assert (pixels - torch.tensor([10, 20, 30])).abs().max() <= 4  # JPEG and WebP lose a little


def test_one_colour_image_makes_all_of_them_rgb(tmp_path):
    write_split_folder(tmp_path)
    assert stored(load_data(f"folder:{tmp_path}").train).shape == (2, 1, 4, 4)
    write_image(tmp_path / "train" / "cat" / "9.png", (1, 2, 3), mode="RGB")
    images = stored(load_data(f"folder:{tmp_path}").train)
    assert images[:, :, 0, 0].tolist() == [[1, 2, 3], [10, 10, 10], [20, 20, 20]]


def test_black_and_white_is_grey_and_palettes_are_colour(tmp_path):
    write_split_folder(tmp_path / "bw")
    write_image(tmp_path / "bw" / "train" / "dog" / "9.png", 1, mode="1")
    assert stored(load_data(f"folder:{tmp_path / 'bw'}").train)[:, 0, 0, 0].tolist() == [10, 255, 20]

    write_split_folder(tmp_path / "palette")
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 7, 8, 9])
    image.save(tmp_path / "palette" / "train" / "dog" / "9.png", transparency=bytes([0, 128]))
    images = stored(load_data(f"folder:{tmp_path / 'palette'}").train)
    assert images[:, :, 0, 0].tolist() == [[10, 10, 10], [7, 8, 9], [20, 20, 20]]


def test_images_of_another_size_are_named_with_both_sizes(tmp_path):
    write_split_folder(tmp_path)
    odd = write_image(tmp_path / "train" / "dog" / "odd.png", 0, size=(5, 4))
    assert_refused(f"folder:{tmp_path}", odd, "5×4", "expected 4×4", "@SIZE")


def test_a_size_after_the_folder_resizes_bicubically(tmp_path):
    write_split_folder(tmp_path)
    gradient = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8) * 5)
    gradient.save(tmp_path / "train" / "cat" / "0.png")
    data = load_data(f"folder:{tmp_path}@3")
    expected = np.asarray(gradient.resize((3, 3), Image.Resampling.BICUBIC))
    assert stored(data.train)[0, 0].tolist() == expected.tolist()
    assert stored(data.train).shape == (3, 1, 3, 3)
    assert load_data(f"{tmp_path}@3").train.fingerprints() == data.train.fingerprints()


def test_a_folder_may_have_an_at_sign_and_a_number_in_its_name(tmp_path):
    data = load_data(f"folder:{write_folder(tmp_path / 'set@2')}")
    assert stored(data.train).shape[1:] == (1, 4, 4)


@pytest.mark.parametrize("size", [0, 5000])
def test_impossible_sizes_are_refused(tmp_path, size):
    assert_refused(f"folder:{tmp_path}@{size}", f"{size}×{size}", "allowed: @1 to @4096")


def test_tiny_imagenet_is_read_with_its_words(tmp_path):
    data = load_data(f"folder:{write_tiny_imagenet(tmp_path / 'tiny')}")
    assert data.name == "tiny"
    assert data.classes == ("n01", "Egyptian cat", "n03")
    assert data.train.labels.tolist() == [0, 1, 2]
    assert data.test.labels.tolist() == [2, 0]
    red = stored(data.train)[:, 0, 0, 0].tolist()
    assert red == pytest.approx([10, 20, 30], abs=3)
    assert stored(data.test)[:, 0, 0, 0].tolist() == pytest.approx([30, 10], abs=3)


def test_tiny_imagenet_without_words_keeps_the_numbers(tmp_path):
    (write_tiny_imagenet(tmp_path) / "words.txt").unlink()
    assert load_data(f"folder:{tmp_path}").classes == ("n01", "n02", "n03")


def test_what_tiny_imagenet_lists_must_be_there_and_known(tmp_path):
    write_tiny_imagenet(tmp_path)
    annotations = tmp_path / "val" / "val_annotations.txt"
    whole = annotations.read_text()
    annotations.write_text(whole + "val_7.JPEG\tn01\t0\t0\t63\t63\n")
    assert_refused(f"folder:{tmp_path}", "val_7.JPEG does not exist, yet it is listed")
    annotations.write_text(whole.replace("n03", "n04"))
    assert_refused(f"folder:{tmp_path}", "val_0.JPEG", "'n04' is unknown")


def test_folders_with_fewer_than_two_classes_are_refused(tmp_path):
    assert_refused(f"folder:{tmp_path}", "holds 0 classes; allowed: at least 2")
    write_image(tmp_path / "cat" / "1.png", 0)
    assert_refused(f"folder:{tmp_path}", "holds 1 classes; allowed: at least 2")
    (tmp_path / "empty").mkdir()
    assert_refused(f"folder:{tmp_path}", tmp_path / "empty", "holds no images; allowed: one or more per class")


def test_a_held_out_class_must_be_trained_on(tmp_path):
    stray = write_image(write_split_folder(tmp_path) / "test" / "wolf" / "1.png", 0)
    assert_refused(f"folder:{tmp_path}", stray, "'wolf' is unknown", "allowed: cat, dog")


def test_a_training_part_alone_is_refused(tmp_path):
    write_folder(tmp_path / "train")
    assert_refused(f"folder:{tmp_path}", "holds train/ but nothing held out")
    (tmp_path / "test").mkdir()
    assert_refused(f"folder:{tmp_path}", "test holds no images")


def test_images_that_cannot_be_read_are_named(tmp_path):
    write_split_folder(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (4, 4), dtype=np.uint8)
    bad = tmp_path / "train" / "dog" / "bad.png"
    for content in (b"", b"no image", b"\x89PNG\r\n\x1a\nbroken"):
        bad.write_bytes(content)
        assert_refused(f"folder:{tmp_path}", bad, "no readable image")
    Image.fromarray(noise).save(bad)
    bad.write_bytes(bad.read_bytes()[:-30])  # its header is whole, its pixels are not
    assert_refused(f"folder:{tmp_path}", bad, "no readable image")


def test_sixteen_bit_images_are_refused_rather_than_clipped(tmp_path):
    write_split_folder(tmp_path)
    deep = tmp_path / "train" / "dog" / "deep.png"
    Image.fromarray(np.full((4, 4), 60_000, dtype=np.uint16)).save(deep)
    assert_refused(f"folder:{tmp_path}", deep, "more than 8 bits", "allowed: 8-bit images")


# ---------------------------------------------------------------------------------------------- npz


def test_npz_arrays_are_read_under_both_sets_of_keys(tmp_path):
    assert_is_the_small_set(load_data(f"npz:{write_npz(tmp_path / 'keras.npz')}"))
    medical = zip(("train_images", "train_labels", "test_images", "test_labels"), arrays().values(), strict=True)
    # MedMNIST: labels are a column, and there is a validation part that we leave aside.
    columns: dict[str, Any] = {name: array[:, None] if name.endswith("labels") else array for name, array in medical}
    np.savez(tmp_path / "medical.npz", val_images=TRAIN_IMAGES, **columns)
    data = load_data(f"npz:{tmp_path / 'medical.npz'}")
    assert_is_the_small_set(data)
    assert (data.name, data.classes) == ("medical", ("0", "1", "2"))


def test_npz_class_names_are_used(tmp_path):
    path = write_npz(tmp_path / "a.npz", classes=np.array(["ä", "b", "c", "unused"]))
    assert load_data(f"npz:{path}").classes == ("ä", "b", "c", "unused")


@pytest.mark.parametrize("channels", [1, 3])
def test_npz_images_have_their_channels_first_or_last(tmp_path, channels):
    first = np.arange(4 * channels * 5 * 6, dtype=np.uint8).reshape(4, channels, 5, 6)
    last = first.transpose(0, 2, 3, 1)
    for images in (first, last):
        path = write_npz(tmp_path / "a.npz", x_train=images, x_test=images[:2])
        assert stored(load_data(f"npz:{path}").train).tolist() == first.tolist()


def test_npz_images_may_be_whole_numbers_of_any_type(tmp_path):
    path = write_npz(tmp_path / "a.npz", x_train=TRAIN_IMAGES.astype(np.int64), x_test=TEST_IMAGES.astype(">i2"))
    assert_is_the_small_set(load_data(f"npz:{path}"))


@pytest.mark.parametrize(
    ("changed", "parts"),
    [
        ({"y_test": None}, ("holds ['x_test', 'x_train', 'y_train']", "x_train, y_train, x_test, y_test")),
        ({"x_train": TRAIN_IMAGES / 255}, ("x_train", "float64", "0 to 255")),
        ({"x_train": TRAIN_IMAGES.astype(int) - 1}, ("x_train", "0 to 255")),
        ({"x_test": TEST_IMAGES.astype(int) + 200}, ("x_test", "0 to 255")),
        ({"x_train": TRAIN_IMAGES[0]}, ("x_train", "shape (2, 3)", "[N, C, H, W]")),
        ({"x_train": np.zeros((4, 5, 6, 7), np.uint8)}, ("x_train", "shape (4, 5, 6, 7)")),
        ({"y_train": np.array([0.0, 1.0, 2.0, 1.0])}, ("y_train", "float64", "whole numbers")),
        ({"y_train": np.zeros((4, 14), int)}, ("y_train", "shape (4, 14)")),
        ({"y_train": np.array([0, 1, 2])}, ("3 labels for 4 inputs",)),
        ({"y_train": np.array([0, 1, 2, -1])}, ("train: label -1 is out of range",)),
        ({"y_train": np.array([0, 1, 2, 10**12])}, ("labels: 1000000000000 is no class number",)),
        ({"classes": np.array(["a", "b"])}, ("label 2 is out of range; allowed: 0 to 1 (2 classes)",)),
        ({"classes": np.array(["a", "b", "a"])}, ("classes: 'a' is named twice",)),
        ({"y_test": np.array([2, 3])}, ("class '3' has no training examples",)),
        ({"x_test": TEST_IMAGES[:0], "y_test": TEST_LABELS[:0]}, ("test: 0 examples",)),
        ({"x_train": TRAIN_IMAGES[:0], "y_train": TRAIN_LABELS[:0]}, ("train: 0 examples",)),
    ],
)
def test_arrays_that_make_no_data_are_refused(tmp_path, changed, parts):
    assert_refused(f"npz:{write_npz(tmp_path / 'a.npz', **changed)}", *parts)


class Trap:
    """Its pickle creates a file when it is loaded."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("name", ["x_train", "y_test", "classes"])
def test_a_pickle_in_an_npz_is_refused_and_never_run(tmp_path, name):
    trap = np.empty(2, dtype=object)
    trap[:] = [Trap(tmp_path / "sprung")] * 2
    path = write_npz(tmp_path / "a.npz", **{name: trap})
    assert_refused(f"npz:{path}", path, "nothing is ever unpickled")
    assert not (tmp_path / "sprung").exists()
    # The trap is a real one: whoever does unpickle the file springs it.
    with np.load(path, allow_pickle=True) as archive:
        archive[name]
    assert (tmp_path / "sprung").exists()


def test_a_bare_pickle_called_npz_is_refused_and_never_run(tmp_path):
    path = tmp_path / "a.npz"
    path.write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    assert_refused(f"npz:{path}", "no whole zip file")
    assert not (tmp_path / "sprung").exists()


def test_broken_npz_files_are_refused(tmp_path):
    path = write_npz(tmp_path / "a.npz", x_train=np.random.default_rng(0).integers(0, 256, (4, 9, 9), np.uint8))
    whole = path.read_bytes()
    middle = whole.index(b"x_train.npy") + 100
    for content in (whole[:-30], whole[:100], b"", b"no zip"):
        path.write_bytes(content)
        assert_refused(f"npz:{path}", path, "no whole zip file")
    path.write_bytes(whole[:middle] + bytes(byte ^ 0xFF for byte in whole[middle : middle + 40]) + whole[middle + 40 :])
    assert_refused(f"npz:{path}", path, "cannot be read")


def test_a_zip_of_something_else_and_a_bare_npy_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x_train.npy", b"text")
        archive.writestr("readme.txt", b"text")
    assert_refused(f"npz:{tmp_path / 'a.npz'}", "holds ['readme.txt', 'x_train']")
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        for name in arrays():
            archive.writestr(f"{name}.npy", b"text")
    assert_refused(f"npz:{tmp_path / 'b.npz'}", "cannot be read", "allowed: an undamaged npz")
    np.save(tmp_path / "c.npy", TRAIN_IMAGES)
    assert_refused(f"npz:{tmp_path / 'c.npy'}", "no whole zip file")


# ------------------------------------------------------------------------------------- Python files

GOOD = """
from __future__ import annotations
import dataclasses, torch
import rasura.data

@dataclasses.dataclass
class Choice:  # dataclasses look their module up in sys.modules
    count: int = 2

def small():
    x = torch.zeros(Choice().count, 1)
    return rasura.data.Data.from_tensors((x, [0, 1]), (x, [0, 1]), name="mine")

def wrong():
    return [1, 2]

number = 3
"""


def test_a_function_of_a_python_file_gives_the_data(tmp_path):
    (tmp_path / "mine.py").write_text(GOOD)
    data = load_data(f"{tmp_path / 'mine.py'}:small")
    assert (data.name, len(data.train)) == ("mine", 2)


def test_two_python_files_of_one_name_do_not_mix_and_hide_no_module(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "json.py").write_text(GOOD.replace("mine", name))
    assert load_data(f"{tmp_path / 'one' / 'json.py'}:small").name == "one"
    assert load_data(f"{tmp_path / 'two' / 'json.py'}:small").name == "two"
    assert hasattr(sys.modules["json"], "dumps")


def test_python_files_that_give_no_data_are_refused(tmp_path):
    path = tmp_path / "mine.py"
    assert_refused(f"{path}:small", path, "does not exist")
    path.write_text(GOOD)
    assert_refused(f"{path}:smal", "has no function 'smal'")
    assert_refused(f"{path}:number", "has no function 'number'")
    assert_refused(f"{path}:wrong", "wrong of", "returned list; allowed: a rasura.Data")
    assert_refused(f"{path}", f"allowed: {path}:FUNCTION")


def test_an_error_in_the_users_own_code_keeps_its_traceback(tmp_path):
    (tmp_path / "mine.py").write_text("def broken():\n    return 1 / 0\n")
    with pytest.raises(InputError, match=r"mine.py:2 does not run \(ZeroDivisionError: division by zero\)") as raised:
        load_data(f"{tmp_path / 'mine.py'}:broken")
    assert isinstance(raised.value.__cause__, ZeroDivisionError)


# ---------------------------------------------------------------------------------- names and paths


@pytest.mark.parametrize(
    ("prefix", "write"),
    [
        ("idx", write_idx),
        ("cifar10", write_cifar10),
        ("cifar100", write_cifar100),
        ("folder", write_folder),
        ("folder", write_tiny_imagenet),
        ("npz", lambda path: write_npz(path.with_suffix(".npz"))),
    ],
)
def test_a_bare_path_is_detected_by_its_content(tmp_path, prefix, write):
    path = write(tmp_path / "set")
    bare, named = load_data(str(path)), load_data(f"{prefix}:{path}")
    assert (bare.name, bare.classes) == (named.name, named.classes)
    for part in ("train", "test"):
        assert getattr(bare, part).fingerprints() == getattr(named, part).fingerprints()
        assert torch.equal(getattr(bare, part).labels, getattr(named, part).labels)


def test_a_tilde_stands_for_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_folder(tmp_path / "pets")
    for spec in ("~/pets", "folder:~/pets", "folder:~/pets@2"):
        assert load_data(spec).name == "pets"


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("fashion-mnist", ("'fashion-mnist' is unknown; did you mean 'fashion-mini'?", "digits", "npz:FILE")),
        ("cifra10:/anywhere/at/all", ("'cifra10' is unknown; did you mean 'cifar10:DIR'?",)),
        ("digits:3", ("'digits:3' is unknown",)),
        ("idx:", ("did you mean 'idx:DIR'?",)),
        ("", ("'' is unknown",)),
        ("/no/such/path", ("/no/such/path does not exist",)),
        ("idx:/no/such/path", ("idx: /no/such/path does not exist",)),
        ("cifar10:/no/such/path", ("does not exist",)),
        ("cifar100:/no/such/path", ("does not exist",)),
        ("folder:/no/such/path@32", ("folder: /no/such/path does not exist",)),
        ("npz:/no/such/path.npz", ("npz: /no/such/path.npz does not exist",)),
    ],
)
def test_names_and_paths_that_are_nothing_are_refused(spec, parts):
    assert_refused(spec, *parts)


def test_files_are_not_folders_and_folders_not_files(tmp_path):
    note = tmp_path / "note.txt"
    note.write_text("text")
    assert_refused(f"folder:{note}", "is a file; allowed: a folder")
    assert_refused(f"npz:{tmp_path}", "is a folder; allowed: a file")
    assert_refused(note, "is a file of no known format")


def test_sources_are_listed_with_a_line_each():
    assert list(DATA_SOURCES)[:2] == ["fashion-mini", "digits"]
    assert {key.partition(":")[0] for key in DATA_SOURCES} == {
        "fashion-mini", "digits", "idx", "cifar10", "cifar100", "folder", "npz", "text", "FILE.py", "canaries",
    }  # fmt: skip
    assert all(line and "\n" not in line for line in DATA_SOURCES.values())


# ------------------------------------------------------------------------------------- standardising


def test_images_are_standardised_per_channel_by_the_training_images_alone(tmp_path):
    images = np.zeros((2, 2, 1, 3), dtype=np.uint8)
    images[0, :, :, 0] = 255  # red: half 255, half 0 → mean .5, std .5
    images[..., 1] = 51  # green: constant 51 / 255 = .2 → std 1, not 0
    images[:, 0, :, 2] = 102  # blue: half .4, half 0 → mean .2, std .2
    bright = np.full((1, 2, 1, 3), 255, dtype=np.uint8)
    path = write_npz(tmp_path / "a.npz", x_train=images, y_train=[0, 1], x_test=bright, y_test=[0])
    standardise = standardise_of(load_data(f"npz:{path}"))
    assert standardise.mean == pytest.approx((0.5, 0.2, 0.2), abs=1e-12)
    assert standardise.std == pytest.approx((0.5, 1.0, 0.2), abs=1e-12)


def test_a_constant_channel_stays_finite(tmp_path):
    # 1/255 is no binary fraction, so floating sums would find a tiny spread instead of none.
    path = write_npz(tmp_path / "a.npz", x_train=np.full((4, 2, 3), 1, np.uint8))
    data = load_data(f"npz:{path}")
    assert standardise_of(data).std == (1.0,)
    inputs, _ = data.train.batch(torch.arange(4))
    assert isinstance(inputs, torch.Tensor)
    assert inputs.abs().max() < 1e-6


def test_means_agree_with_numpy_over_more_than_one_chunk(tmp_path):
    images = np.random.default_rng(0).integers(0, 200, (9000, 2, 2, 3), dtype=np.uint8)
    path = write_npz(tmp_path / "a.npz", x_train=images, y_train=np.arange(9000) % 3, x_test=images[:2])
    standardise = standardise_of(load_data(f"npz:{path}"))
    assert standardise.mean == pytest.approx((images / 255).mean((0, 1, 2)))
    assert standardise.std == pytest.approx((images / 255).std((0, 1, 2)))


# --------------------------------------------------------------------------------------- real files


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory):
    """Unpacks a real data set, once."""
    root = tmp_path_factory.mktemp("real")

    def unpack(name: str) -> Path:
        if not (root / name).is_dir():
            subprocess.run([sys.executable, SHARED / "unpack.py", name, root / name], check=True, capture_output=True)
        return root / name

    return unpack


@needs_fashion
def test_the_complete_fashion_mnist_of_debian_is_read():
    data = load_data(str(DEBIAN_FASHION))
    assert (data.name, data.classes) == ("fashion-mnist", FASHION)
    assert per_class(data.train) == [6000] * 10
    assert per_class(data.test) == [1000] * 10
    # The published mean and standard deviation of Fashion-MNIST.
    assert standardise_of(data).mean == pytest.approx((0.2860,), abs=5e-5)
    assert standardise_of(data).std == pytest.approx((0.3530,), abs=5e-5)


@needs_fashion
def test_fashion_mini_is_a_part_of_fashion_mnist_with_the_same_labels(mini):
    whole = load_data(str(DEBIAN_FASHION))
    for part in ("train", "test"):
        small, large = getattr(mini, part), getattr(whole, part)
        labels = dict(zip(large.fingerprints(), large.labels.tolist(), strict=True))
        assert [labels[one] for one in small.fingerprints()] == small.labels.tolist()


@needs_shared
@pytest.mark.slow
def test_the_complete_mnist_is_read(unpacked):
    data = load_data(f"idx:{unpacked('mnist')}")
    assert (data.name, data.classes) == ("MNIST", tuple("0123456789"))
    assert (len(data.train), len(data.test)) == (60_000, 10_000)
    assert per_class(data.train)[:2] == [5923, 6742]  # published counts of zeros and ones
    assert standardise_of(data).mean == pytest.approx((0.1307,), abs=5e-5)
    assert standardise_of(data).std == pytest.approx((0.3081,), abs=5e-5)


@needs_shared
@pytest.mark.slow
def test_the_complete_cifar10_is_read(unpacked):
    data = load_data(f"cifar10:{unpacked('cifar10')}")
    assert data.classes == CIFAR10
    assert per_class(data.train) == [5000] * 10
    assert per_class(data.test) == [1000] * 10
    assert standardise_of(data).mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=5e-5)
    assert standardise_of(data).std == pytest.approx((0.2470, 0.2435, 0.2616), abs=5e-5)


@needs_shared
@pytest.mark.slow
def test_twenty_classes_of_tiny_imagenet_are_read(unpacked):
    data = load_data(f"folder:{unpacked('tiny-imagenet') / 'tiny-imagenet-200'}")
    assert len(data.classes) == 20
    assert "Egyptian cat" in data.classes
    assert stored(data.train).shape[1:] == (3, 64, 64)
    assert len(set(per_class(data.train))) == 1  # as many of each class
    assert per_class(data.test) == [50] * 20


@needs_shared
def test_sixty_two_people_of_lfw_are_read_and_made_smaller(unpacked):
    root = unpacked("lfw") / "lfw"
    data = load_data(f"folder:{root}@32")
    assert data.name == "lfw"
    assert len(data.classes) == 62
    assert "George_W_Bush" in data.classes
    assert len(data.train) + len(data.test) == sum(1 for _ in root.rglob("*.jpg"))
    assert stored(data.train).shape[2:] == (32, 32)
    for train, test in zip(per_class(data.train), per_class(data.test), strict=True):
        assert test == round((train + test) / 5)
