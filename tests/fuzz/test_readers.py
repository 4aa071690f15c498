"""Damaged files of every format that data come in: each is read, or refused by an `InputError`."""

import contextlib
import gzip
import io
import json
import shutil
import struct
import zipfile

import numpy as np
import pytest
from fuzzing import damaged, fuzz
from hypothesis import strategies as st
from PIL import Image

from rasura.data import load_data, read_samples
from rasura.errors import InputError

IMAGES = np.arange(4 * 2 * 3, dtype=np.uint8).reshape(4, 2, 3)
LABELS = np.array([0, 1, 0, 1], dtype=np.uint8)


def assert_read_or_refused(spec: str) -> None:
    with contextlib.suppress(InputError):
        load_data(spec)


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">{1 + array.ndim}I", 0x0800 + array.ndim, *array.shape) + array.tobytes()


IDX = {
    f"{part}-{kind}": idx_bytes(array)
    for part in ("train", "t10k")
    for kind, array in (("images-idx3-ubyte", IMAGES), ("labels-idx1-ubyte", LABELS))
}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
def test_idx_files(packed, tmp_path):
    whole = {f"{name}.gz": gzip.compress(content) for name, content in IDX.items()} if packed else IDX
    for name, content in whole.items():
        (tmp_path / name).write_bytes(content)

    def target(changed: tuple[str, bytes]) -> None:
        (tmp_path / changed[0]).write_bytes(changed[1])
        assert_read_or_refused(f"idx:{tmp_path}")
        (tmp_path / changed[0]).write_bytes(whole[changed[0]])

    fuzz(st.sampled_from(sorted(whole)).flatmap(lambda name: st.tuples(st.just(name), damaged([whole[name]]))), target)


def test_gzip_of_damaged_idx_files(tmp_path):
    for name, content in IDX.items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))

    def target(content: bytes) -> None:
        (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(content, 1))
        assert_read_or_refused(f"idx:{tmp_path}")

    fuzz(damaged([IDX["train-images-idx3-ubyte"]]), target)


@pytest.mark.parametrize("kind", [10, 100])
def test_cifar_files(kind, tmp_path):
    row = bytes([1, *range(1 if kind == 100 else 0)]) + bytes(3072)
    names = [f"data_batch_{number}.bin" for number in range(1, 6)] if kind == 10 else ["train.bin"]
    words = "batches.meta.txt" if kind == 10 else "fine_label_names.txt"
    test = "test_batch.bin" if kind == 10 else "test.bin"
    for name in (*names, test):
        (tmp_path / name).write_bytes(row)

    def target(changed: tuple[bytes, bytes]) -> None:
        (tmp_path / names[0]).write_bytes(changed[0])
        (tmp_path / words).write_bytes(changed[1])
        assert_read_or_refused(f"cifar{kind}:{tmp_path}")

    lines = damaged([b"\n".join(f"class {number}".encode() for number in range(kind))])
    fuzz(st.tuples(damaged([row]) | st.just(row), lines), target)


def npz_bytes(compression: int, **changed: bytes) -> bytes:
    arrays = {"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES, "y_test": LABELS, "classes": np.array(["a", "b"])}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, array in arrays.items():
            archive.writestr(f"{name}.npy", changed.get(name) or npy_bytes(array))
    return buffer.getvalue()


def npy_bytes(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def test_npz_archives(tmp_path):
    path = tmp_path / "a.npz"

    def target(content: bytes) -> None:
        path.write_bytes(content)
        assert_read_or_refused(f"npz:{path}")

    kinds = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2)
    fuzz(damaged([npz_bytes(kind) for kind in kinds]), target)


def test_npz_arrays(tmp_path):
    path = tmp_path / "a.npz"

    def target(changed: tuple[str, bytes]) -> None:
        path.write_bytes(npz_bytes(zipfile.ZIP_STORED, **{changed[0]: changed[1]}))
        assert_read_or_refused(f"npz:{path}")

    arrays = [npy_bytes(array) for array in (IMAGES, LABELS, np.array(["a", "b"]), LABELS.astype(">i8"))]
    fuzz(st.tuples(st.sampled_from(["x_train", "y_train", "x_test", "classes"]), damaged(arrays)), target)


def image_bytes(form: str, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    pixels = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)
    Image.fromarray(pixels).convert(mode).save(buffer, form)
    return buffer.getvalue()


FORMATS = [(form, "RGB") for form in ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")]
PICTURES = [image_bytes(*one) for one in (*FORMATS, ("PNG", "P"), ("JPEG", "CMYK"), ("TIFF", "1"), ("PNG", "LA"))]


@pytest.mark.parametrize("size", ["", "@6"])
def test_image_folders(size, tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "whole.png").write_bytes(PICTURES[0])

    def target(content: bytes) -> None:
        (tmp_path / "cat" / "damaged.png").write_bytes(content)
        assert_read_or_refused(f"folder:{tmp_path}{size}")

    fuzz(damaged(PICTURES), target)


def test_tiny_imagenet_lists(tmp_path):
    for place in ("train/n01", "train/n02", "val/images"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "1.png").write_bytes(PICTURES[0])

    def target(changed: tuple[bytes, bytes]) -> None:
        (tmp_path / "val" / "val_annotations.txt").write_bytes(changed[0])
        (tmp_path / "words.txt").write_bytes(changed[1])
        assert_read_or_refused(f"folder:{tmp_path}")

    fuzz(st.tuples(damaged([b"1.png\tn01\t0\t0\t3\t3\n"]), damaged([b"n01\tcrane\nn02\tcat\n"])), target)


ROWS = [{"text": f"good film {k}" if k % 2 else f"bad film {k}", "label": k % 2} for k in range(10)]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_files_of_texts(suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    lines = {
        ".jsonl": [json.dumps(row) for row in ROWS],
        ".csv": ["text,label", *(f'"{row["text"]}",{row["label"]}' for row in ROWS)],
    }

    def target(content: bytes) -> None:
        path.write_bytes(content)
        assert_read_or_refused(f"text:{path},length=5")

    fuzz(damaged(["\n".join(lines[suffix]).encode()]), target)


def test_values_of_json_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
        max_leaves=4,
    )

    def target(rows: list) -> None:
        path.write_text("\n".join(json.dumps(row) for row in [*ROWS, *rows]))
        assert_read_or_refused(f"text:{path},length=5")

    row = st.fixed_dictionaries({"text": values, "label": values})
    fuzz(st.lists(row | values, min_size=1, max_size=3), target)


def test_a_file_per_text(tmp_path):
    for place in ("train/neg", "train/pos", "test/neg", "test/pos"):
        (tmp_path / place).mkdir(parents=True)
        for number in range(2):
            (tmp_path / place / f"{number}.txt").write_text("a film")

    def target(content: bytes) -> None:
        (tmp_path / "train" / "neg" / "0.txt").write_bytes(content)
        assert_read_or_refused(f"text:{tmp_path},length=5")

    fuzz(damaged([b"a film", "Ein schöner Film.".encode(), b"\xef\xbb\xbfa film"]), target)


def test_saved_data_sets(tmp_path):
    datasets = pytest.importorskip("datasets")
    whole, path = tmp_path / "whole", tmp_path / "damaged"
    datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS)).save_to_disk(str(whole))
    names = ("dataset_dict.json", "train/dataset_info.json", "train/state.json", "train/data-00000-of-00001.arrow")
    files = {name: (whole / name).read_bytes() for name in names}

    def target(changed: tuple[str, bytes]) -> None:
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(whole, path)
        (path / changed[0]).write_bytes(changed[1])
        assert_read_or_refused(f"text:{path},length=5")

    fuzz(st.sampled_from(sorted(files)).flatmap(lambda name: st.tuples(st.just(name), damaged([files[name]]))), target)


def test_lists_of_samples(tmp_path):
    path, data = tmp_path / "ids.txt", load_data("digits")

    def target(content: bytes) -> None:
        path.write_bytes(content)
        with contextlib.suppress(InputError):
            read_samples(str(path), data)

    fuzz(damaged([b"3\n17\n99\n", b"1 2 3"]), target)


def test_names_of_data(tmp_path, monkeypatch):
    data = load_data("digits")
    monkeypatch.setenv("HOME", str(tmp_path))  # whatever a name means, it is below an empty folder
    monkeypatch.chdir(tmp_path)

    def target(words: str) -> None:
        assert_read_or_refused(words)
        with contextlib.suppress(InputError):
            read_samples(words, data)

    starts = ("", "idx:", "folder:", "npz:", "cifar10:", "canaries:", "canaries:5@", "~", f"{tmp_path}@", "%@", "a.py:")
    rest = st.text(st.characters(exclude_characters="/")) | st.from_regex(r"\d{1,9}[@%,:.\d]*", fullmatch=True)
    fuzz(st.builds("".join, st.tuples(st.sampled_from(starts), rest)), target)


def test_damage_is_damage():
    """The edits reach all of a file and are of all kinds: else the targets would fuzz nothing."""
    seen: set[bytes] = set()
    whole = bytes(range(100))
    fuzz(damaged([whole]), lambda content: seen.add(content))
    assert len(seen) > 20
    assert any(whole[:10] == one[:10] for one in seen) and any(whole[-10:] == one[-10:] for one in seen)
