"""Two runs are the same only if all that decides their results is: weights, settings, code, preparation, versions."""

import copy
import functools
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import rasura
from rasura.cli import main
from rasura.data import Data, Standardise, hash_of_data, identity_of_data
from rasura.files import hash_of_json
from rasura.identity import code_of, described, structure_of
from rasura.models import build_model, hash_of_model, identity_of_model
from rasura.user_code import imported


def vit(heads: int) -> nn.Module:
    torch.manual_seed(0)
    return build_model(f"vit,depth=1,width=16,heads={heads}", classes=10, channels=1, size=8)


def differing(one: nn.Module, two: nn.Module) -> set[str]:
    first, second = identity_of_model(one), identity_of_model(two)
    return {key for key in first if first[key] != second[key]}


def test_the_same_weights_under_other_settings_are_another_model() -> None:
    assert hash_of_model(vit(2)) == hash_of_model(vit(8))
    assert differing(vit(2), vit(8)) == {"structure"}
    assert differing(vit(2), vit(2)) == set()


def linear(**changes: object) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    for name, value in changes.items():
        setattr(net[1], name, value)
    return net


def frozen(net: nn.Module) -> nn.Module:
    next(net.parameters()).requires_grad_(False)
    return net


def with_buffer(value: float) -> nn.Module:
    net = linear()
    net.register_buffer("scale", torch.tensor(value), persistent=False)
    return net


@pytest.mark.parametrize(
    ("one", "two", "where"),
    [
        (linear(), linear(eps=1e-3), "structure"),
        (linear(), linear(_hidden=3), "structure"),
        (linear(act=nn.functional.relu), linear(act=nn.functional.gelu), "structure"),
        (linear(scales=[1, {"a": (2,)}]), linear(scales=[1, {"a": (3,)}]), "structure"),
        (linear(mask=torch.zeros(2)), linear(mask=torch.ones(2)), "structure"),
        (linear(part=functools.partial(max, 1)), linear(part=functools.partial(max, 2)), "structure"),
        (linear(), frozen(linear()), "structure"),
        (with_buffer(1.0), with_buffer(2.0), "structure"),
        (nn.ReLU(), nn.GELU(), "architecture, structure"),
        (nn.Dropout(0.1), nn.Dropout(0.2), "structure"),
        (nn.MultiheadAttention(8, 2, dropout=0.0), None, "structure, weights"),
    ],
)
def test_whatever_a_module_is_set_to_counts(one: nn.Module, two: nn.Module | None, where: str) -> None:
    two = nn.MultiheadAttention(8, 4, dropout=0.0) if two is None else two
    assert ", ".join(sorted(differing(one, two))) == where


@pytest.mark.parametrize(
    "changed",
    [
        {"w": torch.zeros(2, 3)},
        {"v": torch.zeros(6)},
        {"w": torch.zeros(6, dtype=torch.float16)},
        {"w": torch.zeros(6, dtype=torch.int32)},
        {"w": -torch.zeros(6)},
        {"w": torch.zeros(6), "v": torch.zeros(0)},
    ],
)
def test_names_shapes_dtypes_and_bytes_are_in_the_hash_of_the_weights(changed: dict[str, Tensor]) -> None:
    def holding(tensors: dict[str, Tensor]) -> nn.Module:
        net = nn.Module()
        for name, tensor in tensors.items():
            net.register_buffer(name, tensor)
        return net

    one, two = hash_of_model(holding({"w": torch.zeros(6)})), hash_of_model(holding(changed))
    assert one != two
    assert len(one) == len(two) == 64


OF_A_USER = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, inputs):
        return self.layer(inputs)

def prepare(images):
    return images.float()

scaled = lambda by: (lambda images: images.float() * by)
halved, doubled = lambda images: images / 2, lambda images: images * 2
"""


def of_user(path: Path, source: str):
    path.parent.mkdir(exist_ok=True)
    path.write_text(source)
    return imported("model", path)


def test_a_users_code_is_told_by_its_file_wherever_it_lies(tmp_path: Path) -> None:
    one, again = of_user(tmp_path / "a" / "net.py", OF_A_USER), of_user(tmp_path / "b" / "net.py", OF_A_USER)
    other = of_user(tmp_path / "c" / "net.py", OF_A_USER.replace("self.layer(inputs)", "-self.layer(inputs)"))
    assert described(one.prepare) == described(again.prepare) != described(other.prepare)
    structures = [hash_of_json(structure_of(module.Net())) for module in (one, again, other)]
    assert structures[0] == structures[1] != structures[2]
    assert described(one.scaled(2)) != described(one.scaled(3))
    assert described(one.halved) == described(again.halved) != described(one.doubled)
    assert code_of(nn.Linear) == "torch.nn.modules.linear.Linear"
    assert described([type(len), type(one.prepare)]) == [code_of(type(len)), code_of(type(one.prepare))]
    assert described(itself_later()) == described(itself_later())


def test_a_web_of_objects_is_described_in_no_time() -> None:
    layers = [[SimpleNamespace(at=at) for at in range(4)] for _ in range(40)]
    for one, other in pairwise(layers):
        for node in one:
            node.to = tuple(other)
    changed = copy.deepcopy(layers[0])
    assert hash_of_json(described(layers[0])) == hash_of_json(described(changed))
    at = changed[0]
    while hasattr(at, "to"):
        at = at.to[0]
    at.at = 5
    assert hash_of_json(described(layers[0])) != hash_of_json(described(changed))


def itself_later() -> Callable:
    """A function with a variable of its surroundings that holds nothing any more."""
    inner = nn.ReLU()

    def forward(inputs):
        return inner(inputs)  # noqa: F821

    del inner
    return forward


@pytest.mark.parametrize("function", [torch.Tensor.relu, torch.relu, torch.nn.functional.relu, str.lower, np.sin])
def test_functions_without_a_python_file_go_by_their_names(function) -> None:
    net = nn.Sequential(nn.Linear(2, 2))
    plain = structure_of(net)
    net.activation = function
    assert function.__name__ in json.dumps(structure_of(net))
    assert structure_of(net) != plain


SCRIPT = """
import functools, torch
from torch import nn
from rasura.files import hash_of_json
from rasura.identity import described
net = nn.TransformerEncoderLayer(8, 2, 8)
net.extra_repr = lambda: repr(object())
print(hash_of_json(described([net.norm1, {1.5, "a", torch.float16}, functools.partial(max, net.linear1)])))
"""


def test_an_identity_is_the_same_in_every_process() -> None:
    said = {
        subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(said) == 1


def test_objects_within_themselves_end() -> None:
    class Node:
        pass

    node = Node()
    node.me, node.others = node, [node]
    assert described(node)["me"] == "itself"


# ------------------------------------------------------------------------------------------------ data


def images(transform: Callable | None = None, kind: torch.dtype = torch.uint8) -> Data:
    inputs, labels = torch.zeros(4, 1, 2, 2, dtype=kind), torch.tensor([0, 1, 0, 1])
    data = Data.from_tensors((inputs, labels), (inputs, labels), standardise=Standardise((0.0,), (1.0,)))
    return replace(data, train=replace(data.train, transform=transform), test=replace(data.test, transform=transform))


def test_what_becomes_of_stored_inputs_is_in_the_identity_of_data(tmp_path: Path) -> None:
    file = of_user(tmp_path / "data.py", OF_A_USER)
    prepared = [
        images(Standardise((0.5,), (0.5,))),
        images(Standardise((0.4,), (0.5,))),
        images(file.prepare),
        images(file.scaled(2)),
        images(file.scaled(3)),
        images(functools.partial(torch.add, 0.5)),
        images(functools.partial(torch.add, 1.5)),
    ]
    assert len({hash_of_data(data) for data in prepared}) == 1
    identities = [identity_of_data(data) for data in prepared]
    assert len(set(map(hash_of_json, identities))) == len(prepared)
    scaled = Standardise((0.5,), (0.5,))
    again = of_user(tmp_path / "data.py", OF_A_USER.replace("return images.float()", "return images.float() / 2"))
    assert identity_of_data(images(again.prepare)) != identities[2]
    assert identity_of_data(images(scaled, torch.int8)) != identity_of_data(images(scaled))


# ------------------------------------------------------------------------------------------------ runs


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(arguments) == 2
    return capsys.readouterr().err


def test_a_model_with_other_settings_does_not_get_the_result_of_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file(vit(2).state_dict(), tmp_path / "net.safetensors")
    forget = ["forget", "logit-mask", "--model", str(tmp_path / "net.safetensors"), "--data", "digits", "--forget", "3"]
    forget += ["--out", str(tmp_path / "out"), "--architecture"]
    assert main([*forget, "vit,depth=1,width=16,heads=2"]) == 0
    line = refused([*forget, "vit,depth=1,width=16,heads=8"], capsys)
    assert "It differs in model.architecture, model.structure" in line


NET = """
from torch import nn

def net(classes, channels, size):
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size * size, classes))
"""


def test_a_changed_file_is_another_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "net.py"
    file.write_text(NET)
    train = ["train", "--data", "digits", "--model", f"{file}:net", "--epochs", "1", "--out", str(tmp_path / "out")]
    assert main(train) == 0
    assert main(train) == 0
    file.write_text(NET.replace("Flatten()", "Flatten(1)"))
    assert "It differs in start.code" in refused(train, capsys)


def test_another_version_says_which_one_wrote_the_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    train = ["train", "--data", "digits", "--model", "convnet,width=4", "--epochs", "1", "--out", str(tmp_path / "out")]
    assert main(train) == 0
    written = rasura.__version__
    monkeypatch.setattr(rasura, "__version__", "99.0")
    line = refused(train, capsys)
    assert f"out was written by rasura {written}, this is rasura 99.0; allowed: these versions, or a new folder" in line
    forget = ["forget", "logit-mask", "--model", str(tmp_path / "out"), "--data", "digits", "--forget", "3"]
    assert main([*forget, "--out", str(tmp_path / "forgotten")]) == 0, "a model of another version can be used"


def test_libraries_behind_a_model_are_named_with_their_versions() -> None:
    pytest.importorskip("transformers")
    net = build_model("distilbert,width=16,depth=1,heads=2", classes=2)
    assert identity_of_model(net)["versions"].keys() == {"transformers"}
    assert identity_of_model(nn.Linear(2, 2))["versions"] == {}


def test_a_checkpoint_of_other_data_is_not_resumed(tmp_path: Path) -> None:
    """Same labels, same rows, same weights at first: only the inputs differ."""
    from rasura.training import Recipe, fit

    def trained(data: Data, checkpoint: Path | None) -> Tensor:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        fit(net, data.train, Recipe(epochs=1), 0, checkpoint=checkpoint)
        return net[1].weight.detach()

    draw = np.random.default_rng(0)
    one, two = (
        Data.from_tensors(*[(draw.normal(size=(8, 1, 2, 2)).astype(np.float32), np.arange(8) % 2)] * 2)
        for _ in range(2)
    )
    trained(one, tmp_path / "checkpoint.pt")
    assert torch.equal(trained(two, tmp_path / "checkpoint.pt"), trained(two, None))
    assert not torch.equal(trained(one, None), trained(two, None))
