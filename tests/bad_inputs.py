"""A small world of files, most of them damaged, and the table of command lines that must be refused in it.

Every row is one command line. `{w}` stands for the world's folder.
"""

import gzip
import io
import json
import pickle
import struct
import zipfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from report_samples import finding
from safetensors.torch import save
from test_hostile_data import (
    npz_of_a_terabyte,
    npz_of_brackets,
    npz_of_digits,
    npz_of_empty_words,
    npz_of_letters_beyond_unicode,
)

import rasura
from rasura import Recipe, methods
from rasura.audits import VERDICT
from rasura.files import as_json, hash_of_json
from rasura.models import fresh_model, to_card
from rasura.models.load import write_model
from rasura.options import Audit, Bench, Compare, Forget, Train
from rasura.sealed import RUN, seal

DIGITS = "--data digits"
NET = "convnet,width=2"
NINES = "9" * 5000
BOMBS = [npz_of_a_terabyte, npz_of_brackets, npz_of_digits, npz_of_empty_words, npz_of_letters_beyond_unicode]
MODEL = "--model {w}/model"
OUT = "--out {w}/out"
BASE = {
    "train": f"train {DIGITS} --model {NET} {OUT}",
    "forget": f"forget damp {DIGITS} {MODEL} {OUT} --forget 3",
    "audit": f"audit {DIGITS} {MODEL} --original {{w}}/model {OUT} --forget 3",
    "compare": f"compare {DIGITS} {MODEL} --reference {{w}}/reference {OUT} --forget 3",
    "bench": f"bench {{w}}/grids/good.toml {OUT}",
}
"""Complete command lines: nothing is wrong with them until something is added."""

OPTIONS = {
    "train": (*fields(Train), *fields(Recipe)),
    "forget": fields(Forget),
    "audit": fields(Audit),
    "compare": fields(Compare),
    "bench": fields(Bench)[1:],
}


# ------------------------------------------------------------------------------------------------- files


def build(world: Path) -> None:
    """Write the world: good models, and bad files of every kind that rasura reads."""
    data = rasura.load_data("digits")
    for name, training in (("model", {}), ("reference", {"without": ["3"]})):
        card = to_card(NET, data, training=training)
        (world / name).mkdir()
        write_model(fresh_model(card), world / name)
    for folder, make in {
        "npz": _npz,
        "idx": _idx,
        "cifar": _cifar,
        "images": _images,
        "text": _texts,
        "code": _code,
        "models": _models,
        "weights": _weights,
        "grids": _grids,
        "samples": _samples,
        "found": _findings,
        "runs": _runs,
    }.items():
        (world / folder).mkdir()
        for name, content in make(world).items():
            path = world / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
    for folder in {path.parent for path in (world / "found").rglob(VERDICT)}:
        seal(folder, {"hash": hash_of_json({"kind": "audit"}), "spec": {"kind": "audit"}})
    (world / "file").write_text("a file")
    for bomb in BOMBS:
        (world / "bombs" / bomb.__name__).mkdir(parents=True)
        bomb(world / "bombs" / bomb.__name__)
    (world / "empty").mkdir()
    (world / "full").mkdir()
    (world / "full" / "thesis.txt").write_text("mine")


def _npz(world: Path) -> dict[str, bytes]:
    def packed(**changes: Any) -> bytes:
        arrays: dict[str, Any] = {
            "x_train": np.zeros((40, 8, 8), np.uint8),
            "y_train": np.arange(40) % 10,
            "x_test": np.ones((20, 8, 8), np.uint8),
            "y_test": np.arange(20) % 10,
        } | changes
        buffer = io.BytesIO()
        np.savez(buffer, **{key: value for key, value in arrays.items() if value is not None})
        return buffer.getvalue()

    whole = packed()
    return {
        "good.npz": whole,
        "empty.npz": b"",
        "text.npz": b"not a zip file",
        "cut.npz": whole[:300],
        "tail.npz": whole[:-30],
        "zip-of-text.npz": _zip({"x_train.npy": b"text", "y_train.npy": b"", "x_test.npy": b"", "y_test.npy": b""}),
        "zip-of-nothing.npz": _zip({}),
        "no-labels.npz": packed(y_train=None),
        "no-test-labels.npz": packed(y_test=None),
        "no-images.npz": packed(x_train=None),
        "floats.npz": packed(x_train=np.zeros((40, 8, 8), np.float32)),
        "wide.npz": packed(x_train=np.full((40, 8, 8), 300, np.int64)),
        "negative.npz": packed(x_train=np.full((40, 8, 8), -1, np.int64)),
        "objects.npz": packed(x_train=np.array([None] * 40, dtype=object)),
        "words.npz": packed(x_train=np.array(["a"] * 40)),
        "flat.npz": packed(x_train=np.zeros((40, 64), np.uint8)),
        "deep.npz": packed(x_train=np.zeros((40, 8, 8, 3, 1), np.uint8)),
        "five-channels.npz": packed(
            x_train=np.zeros((40, 8, 8, 5), np.uint8), x_test=np.zeros((20, 8, 8, 5), np.uint8)
        ),
        "short-labels.npz": packed(y_train=np.arange(39) % 10),
        "float-labels.npz": packed(y_train=np.arange(40) + 0.5),
        "flat-labels.npz": packed(y_train=np.zeros((40, 2), np.int64)),
        "word-labels.npz": packed(y_train=np.array(["a"] * 40)),
        "negative-labels.npz": packed(y_train=np.arange(40) % 10 - 1),
        "test-size.npz": packed(x_test=np.ones((20, 9, 9), np.uint8)),
        "no-rows.npz": packed(x_train=np.zeros((0, 8, 8), np.uint8), y_train=np.zeros(0, np.int64)),
        "no-test-rows.npz": packed(x_test=np.zeros((0, 8, 8), np.uint8), y_test=np.zeros(0, np.int64)),
        "strange-class.npz": packed(y_test=np.arange(20) % 11),
        "few-names.npz": packed(classes=np.array(["a", "b"])),
        "same-names.npz": packed(classes=np.array(["a"] * 10)),
        "empty-name.npz": packed(classes=np.array(["", *"abcdefghi"])),
        "one-class.npz": packed(y_train=np.zeros(40, np.int64), y_test=np.zeros(20, np.int64)),
        "true-label.npz": packed(y_train=np.arange(40) % 2 == 0, y_test=np.arange(20) % 2 == 0),
    }


def _zip(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _idx(world: Path) -> dict[str, bytes]:
    images = struct.pack(">4I", 0x803, 20, 8, 8) + bytes(20 * 64)
    labels = struct.pack(">2I", 0x801, 20) + bytes(range(10)) * 2
    names = [f"{part}-{kind}" for part in ("train", "t10k") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")]
    whole = dict(zip(names, (images, labels) * 2, strict=True))
    damaged = {
        "no-labels": {names[1]: None},
        "no-test": {names[2]: None},
        "no-test-labels": {names[3]: None},
        "empty": {names[0]: b""},
        "head": {names[0]: images[:7]},
        "magic": {names[0]: b"\0\0\0\0" + images[4:]},
        "swapped": {names[0]: labels, names[1]: images},
        "cut": {names[0]: images[:-1]},
        "long": {names[1]: labels + b"\0"},
        "many": {names[0]: struct.pack(">4I", 0x803, 2**32 - 1, 2**32 - 1, 2**32 - 1)},
        "fewer": {names[1]: struct.pack(">2I", 0x801, 19) + bytes(19)},
        "zipped-text": {names[0]: None, f"{names[0]}.gz": b"text"},
        "zipped-cut": {names[0]: None, f"{names[0]}.gz": gzip.compress(images)[:-9]},
        "strange-class": {names[3]: struct.pack(">2I", 0x801, 20) + bytes([11] * 20)},
    }
    folders = {"good": whole, **{name: whole | changes for name, changes in damaged.items()}}
    return {
        f"{folder}/{name}": one for folder, held in folders.items() for name, one in held.items() if one is not None
    }


def _cifar(world: Path) -> dict[str, bytes]:
    row = bytes(3073)
    ten = {f"data_batch_{k}.bin": row for k in range(1, 6)} | {"test_batch.bin": row}
    folders: dict[str, dict[str, bytes]] = {
        "ten-cut": ten | {"data_batch_3.bin": row[:-1]},
        "ten-empty": ten | {"data_batch_3.bin": b""},
        "ten-missing": {name: one for name, one in ten.items() if name != "data_batch_4.bin"},
        "ten-untested": {name: one for name, one in ten.items() if name != "test_batch.bin"},
        "ten-label": ten | {"data_batch_1.bin": b"\xff" + row[1:]},
        "pickled": {"data_batch_1": pickle.dumps({}), "test_batch": b""},
        "hundred-cut": {"train.bin": bytes(3074)[:-1], "test.bin": bytes(3074)},
        "hundred-untested": {"train.bin": bytes(3074)},
    }
    return {f"{folder}/{name}": content for folder, held in folders.items() for name, content in held.items()}


def _images(world: Path) -> dict[str, bytes]:
    def png(shape: tuple[int, ...] = (8, 8), kind: str = "PNG", dtype: Any = np.uint8) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(np.zeros(shape, dtype)).save(buffer, kind)
        return buffer.getvalue()

    good = {f"{name}/{k}.png": png() for name in ("cat", "dog") for k in range(6)}
    damaged: dict[str, dict[str, Any]] = {
        "cut": {"cat/0.png": png()[:40]},
        "text": {"cat/0.png": b"no picture"},
        "void": {"cat/0.png": b""},
        "sizes": {"cat/0.png": png((9, 9))},
        "deep": {"cat/0.png": png(dtype=np.uint16)},
    }
    folders = {"good": good, **{name: good | changes for name, changes in damaged.items()}}
    folders["one-class"] = {f"cat/{k}.png": png() for k in range(6)}
    folders["no-class"] = {f"{k}.png": png() for k in range(6)}
    folders["no-pictures"] = {"cat/readme.txt": b"", "dog/readme.txt": b""}
    folders["train-only-empty"] = {"train/readme.txt": b"", "test/cat/0.png": png()}
    folders["strange-test"] = {f"train/{name}": one for name, one in good.items()} | {"test/cow/0.png": png()}
    return {f"{folder}/{name}": content for folder, held in folders.items() for name, content in held.items()}


def _texts(world: Path) -> dict[str, str | bytes]:
    rows = [{"text": f"word {k}", "label": "ab"[k % 2]} for k in range(20)]

    def lines(*changed: Any) -> str:
        return "\n".join(one if isinstance(one, str) else json.dumps(one) for one in [*rows, *changed])

    return {
        "good.jsonl": lines(),
        "empty.jsonl": "",
        "broken.jsonl": lines("{"),
        "list.jsonl": lines([1]),
        "number.jsonl": lines("3"),
        "no-text.jsonl": lines({"label": "a"}),
        "no-label.jsonl": lines({"text": "word"}),
        "null-text.jsonl": lines({"text": None, "label": "a"}),
        "null-label.jsonl": lines({"text": "word", "label": None}),
        "float-label.jsonl": lines({"text": "word", "label": 0.5}),
        "empty-text.jsonl": lines({"text": "", "label": "a"}),
        "empty-label.jsonl": lines({"text": "word", "label": ""}),
        "latin.jsonl": lines().encode() + b'\n{"text": "\xff\xfe", "label": "a"}',
        "other-keys.jsonl": '{"a": 1, "b": 2}',
        "head.csv": "text,label\n",
        "empty.csv": "",
        "other.csv": "a,b\n1,2\n",
        "ragged.csv": "text,label\nword,a\nword,a,b\n",
        "no-label.csv": "text\nword\n",
        "latin.csv": b"text,label\n\xff\xfe,a\n",
    }


def _code(world: Path) -> dict[str, str]:
    return {
        "raises.py": "raise KeyError('x')\n",
        "syntax.py": "def data(:\n",
        "imports.py": "import nothing_of_that_name\n",
        "leaves.py": "import sys\nsys.exit(0)\n",
        "nul.py": "\0",
        "latin.py": "# \udcff\n".encode("utf-8", "surrogateescape").decode("latin-1"),
        "functions.py": (
            "import sys\nnumber = 3\n"
            "def needs(folder):\n    return folder\n"
            "def nothing():\n    pass\n"
            "def word():\n    return 'data'\n"
            "def breaks():\n    return {}['x']\n"
            "def leaves():\n    sys.exit(0)\n"
            "def net_of_nothing(classes):\n    pass\n"
            "def net_breaks(classes):\n    return {}['x']\n"
            "def net_leaves(classes):\n    sys.exit(0)\n"
        ),
    }


def _models(world: Path) -> dict[str, bytes]:
    good = {name: (world / "model" / name).read_bytes() for name in ("model.json", "model.safetensors")}
    card = json.loads(good["model.json"])

    def with_card(**changes: Any) -> dict[str, bytes]:
        return good | {"model.json": json.dumps(card | changes).encode()}

    folders: dict[str, dict[str, bytes]] = {
        "cut": good | {"model.safetensors": good["model.safetensors"][:200]},
        "flipped": good | {"model.safetensors": good["model.safetensors"][:-1] + b"\x01"},
        "void": good | {"model.safetensors": b""},
        "no-weights": {"model.json": good["model.json"]},
        "no-card": {"model.safetensors": good["model.safetensors"]},
        "broken-card": good | {"model.json": b"{"},
        "void-card": good | {"model.json": b""},
        "latin-card": good | {"model.json": b"\xff\xfe"},
        "list-card": good | {"model.json": b"[]"},
        "number-card": good | {"model.json": b"3"},
        "null-card": good | {"model.json": b"null"},
        "empty-card": good | {"model.json": b"{}"},
        "format-99": with_card(format=99),
        "format-word": with_card(format="one"),
        "format-null": with_card(format=None),
        "other-hash": with_card(sha256="0" * 64),
        "no-hash": with_card(sha256=None),
        "no-architecture": with_card(architecture=None),
        "unknown-architecture": with_card(architecture="convnat"),
        "unknown-option": with_card(architecture="convnet,wdth=2"),
        "word-option": with_card(architecture="convnet,width=two"),
        "other-width": with_card(architecture="convnet,width=3"),
        "python": with_card(architecture=f"{world}/code/functions.py:net_leaves"),
        "timm-words": with_card(architecture="timm:resnet18,checkpoint_path=/etc/passwd"),
        "few-classes": with_card(classes=["a", "b"]),
        "number-classes": with_card(classes=3),
        "null-classes": with_card(classes=None),
        "word-shape": with_card(input_shape="wide"),
        "flat-shape": with_card(input_shape=[3]),
        "other-shape": with_card(input_shape=[3, 8, 8]),
        "null-training": with_card(training=3),
        "word-history": with_card(history="long"),
        "word-mean": with_card(mean=["a"]),
    }
    folders |= {
        "deep-card": good | {"model.json": b"[" * 100_000},
        "long-number-card": good | {"model.json": json.dumps(card).replace("1", NINES, 1).encode()},
        "many-classes": with_card(classes=[str(number) for number in range(10**6)]),
        "huge-card": with_card(architecture="vit,depth=9999999"),
        "hub-card": with_card(architecture="hf:someone/beacon"),
    }
    for key in ("architecture", "classes", "input_shape", "mean", "std", "data", "training", "history"):
        left = {name: value for name, value in card.items() if name != key}
        folders[f"without-{key}"] = good | {"model.json": json.dumps(left).encode()}
    return {f"{folder}/{name}": content for folder, held in folders.items() for name, content in held.items()}


def _weights(world: Path) -> dict[str, bytes]:
    state = rasura.load_model(world / "model").state_dict()
    first = next(iter(state))

    def saved(content: Any) -> bytes:
        buffer = io.BytesIO()
        torch.save(content, buffer)
        return buffer.getvalue()

    whole = saved(state)
    made = {
        "cut.pt": whole[: len(whole) // 2],
        "void.pt": b"",
        "number-cut.pt": b"J",
        "text.pt": b"no weights",
        "pickle.pt": pickle.dumps({"a": 1}, protocol=2),
        "object.pt": saved(Path("x")),
        "list.pt": saved([1, 2]),
        "number.pt": saved(3),
        "names.pt": saved({"state_dict": {"a": "b"}}),
        "nothing.pt": saved({}),
        "missing.pt": saved({name: one for name, one in state.items() if name != first}),
        "more.pt": saved({**state, "more": torch.zeros(1)}),
        "shape.pt": saved({**state, first: torch.zeros(3, 3)}),
        "nan.pt": saved({**state, first: state[first] * torch.nan}),
        "infinite.pt": saved({**state, first: state[first] + torch.inf}),
        "void.safetensors": b"",
        "text.safetensors": b"no weights",
        "header.safetensors": struct.pack("<Q", 2**40) + b"{}",
        "cut.safetensors": save(state)[:100],
        "missing.safetensors": save({name: one for name, one in state.items() if name != first}),
        "shape.safetensors": save({**state, first: torch.zeros(3, 3)}),
        "nan.safetensors": save({**state, first: state[first] * torch.nan}),
        "picture.bin": b"\x89PNG\r\n\x1a\n",
        "cut.ckpt": whole[:50],
        "cut.pth": whole[:-50],
    }
    return made


GRID = """data = "digits"
models = ["convnet,width=2"]
seeds = [0]
forget = ["3"]
references = 1
[recipe]
epochs = 1
[methods.logit-mask]
"""
GRIDS = [
    *(GRID.replace(f"{key} = ", f"{key}x = ") for key in ("data", "models", "seeds", "forget", "references")),
    *(GRID.replace('"digits"', one) for one in ('"digitz"', '""', "3", "[]", '"npz:none"', '"{w}/none"', "true")),
    *(
        GRID.replace('["convnet,width=2"]', one)
        for one in ('"convnet"', "[]", "[3]", '["convnat"]', '["convnet,width=0"]', '["convnet", "convnet"]', '[""]')
    ),
    *(
        GRID.replace("seeds = [0]", f"seeds = {one}")
        for one in ("0", "[]", "[0, 0]", "[-1]", "[0.5]", '["a"]', "[true]", "[4294967296]", "[[0]]", "[1, 2, 1]")
    ),
    *(
        GRID.replace('["3"]', one)
        for one in (
            '"3"',
            "[]",
            "[3]",
            "[[]]",
            '[["3", "3"]]',
            '["3", "3"]',
            '["3", ["3"]]',
            '[["3", "4"], ["4", "3"]]',
            '["thirteen"]',
            '[["0","1","2","3","4","5","6","7","8","9"]]',
            "[[3]]",
            '[""]',
        )
    ),
    *(GRID.replace("references = 1", f"references = {one}") for one in ("0", "-1", "1.5", '"a"', "true", "[1]")),
    *(
        GRID.replace("epochs = 1", one)
        for one in ("epochs = 0", 'epochs = "a"', "epoch = 1", "epochs = [1]", "epochs = true", "epochs = 1.5")
    ),
    *(
        GRID.replace("epochs = 1", one)
        for one in ('optimiser = "x"', 'augment = "flip"', 'augment = ["turn"]', "clip = -1", "learning_rate = nan")
    ),
    *(
        GRID.replace("[methods.logit-mask]", one)
        for one in (
            "",
            "[methods.logit-msak]",
            "[methods]\nlogit-mask = 1",
            "[methods.logit-mask]\nlogit = 5",
            '[methods.logit-mask]\nlogit = "low"',
            "[methods.logit-mask]\nlogit = [1]",
            "[methods.logit-mask]\nlogti = -5",
            '[methods.one]\nmethod = "none"',
            "[methods.one]\nmethod = 3",
            "[methods.one]",
            "[methods.logit-mask]\n[methods.logit-mask]",
            '[methods.logit-mask]\n[methods.again]\nmethod = "logit-mask"',
        )
    ),
    GRID.replace("[recipe]\nepochs = 1", "recipe = 3"),
    GRID.replace("[recipe]", "[recipe"),
    GRID + "\nmore = ",
    "x = 1" + GRID,
    "seed = 3\n" + GRID,
    "",
    "[]",
    "{}",
    "data",
    '{"data": "digits"}',
]
"""Grids that cannot be run."""


def _grids(world: Path) -> dict[str, str | bytes]:
    written = {f"{number}.toml": text.replace("{w}", str(world)) for number, text in enumerate(GRIDS)}
    code = {
        "data": ("digits", f"{world}/code/functions.py:word"),
        "model": (NET, f"{world}/code/functions.py:net_breaks"),
    }
    written |= {f"python-{name}.toml": GRID.replace(*named) for name, named in code.items()}
    written |= {"deep.toml": "a = " + "[" * 100_000, "long-number.toml": GRID.replace("[0]", f"[{NINES}]")}
    return {"good.toml": GRID, "latin.toml": b"data = '\xff'", "nul.toml": b"\0\0", **written}


def _samples(world: Path) -> dict[str, str | bytes]:
    return {
        "empty.txt": "",
        "blank.txt": "\n\n",
        "words.txt": "one\ntwo\n",
        "negative.txt": "-1\n",
        "float.txt": "1.5\n",
        "twice.txt": "3\n3\n",
        "beyond.txt": "99999\n",
        "commas.txt": "1,2,3\n",
        "nul.txt": b"1\0\n",
        "json.txt": "[1, 2]\n",
        "hex.txt": "0x10\n",
        "latin.txt": b"\xff\xfe1\n",
        "long-number.txt": NINES,
        "long-line.txt": "1 " * 5000 + "x",
    }


def _findings(world: Path) -> dict[str, str | bytes]:
    whole = finding()
    contents = {
        "void": "",
        "broken": "{",
        "list": "[]",
        "number": "3",
        "null": "null",
        "empty": "{}",
        "latin": b"\xff\xfe",
        "format": json.dumps(whole | {"format": 99}),
        "old-format": json.dumps(whole | {"format": 1}),
        "verdict": json.dumps(whole | {"verdict": "FINE"}),
        "verdict-number": json.dumps(whole | {"verdict": 3}),
        "outputs": json.dumps(whole | {"outputs": 3}),
        "request": json.dumps(whole | {"request": None}),
        "comparisons": json.dumps(whole | {"comparisons": 3}),
        "gates": json.dumps(whole | {"gates": 3}),
        "models": json.dumps(whole | {"models": 3}),
        "settings-cut": json.dumps(whole)[:-20],
    }
    for key in ("format", "verdict", "outputs", "comparisons", "request", "data"):
        contents[f"without-{key}"] = json.dumps({name: value for name, value in whole.items() if name != key})
    made: dict[str, str | bytes] = {f"{name}/verdict.json": content for name, content in contents.items()}
    scores = {"void": b"", "text": b"no table", "head": b"PAR1", "both": b"PAR1" + bytes(40) + b"PAR1"}
    for name, content in scores.items():
        made[f"scores-{name}/verdict.json"] = json.dumps(whole)
        made[f"scores-{name}/scores.parquet"] = content
    return made


def _runs(world: Path) -> dict[str, bytes]:
    """What lies where a run is to go: records that say nothing, or something else."""
    spec = {"kind": "train"}
    whole = {"format": 2, "hash": hash_of_json(spec), "spec": spec, "files": {}}
    records = {
        "void": b"",
        "broken": b"{",
        "list": b"[]",
        "null": b"null",
        "empty": b"{}",
        "latin": b"\xff\xfe",
        "deep": b"[" * 100_000,
        "long-number": b'{"format": ' + NINES.encode() + b"}",
        "old": json.dumps({"format": 1, "hash": "0", "spec": spec}).encode(),
        "format-99": _hashed(whole | {"format": 99}),
        "spec-null": _hashed(whole | {"spec": None, "hash": hash_of_json(None)}),
        "files-number": _hashed(whole | {"files": 3}),
        "removed-file": _hashed(whole | {"files": {"model.json": "0"}}),
        "without-spec": _hashed({"format": 2, "files": {}}),
        "other-hash": _hashed(whole | {"hash": "0"}),
        "unhashed": as_json(whole),
        "another": _hashed(whole),
    }
    return {f"{name}/{RUN}": content for name, content in records.items()}


def _hashed(record: dict[str, Any]) -> bytes:
    return as_json(record | {"sha256": hash_of_json(record)})


# -------------------------------------------------------------------------------------------------- rows


def rows() -> list[str]:
    """The table: command lines, each with one thing wrong."""
    found = [
        *_commands(),
        *_options(),
        *_settings(),
        *_architectures(),
        *_data(),
        *_loaded(),
        *_requests(),
        *_benches(),
        *_folders(),
    ]
    assert len(set(found)) == len(found), [one for one in found if found.count(one) > 1]
    return found


def _commands() -> list[str]:
    lists = ["", "x", "method", "methods extra", "methods --jsno", "methods --json --json", "models data", "--json"]
    return [
        *("trian", "TRAIN", "--data digits", "-x", "3", "train.", "help", "''", "forgetting"),
        *(f"list {one}" for one in lists[1:]),
        *(
            "forget dampp",
            "forget DAMP",
            "forget 3",
            "forget --model x",
            "forget contract",
            "forget _head",
            "forget ''",
        ),
        *("demo extra", "demo --out", "demo --ot x", "demo --out '' --json", "demo --json=maybe", "demo --seed 3"),
        *("report", "report a b", "report --folder x", "report '' ", "bench", "bench a b --out c", "bench --out x"),
        *(
            "train",
            "audit",
            "compare",
            "forget damp",
            "audit --recompute",
            "audit --recompute a b",
            "audit --recompute=",
        ),
    ]


def _options() -> list[str]:
    """Each option of each command: twice, empty, without its value, misspelled; numbers as words."""
    found = []
    for command, options in OPTIONS.items():
        base = BASE[command]
        found += [f"{base} --{command}x 3", f"{base} extra", f"{base} --json yes", f"{base} -q"]
        for option in options:
            name = f"--{option.name.replace('_', '-')}"
            if option.name == "json":
                found.append(f"{base} --json --json")
                continue
            added = "" if f" {name} " in base else f" {name} 1"
            found.append(f"{base}{added} {name} 1")
            if not added:
                continue
            found.append(f"{base} {name} ''")
            if "tuple" not in str(option.type):
                found.append(f"{base} {name}")
            if option.type in (int, float):
                found += [f"{base} {name} many", f"{base} {name} 1e"]
    for command in ("train", "forget", "audit", "compare"):
        found += [f"{BASE[command]} --seed {one}" for one in ("-1", "4294967296", "1.5", "0x1")]
    for missing in ("--data digits", "--out {w}/out", "--forget 3", "--reference {w}/reference"):
        found += [base.replace(missing, "") for base in BASE.values() if f"{missing} " in base]
    return found


def _settings() -> list[str]:
    """Values outside of their range: the recipe, every method's numbers and choices, the search, the audit."""
    found = []
    recipe = {
        "epochs": "0 -1 1.5 nan",
        "batch-size": "0 -1 2.5",
        "learning-rate": "-1 nan inf",
        "weight-decay": "nan inf",
        "optimiser": "adam",
        "schedule": "linear",
        "augment": "turn",
        "label-smoothing": "-0.1 1 nan",
        "clip": "-1 nan",
    }
    found += [f"{BASE['train']} --{key} {value}" for key, values in recipe.items() for value in values.split()]
    for name in methods.names():
        base = BASE["forget"].replace("damp", name)
        default = methods.method_class(name)()
        for field in fields(default):
            value, option = getattr(default, field.name), f"--{field.name.replace('_', '-')}"
            if isinstance(value, bool):
                continue
            if isinstance(value, int):
                found += [f"{base} {option} -2", f"{base} {option} many"]
            elif isinstance(value, float):
                found += [f"{base} {option} nan", f"{base} {option} high"]
            elif isinstance(value, str) and option != "--store":
                found.append(f"{base} {option} nonsense")
    search = BASE["forget"].replace("damp", "ssd")
    bad = {
        "budget": "0 -1 1.5 a",
        "tolerance": "-0.1 1 nan a",
        "forget-accuracy": "-0.1 1 nan a",
        "validation": "none 0%",
    }
    for key, values in bad.items():
        found += [f"{search} --strength auto --{key} {value}" for value in values.split()]
        found.append(f"{search} --{key} {'1%' if key == 'validation' else '0' if key == 'tolerance' else '0.5'}")
    found += [f"{search} --budget 8", f"{BASE['compare']} --budget 8", f"{search} --strength manual"]
    found += [f"{BASE['compare']} --strength auto --budget {one}" for one in ("0", "-1", "a")]
    found += [f"{BASE['forget']} --strength auto", f"{BASE['forget'].replace('damp', 'ssd')} --recipe digits"]
    found += [f"{BASE['forget']} --recipe {one}" for one in ("fashion", "none")]
    found += [f"{BASE['audit']} --goal forget", f"{BASE['audit']} --require good", f"{BASE['audit']} --also none"]
    found += [f"{BASE['audit']} --also relearn none", f"{BASE['bench']} --engine slurm"]
    found += [f"{BASE['compare']} --methods {one}" for one in ("none", "damp damp", "damp DAMP")]
    return found


def _architectures() -> list[str]:
    bad = [
        *("resnet9", "resnet8,", "resnet8,width", "resnet8,width=", "resnet8,=3", "resnet8,widht=4", "resnet8,width=a"),
        *("resnet8,width=0", "resnet8,width=-1", "resnet8,width=1.5", "resnet8,width=true", "resnet8,width=4,,"),
        *("vit,heads=3,width=8", "vit,patch=3", "vit,depth=0", "vit,patch=0", "vit,heads=0", ",", "=", ":", "x:y"),
        *("hf:{w}/none", "hf:{w}/empty", "timm:none", "torchvision:none", "timm:", "torchvision:", "none:resnet18"),
        *("{w}/none.py:net", "{w}/code/functions.py:none", "{w}/code/functions.py:number", "{w}/code/functions.py:"),
        *("{w}/code/functions.py:net_of_nothing", "{w}/code/functions.py:net_breaks", "{w}/code/raises.py:net"),
        *(
            "{w}/code/functions.py:net_leaves",
            "{w}/code/leaves.py:net",
            "{w}/code/syntax.py:net",
            "{w}/code/nul.py:net",
        ),
        *("{w}/model", "distilbert", "distilbert,width=64", "resnet8,classes=3", "resnet8,size=9"),
        *("vit,depth=9999999", "vit,width=99999996,heads=1", "convnet,width=99999999", "resnet8,width=9999999999999"),
        f"resnet8,width={NINES}",
    ]
    return [BASE["train"].replace(NET, one) for one in bad]


def _data() -> list[str]:
    good = {"good.npz", "good", "good.jsonl"}
    sources = [
        *(f"npz:{{w}}/npz/{name}" for name in _npz(Path()) if name not in good),
        *(
            "{w}/npz/cut.npz",
            "npz:{w}/none.npz",
            "npz:{w}/empty",
            "npz:",
            "idx:{w}/none",
            "idx:{w}/file",
            "idx:{w}/empty",
        ),
        *(
            f"idx:{{w}}/idx/{name}"
            for name in dict.fromkeys(one.split("/")[0] for one in _idx(Path()))
            if name not in good
        ),
        *(f"cifar10:{{w}}/cifar/{name}" for name in ("ten-cut", "ten-empty", "ten-missing", "ten-untested", "pickled")),
        *("cifar10:{w}/cifar/ten-label", "cifar100:{w}/cifar/hundred-cut", "cifar100:{w}/cifar/hundred-untested"),
        *("cifar10:{w}/none", "cifar100:{w}/empty", "cifar100:{w}/file", "cifar10:{w}/cifar/hundred-cut"),
        *(
            f"folder:{{w}}/images/{name}"
            for name in ("cut", "text", "void", "sizes", "deep", "no-class", "no-pictures")
        ),
        *("folder:{w}/images/train-only-empty", "folder:{w}/images/strange-test", "folder:{w}/none", "folder:{w}/file"),
        *(f"folder:{{w}}/images/good@{size}" for size in ("0", "5000", "99999999999")),
        *("folder:{w}/images/good@", "folder:{w}/images/good@x", "folder:{w}/images/good@-1", "folder:{w}/empty"),
        *(f"text:{{w}}/text/{name}" for name in _texts(Path()) if name not in good),
        *(
            "text:{w}/none.jsonl",
            "text:{w}/empty",
            "text:{w}/text/good.jsonl,words=4",
            "text:{w}/text/good.jsonl,length=2",
        ),
        *(
            f"text:{{w}}/text/good.jsonl,{one}"
            for one in ("words", "words=a", "words=-1", "wrds=9", "tokenizer={w}/none")
        ),
        *(f"{{w}}/code/{name}.py:data" for name in ("raises", "syntax", "imports", "leaves", "nul", "none")),
        *(
            f"{{w}}/code/functions.py:{one}"
            for one in ("none", "number", "needs", "nothing", "word", "breaks", "leaves", "")
        ),
        *(
            "{w}/code/functions.py",
            "{w}/file",
            "{w}/empty",
            "{w}/none",
            "digitz",
            "DIGITS",
            "digits:3",
            "mnist",
            ":",
            "idx:",
        ),
        *(f"canaries:{one}" for one in ("0:digits", "99999:digits", "a:digits", "5", "5:", "5@a:digits", "-1:digits")),
        *(
            "canaries:5@4294967296:digits",
            "canaries:5:none",
            "canaries:5:canaries:5:digits",
            "canaries:",
            "a.b",
        ),
        *("~none", f"canaries:{NINES}:digits", f"folder:{{w}}/images/good@{NINES}", "folder:{w}/images/one-class"),
        f"text:{{w}}/text/good.jsonl,words={NINES}",
        *(f"npz:{{w}}/bombs/{bomb.__name__}/a.npz" for bomb in BOMBS),
    ]
    return [BASE["train"].replace("digits", one) for one in sources]


def _loaded() -> list[str]:
    folders = dict.fromkeys(name.split("/")[0] for name in FOLDERS)
    paths = ["{w}/none", "{w}/empty", "{w}/file", "{w}/full", "{w}/npz/good.npz", "/", "{w}/model/model.json"]
    found = [BASE["forget"].replace("{w}/model", f"{{w}}/models/{name}") for name in folders]
    found += [BASE["forget"].replace("{w}/model", path) for path in paths]
    found += [BASE["audit"].replace("--original {w}/model", f"--original {path}") for path in paths[:4]]
    found += [f"{BASE['audit']} --reference {path}" for path in ("{w}/none", "{w}/models/cut", "{w}/models/format-99")]
    found += [f"{BASE['audit']} --{one} {{w}}/none" for one in ("shadow-original", "shadow-unlearned")]
    found += [f"{BASE['audit']} --reference {{w}}/reference {{w}}/reference"]
    found += [BASE["compare"].replace("{w}/reference", path) for path in ("{w}/none", "{w}/models/cut")]
    for name in WEIGHTS:
        base = BASE["forget"].replace("{w}/model", f"{{w}}/weights/{name}")
        found += [base, f"{base} --architecture {NET}"]
    found += [
        f"{BASE['forget']} --architecture {one}" for one in ("convnat", "resnet8,width=4", "convnet,width=3", "vit")
    ]
    found += [f"{BASE['forget']} --adapter {path}" for path in ("{w}/none", "{w}/empty", "{w}/file", "{w}/model")]
    return found


FOLDERS = [
    *("cut", "flipped", "void", "no-weights", "no-card", "broken-card", "void-card", "latin-card", "empty-card"),
    *("format-99", "format-word", "format-null", "other-hash", "no-hash", "no-architecture", "unknown-architecture"),
    *("unknown-option", "word-option", "other-width", "python", "timm-words", "few-classes", "number-classes"),
    *("null-classes", "word-shape", "flat-shape", "other-shape", "null-training", "word-history", "word-mean"),
    *("list-card", "number-card", "null-card", "without-history", "without-training"),
    *("deep-card", "long-number-card", "many-classes", "huge-card", "hub-card"),
    *(f"without-{key}" for key in ("architecture", "classes", "input_shape", "mean", "std", "data")),
]
WEIGHTS = [
    *(
        "number-cut.pt",
        "cut.pt",
        "void.pt",
        "text.pt",
        "pickle.pt",
        "object.pt",
        "list.pt",
        "number.pt",
        "names.pt",
        "nothing.pt",
    ),
    *("missing.pt", "more.pt", "shape.pt", "nan.pt", "infinite.pt", "void.safetensors", "text.safetensors"),
    *("header.safetensors", "cut.safetensors", "missing.safetensors", "shape.safetensors", "nan.safetensors"),
    *("picture.bin", "cut.ckpt", "cut.pth"),
]


def _requests() -> list[str]:
    everything = " ".join("0123456789")
    classes = ["thirteen", "10", "-1", "3 3", "03 3", "3.0", everything, "3 thirteen", "99999999999999999999"]
    found = [base.replace("--forget 3", f"--forget {one}") for base in list(BASE.values())[1:4] for one in classes]
    found += [f"{BASE['train']} --without {one}" for one in classes]
    samples = [
        *("none.txt", "{w}/none", "{w}/empty", "1,1", "1,", ",1", "-1", "99999", "1;2", "1 %", "0%", "100%", "101%"),
        *("1%@", "1%@a", "0.00001%", "1%@-1", "one", "1.5", "canaries:5", "canaries:", "canaries:5@a", "canaries:0"),
        *(NINES, f"{NINES}%", f"1%@{NINES}", f"canaries:{NINES}"),
        *(f"{{w}}/samples/{name}" for name in SAMPLES),
    ]
    for option, base in (
        ("--without-samples", BASE["train"]),
        ("--forget-samples", BASE["forget"].replace("--forget 3", "").replace("damp", "finetune")),
        ("--forget-samples", BASE["audit"].replace("--forget 3", "")),
    ):
        found += [f"{base} {option} {one}" if " " not in one else f"{base} {option} '{one}'" for one in samples]
    found += [f"{BASE[one]} --forget-samples 1%" for one in ("forget", "audit")]
    found += [BASE[one].replace(" --forget 3", "") for one in ("forget",)]
    found += [f"{BASE['audit'].replace('--forget 3', '--forget-samples 1%')} --goal concept"]
    return found


SAMPLES = [
    *("empty.txt", "blank.txt", "words.txt", "negative.txt", "float.txt", "twice.txt", "beyond.txt", "commas.txt"),
    *("nul.txt", "json.txt", "hex.txt", "latin.txt", "long-number.txt", "long-line.txt"),
]


def _benches() -> list[str]:
    paths = ["{w}/none.toml", "{w}/empty", "{w}/grids/latin.toml", "{w}/grids/nul.toml", "{w}/model/model.safetensors"]
    paths += [f"{{w}}/grids/{number}.toml" for number in range(len(GRIDS))]
    paths += [f"{{w}}/grids/{name}.toml" for name in ("deep", "long-number", "python-data", "python-model")]
    return [f"bench {path} {OUT}" for path in paths]


def _folders() -> list[str]:
    """Where results would go, and where results are read from."""
    taken = ["{w}/file", "{w}/full", "{w}/file/below", "{w}/model/model.json", "."]
    found = [base.replace("{w}/out", path) for base in (BASE["train"], BASE["forget"]) for path in taken]
    runs = [f"{{w}}/runs/{name.split('/')[0]}" for name in _runs(Path())]
    found += [BASE[command].replace("{w}/out", path) for command in ("train", "forget", "audit") for path in runs]
    found += [f"report {{w}}/{path}" for path in ("none", "empty", "file", "full", "model")]
    found += [f"audit --recompute {{w}}/{path}" for path in ("none", "empty", "file", "full", "model")]
    names = dict.fromkeys(name.split("/")[0] for name in _findings(Path()))
    good = ("scores-void", "scores-text", "scores-head", "scores-both")  # their page can be written, not their verdict
    found += [f"report {{w}}/found/{name}" for name in names if name not in good]
    found += [f"audit --recompute {{w}}/found/{name}" for name in names]
    found += [f"audit --recompute={{w}}/found/{name}" for name in good]
    return found
