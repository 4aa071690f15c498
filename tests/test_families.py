"""Whatever `forget` reads, it writes in a form that `audit` and the model's own library read, with the same answers."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import rasura
from rasura.__main__ import ENVIRONMENT
from rasura.cli import main
from rasura.models import card_of, logits_of, preprocessing_of

CLASSES = ("amber", "blue", "coral")
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *CLASSES, *(f"word{number}" for number in range(20)))


class Family(NamedTuple):
    """A model that lies on the disk, and how it is told from others.

    Attributes:
        make: writes the model into a folder; the path and the `--architecture` that it is given with.
        side: of its images; 0 for a model of texts.
        named: whether `audit` needs the architecture again.
        channels: of its images.
    """

    make: Callable[[Path], tuple[Path, str | None]]
    side: int = 8
    named: bool = False
    channels: int = 1


def images(folder: Path, side: int, channels: int) -> str:
    """Three classes of noise that one channel tells apart."""
    generator = np.random.default_rng(0)
    parts = {}
    for part, each in (("train", 30), ("test", 14)):
        labels = np.repeat(np.arange(3), each)
        noise = generator.integers(0, 90, (len(labels), side, side, channels))
        noise[..., 0] += 80 * labels[:, None, None]
        parts |= {f"x_{part}": noise.astype(np.uint8), f"y_{part}": labels}
    np.savez(folder / "data.npz", classes=np.array(CLASSES), **parts)
    return str(folder / "data.npz")


def texts(folder: Path) -> str:
    generator = np.random.default_rng(0)
    (folder / "texts").mkdir()
    for part, each in (("train", 30), ("test", 14)):
        rows = [
            {"text": " ".join((name, *generator.choice(WORDS[7:], 6))), "label": name}
            for name in CLASSES
            for _ in range(each)
        ]
        (folder / "texts" / f"{part}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return f"text:{folder / 'texts'},length=9"


def weights_file(architecture: str, suffix: str, channels: int = 1, side: int = 8) -> Callable[[Path], Any]:
    def make(folder: Path) -> tuple[Path, str]:
        name = architecture.replace("HERE", str(folder))
        if "HERE" in architecture:
            (folder / "net.py").write_text(OWN)
        net, path = rasura.build_model(name, 3, channels, side), folder / f"weights{suffix}"
        data = rasura.load_data(str(folder / "data.npz"))
        rasura.fit(net, data.train, rasura.Recipe(epochs=10, batch_size=16), 0, progress=lambda *_: None)
        if suffix == ".safetensors":
            save_file({key: value.contiguous().clone() for key, value in net.state_dict().items()}, path)
        else:
            torch.save(net.state_dict(), path)
        return path, name

    return make


def trained(architecture: str) -> Callable[[Path], tuple[Path, None]]:
    def make(folder: Path) -> tuple[Path, None]:
        out = folder / "original"
        data = str(folder / "data.npz")
        assert main(["train", "--data", data, "--model", architecture, "--epochs", "4", "--out", str(out)]) == 0
        return out, None

    return make


OWN = """
from torch import nn


def make():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 6), nn.ReLU(), nn.Linear(6, 3))
"""


def hugging_face(kind: str) -> Callable[[Path], tuple[Path, None]]:
    def make(folder: Path) -> tuple[Path, None]:
        hub = folder / "hub"
        net(kind).save_pretrained(hub)  # pyright: ignore[reportCallIssue]
        (bring_tokenizer if kind in ("BERT", "DistilBERT") else bring_processor)(hub, kind)
        (hub / "modeling_evil.py").write_text("raise SystemExit('a script ran')")
        return hub, None

    return make


def net(kind: str) -> nn.Module:
    import transformers

    torch.manual_seed(0)
    names: dict[str, Any] = {"id2label": dict(enumerate(CLASSES)), "label2id": {n: i for i, n in enumerate(CLASSES)}}
    wide = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8} | names
    if kind == "ViT":
        return transformers.ViTForImageClassification(
            transformers.ViTConfig(image_size=8, patch_size=4, num_channels=1, **wide)
        )
    if kind == "ResNet":
        shape: dict[str, Any] = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "layer_type": "basic"}
        return transformers.ResNetForImageClassification(transformers.ResNetConfig(num_channels=1, **shape, **names))
    if kind == "BERT":
        return transformers.BertForSequenceClassification(transformers.BertConfig(vocab_size=len(WORDS), **wide))
    small: dict[str, Any] = {"dim": 8, "n_layers": 2, "n_heads": 2, "hidden_dim": 8} | names
    config = transformers.DistilBertConfig(vocab_size=len(WORDS), **small)
    return transformers.DistilBertForSequenceClassification(config)


def bring_processor(hub: Path, kind: str) -> None:
    import transformers

    shape: dict[str, Any] = {"image_mean": [0.4], "image_std": [0.3]}
    size: dict[str, Any] = {"height": 8, "width": 8}
    if kind == "ResNet":
        transformers.ConvNextImageProcessor(size={"shortest_edge": 8}, **shape).save_pretrained(hub)
    else:
        transformers.ViTImageProcessor(size=size, **shape).save_pretrained(hub)


def bring_tokenizer(hub: Path, kind: str) -> None:
    import transformers

    (hub / "vocab.txt").write_text("\n".join(WORDS))
    getattr(transformers, "BertTokenizer")(str(hub / "vocab.txt")).save_pretrained(hub)  # noqa: B009
    (hub / "vocab.txt").write_text("\n".join(WORDS))


SLOW = pytest.mark.slow

FAMILIES = {
    "zoo convnet": Family(trained("convnet,width=4")),
    "zoo resnet8": Family(trained("resnet8,width=4")),
    "zoo vit": Family(trained("vit,width=8,depth=2,heads=2")),
    "timm": Family(trained("timm:test_resnet"), side=32, channels=3),
    "torchvision": Family(trained("torchvision:squeezenet1_1"), side=32, channels=3),
    "Hugging Face ViT": Family(hugging_face("ViT")),
    "Hugging Face ResNet": Family(hugging_face("ResNet")),
    "Hugging Face BERT": Family(hugging_face("BERT"), side=0),
    "Hugging Face DistilBERT": Family(hugging_face("DistilBERT"), side=0),
    "own file": Family(weights_file("HERE/net.py:make", ".pt"), named=True),
    "weights in safetensors": Family(weights_file("convnet,width=4", ".safetensors")),
    "weights in .pt": Family(weights_file("vit,width=8,depth=2,heads=2", ".pt")),
    "timm weights": Family(weights_file("timm:test_vit,img_size=32", ".safetensors", 3, 32), side=32, channels=3),
}
LONG = {"zoo resnet8", "zoo vit", "timm", "torchvision", "timm weights", "weights in .pt"}


def by_the_library(out: Path, architecture: str | None) -> nn.Module:
    """What a folder holds, read without rasura."""
    import transformers

    if (out / "config.json").is_file():
        texts = (out / "tokenizer.json").is_file()
        kind = (
            transformers.AutoModelForSequenceClassification if texts else transformers.AutoModelForImageClassification
        )
        return kind.from_pretrained(out).eval()
    described = json.loads((out / "model.json").read_text())
    name, options = architecture or described["architecture"], {}
    family, _, rest = name.partition(":")
    if family == "timm":
        import timm

        rest, *pairs = rest.split(",")
        options = {key: int(value) for key, value in (pair.split("=") for pair in pairs)}
        model = timm.create_model(rest, num_classes=3, **options)
    elif family == "torchvision":
        import torchvision

        model = torchvision.models.get_model(rest, num_classes=3)
    else:
        model = rasura.build_model(name, 3, *described["input_shape"][:2])
    model.load_state_dict(load_file(out / "model.safetensors"))
    return model.eval()


@pytest.mark.parametrize(
    "family", [pytest.param(one, marks=SLOW if name in LONG else (), id=name) for name, one in FAMILIES.items()]
)
def test_what_forget_writes_audit_and_the_library_read(family: Family, tmp_path: Path, capfd):
    data = images(tmp_path, family.side, family.channels) if family.side else texts(tmp_path)
    original, architecture = family.make(tmp_path)
    out, given = tmp_path / "out", ["--architecture", architecture] if architecture else []
    common = ["--data", data, "--forget", "coral"]
    assert main(["forget", "logit-mask", "--model", str(original), *given, *common, "--out", str(out)]) == 0
    entry = json.loads((out / "model.json").read_text())["history"][0]
    assert (entry["method"], entry["request"]["classes"]) == ("logit-mask", [2])

    first = str(original) if family.named or not given else str(out)  # a file of weights is not told without its name
    again = ["--model", str(out), "--original", first, *common]
    capfd.readouterr()
    if family.named:
        assert main(["audit", *again, "--out", str(tmp_path / "unnamed")]) == 2
        assert "allowed: with --trust" in capfd.readouterr().err
        again += given
    assert main(["audit", *again, "--out", str(tmp_path / "audit")]) == 0
    assert json.loads((tmp_path / "audit" / "verdict.json").read_text())["verdict"] in rasura.VERDICTS

    read = rasura.load_model(out, architecture if family.named else None)
    assert card_of(read).history[0] == entry
    inputs, _ = rasura.load_data(data, preprocessing_of(out, architecture)).test.batch(torch.arange(20))
    with torch.no_grad():
        assert torch.equal(logits_of(by_the_library(out, architecture), inputs), logits_of(read, inputs))


OURS = re.compile(r"rasura: |.+: \d+/\d+, about \d+ s left$")
"""What is said on stderr: messages and, where it is no terminal, lines of progress."""
MENDED = "import conftest, rasura.__main__; rasura.__main__.entry()"
"""The command line with a torchvision that imports, without which transformers has no models."""


def test_stderr_is_ours_alone(tmp_path: Path):
    """Of transformers, Pillow, datasets, peft and torch nothing is heard: neither log lines nor bars nor warnings."""
    hub, _ = hugging_face("ViT")(tmp_path)
    common, out = ["--data", images(tmp_path, 8, 1), "--forget", "coral"], str(tmp_path / "out")
    forget = ["forget", "rfa", "--model", str(hub), "--steps", "5", "--unseen-steps", "5", "--keep-adapter"]
    audit = ["audit", "--model", str(hub), "--adapter", f"{out}/adapter", "--original", str(hub)]
    environment = {name: value for name, value in os.environ.items() if name not in ENVIRONMENT}
    environment["PYTHONPATH"] = str(Path(__file__).parent)
    for command in ([*forget, "--out", out], [*audit, "--out", str(tmp_path / "audit")]):
        words = [sys.executable, "-c", MENDED, *command, *common]
        done = subprocess.run(words, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        assert not [line for line in done.stderr.splitlines() if not OURS.match(line)]
