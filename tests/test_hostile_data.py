"""Data files made to harm: they ask for more memory than there is, start programs, never end, or nest without end."""

import io
import json
import os
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rasura.data import load_data
from rasura.errors import InputError
from rasura.memory import check_room

# ------------------------------------------------------------------------------------------- small files, huge claims

MEBIBYTE = 2**20


def zeros(mebibytes: int, start: bytes = b"") -> bytes:
    """A raw deflate stream of `start` and so many MiB of zeros: a thousandth of that."""
    packer = zlib.compressobj(wbits=-15)
    head = packer.compress(start) + packer.flush(zlib.Z_FULL_FLUSH)
    piece = packer.compress(bytes(MEBIBYTE)) + packer.flush(zlib.Z_FULL_FLUSH)
    return head + piece * mebibytes + packer.flush(zlib.Z_FINISH)


def gzip_of(deflated: bytes) -> bytes:
    return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + deflated + bytes(8)  # nobody comes as far as the checksum


def zip_of(members: dict[str, tuple[bytes, int, int]]) -> bytes:
    """An archive of members that are deflated already, each with the size that it unpacks to, and its checksum."""
    body, directory = b"", b""
    for name, (deflated, size, checksum) in members.items():
        fields = struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 33, checksum, len(deflated), size, len(name), 0)
        directory += b"PK\1\2\x14\0" + fields + struct.pack("<HHHII", 0, 0, 0, 0, len(body)) + name.encode()
        body += b"PK\3\4" + fields + name.encode() + deflated
    count = len(members)
    return body + directory + b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, count, count, len(directory), len(body), 0)


def npy_header(shape: tuple[int, ...], dtype: str = "|u1") -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def npz_with(path: Path, images: bytes) -> str:
    """An archive whose training images are these bytes of an .npy file."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x_train.npy", images)
        for name, shape in (("y_train", (2,)), ("x_test", (2, 1, 1)), ("y_test", (2,))):
            stream = io.BytesIO()
            np.save(stream, np.zeros(shape, np.uint8))
            archive.writestr(f"{name}.npy", stream.getvalue())
    return f"npz:{path}"


def npz_of_a_terabyte(path: Path) -> str:
    return npz_with(path / "a.npz", npy_header((2**40, 1, 1)) + bytes(10))


def npz_of_brackets(path: Path) -> str:
    header = b"(" * 9000
    return npz_with(path / "a.npz", b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header)


def npz_of_digits(path: Path) -> str:
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (" + b"9" * 5000 + b",)}"
    return npz_with(path / "a.npz", b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header)


def npz_of_empty_words(path: Path) -> str:
    return npz_with(path / "a.npz", npy_header((2**40,), "<U0"))


def npz_of_letters_beyond_unicode(path: Path) -> str:
    spec = npz_with(path / "a.npz", npy_header((2, 1, 1)) + b"\0\1")
    with zipfile.ZipFile(path / "a.npz", "a") as archive:
        archive.writestr("classes.npy", npy_header((2,), "<U1") + struct.pack("<II", 97, 0x110000))
    return spec


def npz_bomb(path: Path) -> str:
    size = 3 * 2**30
    head = npy_header((3 * 2**10, 2**10, 2**10))
    label = npy_header((1,)) + b"\0"
    small = zeros(0, label), len(label), zlib.crc32(label)
    images = zeros(3 * 2**10, head), size + len(head), 0
    members = {"x_train.npy": images, "y_train.npy": small, "x_test.npy": small, "y_test.npy": small}
    (path / "a.npz").write_bytes(zip_of(members))
    return f"npz:{path / 'a.npz'}"


def idx_with(path: Path, images: bytes, suffix: str = ".gz") -> str:
    (path / f"train-images-idx3-ubyte{suffix}").write_bytes(images)
    labels = struct.pack(">2I", 2049, 2) + b"\0\1"
    for name in ("train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte"):
        (path / name).write_bytes(labels)
    (path / "t10k-images-idx3-ubyte").write_bytes(struct.pack(">4I", 2051, 2, 1, 1) + b"\0\1")
    return f"idx:{path}"


def gzip_bomb_behind_the_images(path: Path) -> str:
    return idx_with(path, gzip_of(zeros(20 * 2**10, struct.pack(">4I", 2051, 2, 1, 1))))


def gzip_bomb_of_images(path: Path) -> str:
    return idx_with(path, gzip_of(zeros(20 * 2**10, struct.pack(">4I", 2051, 20 * 2**10, 2**10, 2**10))))


def sparse(path: Path, size: int, start: bytes = b"") -> Path:
    """A file of holes, which takes no room on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(start)
    os.truncate(path, size)
    return path


def idx_of_a_terabyte(path: Path) -> str:
    spec = idx_with(path, b"", "")
    sparse(path / "train-images-idx3-ubyte", 16 + 2**40, struct.pack(">4I", 2051, 2**20, 2**10, 2**10))
    return spec


def cifar_of_a_terabyte(path: Path) -> str:
    sparse(path / "data_batch_1.bin", 3073 * 2**29)
    return f"cifar10:{path}"


def a_line_of_a_gigabyte(path: Path) -> str:
    return f"text:{sparse(path / 'a.jsonl', 2**30, b' ')}"


def lines_of_a_terabyte(path: Path) -> str:
    return f"text:{sparse(path / 'a.csv', 2**40, b'text,label')}"


def a_field_of_many_lines(path: Path) -> str:
    (path / "a.csv").write_text('text,label\n"' + "a\n" * 2**24)
    return f"text:{path / 'a.csv'}"


def a_review_of_a_terabyte(path: Path) -> str:
    sparse(path / "train" / "good" / "1.txt", 2**40)
    return f"text:{path}"


def brackets_in_json(path: Path) -> str:
    (path / "a.jsonl").write_text('{"text": ' + "[" * 100_000)
    return f"text:{path / 'a.jsonl'}"


def digits_in_json(path: Path) -> str:
    (path / "a.jsonl").write_text('{"text": "a", "label": ' + "9" * 5000 + "}")
    return f"text:{path / 'a.jsonl'}"


def endless_tokens(path: Path) -> str:
    (path / "a.csv").write_text("text,label\n" + "a,0\nb,1\n" * 4)
    return f"text:{path / 'a.csv'},length=999999999"


def picture(path: Path, side: int) -> str:
    """A picture that says it is so large, and holds a few bytes."""
    packed = b""
    for kind, body in (
        (b"IHDR", struct.pack(">II5B", side, side, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
        (b"IEND", b""),
    ):
        packed += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    for name in ("cat", "dog"):
        (path / name).mkdir()
        Image.new("L", (4, 4)).save(path / name / "0.png")
    (path / "cat" / "large.png").write_bytes(b"\x89PNG\r\n\x1a\n" + packed)
    return f"folder:{path}@8"


def a_large_picture(path: Path) -> str:
    return picture(path, 12_000)  # Pillow only warns of it


def a_huge_picture(path: Path) -> str:
    return picture(path, 60_000)


def a_list_of_a_terabyte(path: Path) -> str:
    for place in ("train/n01", "train/n02", "val/images"):
        (path / place).mkdir(parents=True)
        Image.new("L", (4, 4)).save(path / place / "1.png")
    sparse(path / "val" / "val_annotations.txt", 2**40)
    return f"folder:{path}"


BOMBS = {
    npz_of_a_terabyte: "says 1099511627776 bytes and has 10",
    npz_of_brackets: "cannot be read",
    npz_of_digits: "cannot be read",
    npz_of_empty_words: "whole numbers from 0 to 255",
    npz_of_letters_beyond_unicode: "cannot be read",
    npz_bomb: "times its size; allowed: 100 times beyond 1 GiB",
    gzip_bomb_behind_the_images: "has more bytes; allowed: 18",
    gzip_bomb_of_images: "times its size; allowed: 100 times beyond 1 GiB",
    idx_of_a_terabyte: "takes 1024.0 GiB of memory; allowed: the",
    cifar_of_a_terabyte: "GiB of memory; allowed: the",
    a_line_of_a_gigabyte: "a line of more than 16777216 letters",
    lines_of_a_terabyte: "takes 1024.0 GiB of memory",
    a_field_of_many_lines: "field larger than field limit (16777216)",
    a_review_of_a_terabyte: "is no small text",
    brackets_in_json: "line 1 is no JSON",
    digits_in_json: "line 1 is no JSON",
    endless_tokens: "of 999999999 tokens takes",
    a_large_picture: "has more than 67108864 pixels",
    a_huge_picture: "has more than 67108864 pixels",
    a_list_of_a_terabyte: "is no small text",
}
"""What asks for too much, and what of the answer says so."""

READ = """
import json, resource, sys, time
from rasura.data import load_data
from rasura.errors import InputError
import PIL.Image, tokenizers
said = []
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for spec in json.load(sys.stdin):
    start = time.monotonic()
    try:
        said.append([str(load_data(spec)), 0])
    except InputError as error:
        said.append([str(error), time.monotonic() - start])
print(json.dumps([said, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is counted in KiB there")
def test_what_asks_for_too_much_is_refused_in_one_line_before_memory_is_taken(tmp_path):
    specs = []
    for bomb in BOMBS:
        (tmp_path / bomb.__name__).mkdir()
        specs.append(bomb(tmp_path / bomb.__name__))
    asked = subprocess.run([sys.executable, "-c", READ], input=json.dumps(specs), capture_output=True, text=True)
    assert (asked.returncode, asked.stderr) == (0, "")
    said, kibibytes = json.loads(asked.stdout)
    for (message, seconds), (bomb, part) in zip(said, BOMBS.items(), strict=True):
        assert part in message, bomb
        assert "\n" not in message
        assert seconds < 60
    assert kibibytes <= 2**20


def test_room_is_asked_for_by_what_the_machine_has(monkeypatch, tmp_path):
    check_room("a", 2**30 + 2**20, packed=2**24)
    with pytest.raises(
        InputError, match=r"^a unpacks to 2.0 GiB, 128 times its size; allowed: 100 times beyond 1 GiB$"
    ):
        check_room("a", 2**31, packed=2**24)
    monkeypatch.setattr("rasura.memory.machine_memory", lambda: 400)
    for name in ("cat/0", "cat/1", "dog/0", "dog/1"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8)).save(tmp_path / f"{name}.png")
    assert len(load_data(f"folder:{tmp_path}").train) == 2
    with pytest.raises(InputError, match=r"4 images of 16×16 takes 0.0 GiB of memory; allowed: the 0.0 GiB"):
        load_data(f"folder:{tmp_path}@16")


# ------------------------------------------------------------------------------------------ files that are no images


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(2):
            Image.new("L", (4, 4), 10 * number).save(tmp_path / "data" / name / f"{number}.png")
    return tmp_path / "data"


def refused(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_data(f"folder:{folder}")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_postscript_that_is_called_png_starts_no_program(folder, tmp_path, monkeypatch):
    started = tmp_path / "started"
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {started}\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)  # looked up anew
    path = folder / "cat" / "x.png"
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n")
    with pytest.raises(OSError), Image.open(path) as image:  # noqa: PT011 (Pillow itself asks Ghostscript)
        image.load()
    assert started.exists()
    started.unlink()
    assert f"{path} is no readable image (of none of the formats); allowed: undamaged PNG, JPEG" in refused(folder)
    assert not started.exists()


def test_what_is_no_file_is_named_and_never_waited_for(folder):
    path = folder / "cat" / "x.png"
    os.mkfifo(path)
    start = time.monotonic()
    assert f"{path} is no file; allowed: image files" in refused(folder)
    path.unlink()
    path.mkdir()
    assert f"{path} is no file" in refused(folder)
    path.rmdir()
    path.symlink_to("/dev/zero")
    assert f"{path} is no file" in refused(folder)
    assert time.monotonic() - start < 30


def test_a_pipe_among_texts_is_named_and_never_waited_for(tmp_path):
    for name in ("good", "bad"):
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / "1.txt").write_text("a film")
    os.mkfifo(tmp_path / "train" / "good" / "2.txt")
    with pytest.raises(InputError, match=r"good/2.txt is no small text"):
        load_data(f"text:{tmp_path}")


@pytest.mark.parametrize("form", ["GIF", "PNG", "TIFF", "WEBP"])
def test_several_pictures_in_a_file_are_refused_and_one_is_read(form, folder):
    frames = [Image.new("L", (4, 4), value) for value in (0, 100, 200)]
    path = folder / "cat" / "9.png"
    frames[1].save(path, form, **({"lossless": True} if form == "WEBP" else {}))
    images = load_data(f"folder:{folder}")
    assert {100} <= {int(value) for part in (images.train, images.test) for value in part.source.unique()}
    frames[0].save(path, form, save_all=True, append_images=frames[1:])
    assert f"{path} holds several pictures; allowed: one picture per file" in refused(folder)


def test_photographs_with_a_smaller_copy_of_themselves_are_one_picture(folder):
    copy = Image.new("RGB", (2, 2))
    Image.new("RGB", (4, 4)).save(folder / "cat" / "9.jpg", "MPO", save_all=True, append_images=[copy])
    assert len(load_data(f"folder:{folder}").train) == 3


@pytest.mark.parametrize(
    ("mode", "value", "shown"),
    [
        ("CMYK", (255, 0, 0, 0), (0, 255, 255)),
        ("P", 0, None),
        ("LA", (70, 0), (70, 70, 70)),
        ("RGBA", (1, 2, 3, 0), (1, 2, 3)),
        ("1", 1, (255, 255, 255)),
    ],
)
def test_every_mode_of_eight_bits_becomes_colours(mode, value, shown, folder):
    form = "TIFF" if mode == "CMYK" else "PNG"
    Image.new("RGB", (4, 4), (9, 9, 9)).save(folder / "dog" / "8.png")  # one colour image makes all RGB
    Image.new(mode, (4, 4), value).save(folder / "cat" / "9.tif", form)
    data = load_data(f"folder:{folder}")
    assert data.train.source.shape[1:] == (3, 4, 4)
    colours = {tuple(one[:, 0, 0].tolist()) for part in (data.train, data.test) for one in part.source}
    assert shown is None or shown in colours


@pytest.mark.parametrize("kind", ["uint16", "float32", "int32"])
def test_more_than_eight_bits_are_refused(kind, folder):
    path = folder / "cat" / "9.tiff"
    Image.fromarray(np.full((4, 4), 5, dtype=kind)).save(path)
    assert f"{path} has more than 8 bits per channel" in refused(folder)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM"])
def test_cut_images_are_refused_and_libraries_stay_silent(form, folder, capfd):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    options = {"compression": "tiff_lzw"} if form == "TIFF" else {}
    path = folder / "cat" / "9.png"
    Image.fromarray(noise).save(path, form, **options)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with pytest.raises(InputError, match=r"9.png is no readable image"):
        load_data(f"folder:{folder}@4")
    assert capfd.readouterr().err == ""


# --------------------------------------------------------------------------------------------- words that are no words


@pytest.mark.parametrize("label", ["true", "false", "null", "1.5", "[1]", '""'])
def test_labels_that_are_no_names_and_no_whole_numbers_are_refused(label, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"text": "a film", "label": 1}}\n{{"text": "a film", "label": {label}}}\n')
    with pytest.raises(InputError, match=r"line 2 has (label .*; allowed: a name or a whole number|columns)"):
        load_data(f"text:{path}")


def test_labels_of_truth_values_in_a_saved_data_set_are_refused(tmp_path):
    datasets = pytest.importorskip("datasets")
    part = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [True, False]})
    datasets.DatasetDict(train=part).save_to_disk(str(tmp_path))
    with pytest.raises(InputError, match=r"row 0 .* has label True; allowed: a name or a whole number"):
        load_data(f"text:{tmp_path}")


def test_halves_of_characters_are_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a \\ud83d film", "label": 1}\n')
    with pytest.raises(InputError, match="line 1 has half of a character in its text"):
        load_data(f"text:{path}")
    path.write_text("\n".join(json.dumps({"text": "a film", "label": one}) for one in ("a\ud83d", "b") * 3))
    with pytest.raises(InputError, match=r"'a\\ud83d' is no name; allowed: valid Unicode"):
        load_data(f"text:{path}")


@pytest.mark.parametrize("name", [" ", "\u2003"])
def test_a_blank_folder_is_no_class(name, folder):
    (folder / "dog").rename(folder / name)
    assert "is no name; allowed: valid Unicode that is not blank" in refused(folder)


LONG = "x" * 5000


@pytest.mark.parametrize(
    "spec",
    [
        LONG,
        f"/{LONG}",
        f"idx:{LONG}",
        f"a.py:{LONG}",
        "~nobody-has-this-name/a",
        "a\0b",
        "idx:a\0b",
        "~\0",
        "~\ud800",
        f"/tmp@{'9' * 5000}",
        f"canaries:{'9' * 5000}:digits",
        f"text:a.csv,length={'9' * 5000}",
    ],
    ids=range(12),
)
def test_names_that_no_file_can_have_are_refused(spec):
    with pytest.raises(InputError):
        load_data(spec)


def test_csv_limits_of_the_caller_stay(tmp_path):
    import csv

    before = csv.field_size_limit()
    (tmp_path / "a.csv").write_text("text,label\n" + "a,0\nb,1\n" * 4)
    load_data(f"text:{tmp_path / 'a.csv'},length=4")
    assert csv.field_size_limit() == before
