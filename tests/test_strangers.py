"""Files from someone else: no code of theirs runs, nothing is fetched, and no memory is taken before a line refuses."""

import json
import os
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import rasura
from rasura import InputError, build_model, load_model
from rasura.bench import read_grid
from rasura.cli import main
from rasura.files import hash_of_file
from rasura.memory import machine_memory, peak_memory
from rasura.models import Card, fresh_model, save_model, with_card
from rasura.models.build import shapes_of
from rasura.models.load import read_weights
from rasura.models.outline import room

CARD = Card("resnet8,width=4", ("cat", "dog", "wolf"), (1, 8, 8))
SECONDS, MEBIBYTES = 20, 300
"""A bomb takes minutes, or gigabytes."""


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    """Whoever looks up an address has already said too much."""
    monkeypatch.setattr("socket.getaddrinfo", lambda *_: pytest.fail("the network was asked"))


def refused(act: Callable[[], Any], match: str) -> None:
    """The act ends in one short line that says what is allowed, soon, and without much memory."""
    begun = time.perf_counter()
    with peak_memory(torch.device("cpu")) as peak, pytest.raises(InputError, match=match) as said:
        act()
    assert "\n" not in str(said.value)
    assert "allowed" in str(said.value).lower()
    assert time.perf_counter() - begun < SECONDS
    assert not peak or peak[0] < MEBIBYTES


def folder_of(path: Path, **changes: Any) -> Path:
    """A model folder whose model.json says something else than it did."""
    torch.manual_seed(0)
    save_model(fresh_model(CARD), path)
    description = path / "model.json"
    description.write_text(json.dumps(json.loads(description.read_text()) | changes))
    return path


def code(path: Path, trace: Path) -> Path:
    """A Python file that leaves a trace when it runs."""
    path.write_text(
        f"from pathlib import Path\nPath({str(trace)!r}).write_text('ran')\nimport rasura\n"
        "def net(classes):\n    return rasura.build_model('resnet8,width=4', classes, 1, 8)\n"
        "def data():\n    return rasura.load_data('digits')\n"
    )
    return path


# ------------------------------------------------------------------------------------- what a folder names


@pytest.mark.parametrize(
    "architecture",
    [
        "hf:someone/beacon",
        "hf:/etc",
        "timm:hf-hub:someone/beacon",
        "timm:hf_hub:someone/beacon",
        "timm:local-dir:/tmp/beacon",
        "timm:someone/beacon",
        "timm:resnet18,checkpoint_path=/tmp/beacon.pt",
        "timm:resnet18,checkpoint_path=1",
        "timm:resnet18,pretrained_cfg=resnet18.beacon",
        "timm:resnet18,cache_dir=3",
        "torchvision:resnet18,weights=DEFAULT",
        "torchvision:resnet18,weights=1",
    ],
)
def test_a_folder_or_a_grid_names_plain_architectures_only(architecture, tmp_path, monkeypatch):
    monkeypatch.setattr("rasura.models.build._library", lambda name: pytest.fail(f"{name} was imported"))
    folder = folder_of(tmp_path / "model", architecture=architecture)
    refused(lambda: load_model(folder), r"^architecture: .*model wants to (load|hand) ")
    refused(lambda: read_grid(grid(tmp_path, models=[architecture])), r"^architecture: grid: .* wants to (load|hand) ")


def test_a_folder_cannot_make_us_fetch_trained_weights(tmp_path, monkeypatch):
    timm = pytest.importorskip("timm")
    asked = []
    monkeypatch.setattr(timm, "create_model", lambda name, **options: asked.append(options) or nn.Linear(4, 3))
    folder = folder_of(tmp_path / "model", architecture="timm:resnet10t,pretrained=true")
    with pytest.raises(InputError, match="misses tensor 'bias'"):
        load_model(folder)
    assert asked == [{"num_classes": 3, "in_chans": 1}]
    refused(
        lambda: read_grid(grid(tmp_path, models=["timm:resnet10t,pretrained=true"])), "wants to hand pretrained=True"
    )


def test_a_folder_runs_the_files_that_the_user_trusts_and_no_others(tmp_path, capsys):
    trace = tmp_path / "trace"
    file, other = code(tmp_path / "net.py", trace), code(tmp_path / "other.py", trace)
    folder = folder_of(tmp_path / "model", architecture=f"{file}:net")
    refused(lambda: load_model(folder), r"^trust: .*model wants to run .*net\.py; allowed: with --trust .*net\.py")
    refused(lambda: load_model(folder, trust=[other]), "wants to run")
    refused(lambda: load_model(folder, trust=[tmp_path / "none.py"]), r"^trust: .*none\.py is no Python file")
    command = ["forget", "logit-mask", "--model", str(folder), "--data", "digits", "--forget", "3"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 2
    assert not trace.exists()
    assert "with --trust" in capsys.readouterr().err
    assert isinstance(load_model(folder, trust=[other, file]), nn.Module)
    assert trace.exists()


def test_the_command_line_hands_on_whom_the_user_trusts(tmp_path, capsys):
    file = code(tmp_path / "net.py", tmp_path / "trace")
    data = rasura.load_data("digits")
    torch.manual_seed(0)
    net = with_card(build_model("resnet8,width=4", 10, 1, 8), Card(f"{file}:net", data.classes, (1, 8, 8)))
    save_model(net, tmp_path / "model")
    command = ["forget", "logit-mask", "--model", str(tmp_path / "model"), "--data", "digits", "--forget", "3"]
    trusted = ["--trust", str(code(tmp_path / "b.py", tmp_path / "b")), str(file)]
    assert main([*command, "--out", str(tmp_path / "out"), *trusted]) == 0
    assert not (tmp_path / "b").exists()


# --------------------------------------------------------------------------------------- what a grid names


def grid(folder: Path, data: str = "digits", models: list[str] | None = None) -> Path:
    path = folder / "grid.toml"
    said = {"data": data, "models": models or ["convnet,width=4"], "seeds": [0], "forget": ["3"]}
    path.write_text("\n".join(f"{key} = {json.dumps(value)}" for key, value in said.items()) + "\n[methods.logit-mask]")
    return path


@pytest.mark.parametrize("where", ["data", "canaries", "models"])
def test_a_grid_runs_the_files_that_the_user_trusts_and_no_others(where, tmp_path, capsys):
    trace = tmp_path / "trace"
    file = code(tmp_path / "mine.py", trace)
    named = {"data": f"{file}:data", "canaries": f"canaries:2:canaries:3@1:{file}:data"}.get(where, "digits")
    path = grid(tmp_path, named, [f"{file}:net"] if where == "models" else None)
    refused(lambda: read_grid(path), r"^trust: grid: .* wants to run .*mine\.py; allowed: with --trust .*mine\.py")
    assert main(["bench", str(path), "--out", str(tmp_path / "out")]) == 2
    assert not trace.exists()
    assert not (tmp_path / "out").exists()
    assert read_grid(path, trust=[file]).data == named


TOML = {
    "nested lists": ("data = " + "[" * 100_000, "nested too deep"),
    "nested tables": ("data = " + "{a = " * 100_000, "nested too deep"),
    "a long number": ("seeds = [" + "9" * 5000 + "]", "is no TOML"),
    "a key twice": ('data = "digits"\ndata = "digits"', "is no TOML"),
    "too much of it": ("#" * 2**21, "more than 1 MiB"),
    "another type": ("data = [3]\nmodels = 3\nseeds = 3\nforget = 3\nmethods = {a = 3}", r"data = \[3\]"),
}


@pytest.mark.parametrize("what", TOML)
def test_a_grid_that_is_a_bomb_is_refused(what, tmp_path):
    content, match = TOML[what]
    (tmp_path / "grid.toml").write_text(content)
    refused(lambda: read_grid(tmp_path / "grid.toml"), match)


def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.toml")
    refused(lambda: read_grid(tmp_path / "pipe.toml"), "does not exist")


# ------------------------------------------------------------------------------------- nets beyond measure


@pytest.mark.parametrize(
    ("architecture", "match"),
    [
        ("vit,depth=9999999", "^depth: 9999999 in vit; allowed: at most 1,000,000"),
        ("vit,depth=999999", "has more than 10,000 tensors; allowed"),
        ("vit,width=1000000", "has more than .* weights; allowed: at most so many .a quarter of this machine's memory"),
        ("convnet,width=1000000", "has more than .* weights"),
        ("resnet18,width=99999", "has more than .* weights"),
        ("vit,width=1000000000000000000000,heads=1", "^width: 1000000000000000000000 in vit"),
        ("timm:vit_tiny_patch16_224,embed_dim=999999", "has more than .* weights"),
        ("timm:vit_tiny_patch16_224,img_size=999984", "has more than .* weights"),
    ],
)
def test_a_net_is_refused_before_it_takes_memory(architecture, match, tmp_path):
    if "timm" in architecture:
        pytest.importorskip("timm")
    refused(lambda: build_model(architecture, classes=3, channels=1, size=8), match)
    assert main(["train", "--data", "digits", "--model", architecture, "--out", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()
    refused(lambda: load_model(folder_of(tmp_path / "model", architecture=architecture)), "allowed: ")


@pytest.mark.parametrize("option", ["vocabulary=999999,width=99999,heads=1", "depth=999999", "width=1000000"])
def test_an_encoder_is_refused_before_it_takes_memory(option):
    refused(lambda: build_model(f"distilbert,{option}", classes=3), "has more than .*; allowed: at most so many")


@pytest.mark.parametrize(
    "changes",
    [
        {"architecture": "resnet18,width=2500"},  # 17 GB
        {"architecture": "vit,width=9000,depth=60"},
        {"classes": [str(number) for number in range(10**6)]},
        {"classes": "0" * 10**7},
        {"architecture": "vit,patch=1", "input_shape": [1, 10**6, 10**6]},
        {"input_shape": [10**12, 8, 8]},
        {"input_shape": [-1, 8, 8]},
    ],
    ids=lambda changes: " ".join(changes),
)
def test_a_folder_is_compared_with_the_header_of_its_weights_before_memory_is_taken(changes, tmp_path, monkeypatch):
    monkeypatch.setattr("rasura.models.load.load_file", lambda path: pytest.fail("the weights were read"))
    refused(lambda: load_model(folder_of(tmp_path / "model", **changes)), "allowed: ")


@pytest.mark.parametrize(
    "architecture",
    ["convnet,width=4", "resnet8", "resnet18", "vit", "timm:resnet10t", "timm:swin_tiny_patch4_window7_224"],
)
def test_an_outline_is_that_of_the_net_and_draws_no_number(architecture):
    if "timm" in architecture:
        pytest.importorskip("timm")
    torch.manual_seed(0)
    shapes = shapes_of(architecture, 3, 1, 8, room())
    assert torch.equal(torch.rand(4), torch.rand(4, generator=torch.Generator().manual_seed(0)))
    net = build_model(architecture, 3, 1, 8)
    assert shapes == {name: tensor.shape for name, tensor in net.state_dict().items()}


def test_a_net_without_an_outline_still_comes_back(tmp_path):
    pytest.importorskip("torchvision")
    name = "torchvision:regnet_y_400mf"
    card = Card(name, CARD.classes, (3, 32, 32))
    assert shapes_of(name, 3, 3, 32, room()) is None
    save_model(fresh_model(card), tmp_path / "model")
    assert load_model(tmp_path / "model").eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


def test_weights_that_declare_more_than_the_machine_has_are_refused(tmp_path):
    """All zeros, so that the file takes no room on the disk; its header is true."""
    folder = folder_of(tmp_path / "model")
    size = machine_memory() // 4 * 4 + 4096
    header = json.dumps({"w": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}).encode()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + size)
    refused(lambda: load_model(folder), "GiB; allowed: at most the machine's memory")
    refused(lambda: read_weights(folder / "model.safetensors"), "GiB; allowed: at most the machine's memory")


HEADERS = {
    "a shape that the file does not fill": {"w": {"dtype": "F32", "shape": [7 * 10**9], "data_offsets": [0, 64]}},
    "offsets beyond the end": {"w": {"dtype": "F32", "shape": [7 * 10**9], "data_offsets": [0, 28 * 10**9]}},
    "an overflowing shape": {"w": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 64]}},
    "overlapping tensors": {
        "v": {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]},
        "w": {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]},
    },
    "a negative shape": {"w": {"dtype": "F32", "shape": [-16], "data_offsets": [0, 64]}},
}


@pytest.mark.parametrize("what", [*HEADERS, "a header of a terabyte", "a nested header", "no header"])
def test_a_header_that_lies_is_refused(what, tmp_path):
    header = json.dumps(HEADERS[what]).encode() if what in HEADERS else b'{"w":' + b"[" * 100_000
    length = 2**40 if what == "a header of a terabyte" else len(header)
    content = b"" if what == "no header" else struct.pack("<Q", length) + header + bytes(64)
    folder = folder_of(tmp_path / "model")
    (folder / "model.safetensors").write_bytes(content)
    description = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(description | {"sha256": hash_of_file(folder / "model.safetensors")}))
    refused(lambda: load_model(folder), "is truncated or not a file of weights .*; allowed")
    refused(lambda: read_weights(folder / "model.safetensors"), "is truncated or not a file of weights .*; allowed")


# ----------------------------------------------------------------------------------------- PyTorch's files


def repacked(source: Path, compression: int, times: int = 1) -> Path:
    """The same archive, packed otherwise; with its records listed more than once."""
    path = source.with_name("bomb.pt")
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w", compression) as new:
        for record in old.infolist():
            new.writestr(record.filename, old.read(record))
        new.filelist *= times
    return path


def test_an_archive_that_holds_more_than_it_takes_is_refused(tmp_path):
    torch.save({"w": torch.zeros(2**24)}, tmp_path / "plain.pt")
    assert read_weights(tmp_path / "plain.pt")["w"].shape == (2**24,)
    assert read_weights(repacked(tmp_path / "plain.pt", zipfile.ZIP_STORED))["w"].shape == (2**24,)
    bomb = repacked(tmp_path / "plain.pt", zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 2**18
    refused(lambda: read_weights(bomb), r"is compressed and declares .* bytes; allowed: a file as torch\.save")
    overlapping = repacked(tmp_path / "plain.pt", zipfile.ZIP_STORED, times=1000)
    refused(lambda: read_weights(overlapping), r"declares 67,\d\d\d,\d\d\d,\d\d\d bytes")


def test_an_archive_that_declares_a_terabyte_is_refused(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save({"w": torch.zeros(64)}, path)
    content = bytearray(path.read_bytes())
    at = content.find(b"PK\x01\x02")
    assert at > 0
    content[at + 20 : at + 28] = struct.pack("<II", 2**32 - 2, 2**32 - 2)  # sizes in the archive's list of records
    path.write_bytes(content)
    refused(lambda: read_weights(path), "declares|is truncated or not a file of weights")


class Shell:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("archive", [True, False])
def test_a_command_in_a_file_of_weights_does_not_run(archive, tmp_path):
    trace, path = tmp_path / "trace", tmp_path / "weights.pt"
    state: dict[str, Any] = {"w": torch.zeros(3), "x": Shell(f"touch {trace}")}
    torch.save(state, path, _use_new_zipfile_serialization=archive)
    refused(lambda: load_model(path, "resnet8,width=4", CARD), "holds objects that could run code; allowed: tensors")
    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists(), "the command would have run"


# --------------------------------------------------------------------------------- folders of Hugging Face


def hub_folder(path: Path, **changes: Any) -> Path:
    import transformers

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = transformers.ViTConfig(image_size=8, patch_size=4, num_channels=1, num_labels=3, **sizes)
    transformers.ViTForImageClassification(config).save_pretrained(path)  # pyright: ignore[reportCallIssue]
    description = path / "config.json"
    description.write_text(json.dumps(json.loads(description.read_text()) | changes))
    return path


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"_attn_implementation": "someone/kernel"}, "_attn_implementation = 'someone/kernel'; allowed"),
        ({"_attn_implementation_internal": {"": "someone/kernel:x"}}, "_attn_implementation_internal"),
        ({"text_config": {"attn_implementation": "someone/kernel"}}, "text_config.attn_implementation"),
        ({"architecture": "hf-hub:someone/beacon", "model_type": "timm_wrapper"}, "architecture = 'hf-hub:someone/"),
        ({"model_args": {"checkpoint_path": "/tmp/beacon.pt"}, "model_type": "timm_wrapper"}, "checkpoint_path"),
        ({"backbone_config": {"use_pretrained_backbone": True}}, "use_pretrained_backbone = True"),
        ({"hidden_size": 2 * 10**5}, "has more than .* weights; allowed: at most so many .what the folder's weights"),
        ({"num_hidden_layers": 10**5}, "has more than .*; allowed"),
        ({"id2label": {str(number): str(number) for number in range(10**6)}}, "is too large; allowed: at most 4 MiB"),
        ({"num_labels": 10**9}, "num_labels = 1000000000; allowed"),
        ({"depths": [2, 10**9]}, "depths = 1000000000; allowed"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_folder_of_hugging_face_asks_for_nothing_else(changes, match, tmp_path):
    refused(lambda: load_model(hub_folder(tmp_path / "hub", **changes)), match)
    refused(lambda: build_model(f"hf:{tmp_path / 'hub'}", classes=3), match)


def test_code_beside_a_model_of_hugging_face_does_not_run(tmp_path):
    trace = tmp_path / "trace"
    auto = {"AutoConfig": "code.Config", "AutoModelForSequenceClassification": "code.Net"}
    folder = hub_folder(tmp_path / "hub", model_type="beacon", auto_map=auto, trust_remote_code=False)
    code(folder / "code.py", trace)
    refused(lambda: load_model(folder), "does not load")
    hub_folder(folder, auto_map=auto, trust_remote_code=True)
    refused(lambda: load_model(folder), "trust_remote_code = True; allowed")
    assert not trace.exists()


def test_an_adapter_beside_a_model_of_hugging_face_is_refused(tmp_path):
    folder = hub_folder(tmp_path / "hub")
    assert isinstance(load_model(folder), nn.Module)
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "someone/beacon"}')
    refused(lambda: load_model(folder), r"holds adapter_config\.json; allowed")


def test_a_nested_configuration_is_refused(tmp_path):
    folder = hub_folder(tmp_path / "hub")
    (folder / "config.json").write_text('{"a":' * 100_000)
    refused(lambda: load_model(folder), "nested too deep")
