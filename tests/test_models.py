"""Models: our own nets, building by name, and loading what others saved without running their code."""

import doctest
import json
import os
import pickle
import stat
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import rasura
from rasura import InputError, build_model, load_model, save_model
from rasura.models import Card, build, card_of, check_weights, device_of, fresh_model, logits_of, to_card, with_card
from rasura.models.build import parse_architecture

CARD = Card("resnet8,width=4", ("cat", "dog", "wolf"), (1, 8, 8), (0.3,), (0.4,), "pets", {"seed": 1}, ({"n": 1},))


def trained(seed: int = 0, card: Card = CARD) -> nn.Module:
    """A net with a card and weights that no initialisation gives."""
    torch.manual_seed(seed)
    model = fresh_model(card)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(torch.rand_like(tensor))
    return model.eval()


def same(left: nn.Module, right: nn.Module) -> bool:
    first, second = left.state_dict(), right.state_dict()
    return list(first) == list(second) and all(
        first[name].dtype == second[name].dtype and torch.equal(first[name], second[name]) for name in first
    )


def saved(folder: Path, model: nn.Module | None = None) -> Path:
    save_model(model or trained(), folder)
    return folder


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# ----------------------------------------------------------------------------------------- the zoo


def count_of_convnet(c: int, w: int, k: int) -> int:
    sizes = [(c, w), (w, 2 * w), (2 * w, 4 * w)]
    return sum(inner * outer * 9 + outer for inner, outer in sizes) + 4 * w * k + k


def count_of_resnet(c: int, w: int, k: int, blocks: tuple[int, ...]) -> int:
    total, inner = 9 * c * w + 2 * w, w
    for stage, count in enumerate(blocks):
        outer = w * 2**stage
        for _ in range(count):
            total += 9 * inner * outer + 9 * outer * outer + 4 * outer
            if inner != outer:
                total += inner * outer + 2 * outer
            inner = outer
    return total + inner * k + k


def count_of_vit(c: int, k: int, side: int, width: int, depth: int, patch: int) -> int:
    embedding = c * patch * patch * width + width + (side // patch) ** 2 * width
    block = 2 * 2 * width + (3 * width * width + 3 * width) + (width * width + width)
    block += width * 4 * width + 4 * width + 4 * width * width + width
    return embedding + depth * block + 2 * width + width * k + k


@pytest.mark.parametrize(
    ("architecture", "channels", "size", "count"),
    [
        ("convnet", 1, 28, count_of_convnet(1, 16, 7)),
        ("convnet,width=3", 3, 8, count_of_convnet(3, 3, 7)),
        ("resnet8", 1, 28, count_of_resnet(1, 16, 7, (1, 1, 1))),
        ("resnet8,width=5", 3, 9, count_of_resnet(3, 5, 7, (1, 1, 1))),
        ("resnet18,width=4", 3, 32, count_of_resnet(3, 4, 7, (2, 2, 2, 2))),
        ("vit", 1, 28, count_of_vit(1, 7, 28, 64, 4, 4)),
        ("vit,width=12,depth=1,heads=3,patch=7", 3, 14, count_of_vit(3, 7, 14, 12, 1, 7)),
    ],
)
def test_nets_give_logits_and_have_the_parameters_of_their_papers(architecture, channels, size, count):
    model = build_model(architecture, classes=7, channels=channels, size=size)
    assert model.eval()(torch.rand(2, channels, size, size)).shape == (2, 7)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_resnet18_is_the_one_of_the_paper():
    # torchvision's resnet18 has 11,689,512 parameters; ours has a 3×3 stem in the place of 7×7, and ten outputs.
    imagenet, stem, head = 11_689_512, 3 * 64 * (9 - 49), (512 + 1) * (10 - 1000)
    model = build_model("resnet18", classes=10, channels=3, size=32)
    assert sum(parameter.numel() for parameter in model.parameters()) == imagenet + stem + head


@pytest.mark.parametrize("architecture", ["convnet,width=4", "resnet8,width=4", "resnet18,width=4", "vit,width=8"])
def test_an_image_is_classified_alike_alone_and_in_a_batch(architecture):
    model = build_model(architecture, classes=3, channels=1, size=16).eval()
    batch = torch.rand(5, 1, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(model(batch)[2:3], model(batch[2:3]), atol=1e-5, rtol=1e-5)


def test_attention_is_that_of_the_textbook():
    from rasura.models.zoo import Attention

    torch.manual_seed(0)
    ours, theirs = Attention(12, 3), nn.MultiheadAttention(12, 3, batch_first=True)
    with torch.no_grad():
        for to, source in [
            (theirs.in_proj_weight, ours.qkv.weight),
            (theirs.in_proj_bias, ours.qkv.bias),
            (theirs.out_proj.weight, ours.out.weight),
            (theirs.out_proj.bias, ours.out.bias),
        ]:
            to.copy_(source)
        tokens = torch.randn(2, 5, 12)
        expected, _ = theirs(tokens, tokens, tokens)
        torch.testing.assert_close(ours(tokens), expected)


# ------------------------------------------------------------------------------------ build by name


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("resnet9", "model: 'resnet9' is unknown; did you mean 'resnet8'"),
        ("", "model: '' is unknown"),
        ("tim:resnet18", "model: 'tim:resnet18' is unknown; did you mean"),
        ("resnet8,widht=4", "option of resnet8: 'widht' is unknown; did you mean 'width'"),
        ("resnet8,classes=4", "option of resnet8: 'classes' is unknown"),
        ("resnet8,width", "model: 'width' in 'resnet8,width'; allowed: NAME"),
        ("resnet8,width=", "model: 'width=' in"),
        ("resnet8,width=4.5", "width: 4.5; allowed: a value like the default, 16"),
        ("resnet8,width=wide", "width: 'wide'; allowed"),
        ("resnet8,width=true", "width: True; allowed"),
        ("resnet8,width=0", "width: 0; allowed: 1 or more"),
        ("convnet,width=-3", "width: -3; allowed: 1 or more"),
        ("vit,patch=5", "patch: 5 does not divide the image side 8; allowed: a divisor of 8"),
        ("vit,width=10,heads=4", "width: 10 is no multiple of heads 4"),
        ("vit,heads=0", "heads: 0; allowed: 1 or more"),
        ("vit,patch=0", "patch: 0; allowed: 1 or more"),
        ("nowhere/nets.py:net", "model: .*nowhere/nets.py does not exist"),
    ],
)
def test_a_name_or_option_that_cannot_be_built_says_what_can(architecture, message):
    with pytest.raises(InputError, match=message):
        build_model(architecture, classes=3, channels=1, size=8)


def test_images_that_are_too_small_or_no_images_are_refused():
    with pytest.raises(InputError, match="size: 4; allowed: 8 or more"):
        build_model("convnet", classes=3, channels=1, size=4)
    with pytest.raises(InputError, match="model: 'convnet' takes images"):
        build_model("convnet", classes=3)
    with pytest.raises(InputError, match=r"data: inputs of shape \(1, 8, 9\); allowed: square images"):
        fresh_model(replace(CARD, input_shape=(1, 8, 9)))
    with pytest.raises(InputError, match="architecture: the model's card names none"):
        fresh_model(replace(CARD, architecture=None))


def test_options_are_typed_by_their_text():
    assert parse_architecture("x, a=1 ,b=-2.5,c=TRUE,d=false,e=1e-3,f=text") == (
        "x",
        {"a": 1, "b": -2.5, "c": True, "d": False, "e": 1e-3, "f": "text"},
    )
    _, options = parse_architecture("x,a=1,c=true")
    assert [type(value) for value in options.values()] == [int, bool]


def test_a_function_of_the_users_own_gets_what_it_declares(tmp_path):
    file = tmp_path / "nets.py"
    file.write_text(
        "from torch import nn\n"
        "def plain():\n    return nn.Linear(4, 3)\n"
        "def full(classes, channels, size, depth=1, gain: float = 0.5):\n"
        "    net = nn.Linear(channels * size * size, classes)\n"
        "    net.depth, net.gain = depth, gain\n    return net\n"
        "def wrong(classes):\n    return classes\n"
    )
    assert build_model(f"{file}:plain", classes=9).get_parameter("weight").shape == (3, 4)
    net: Any = build_model(f"{file}:full,depth=3,gain=2.0", classes=5, channels=2, size=3)
    assert (net.in_features, net.out_features, net.depth, net.gain) == (18, 5, 3, 2.0)
    for architecture, message in [
        (f"{file}:wrong", "wrong returned int; allowed: an nn.Module"),
        (f"{file}:ful", "'ful' is unknown; did you mean 'full'"),
        (f"{file}:full,widht=1", "option of .*'widht' is unknown"),
    ]:
        with pytest.raises(InputError, match=message):
            build_model(architecture, classes=5, channels=2, size=3)


def library(name: str) -> None:
    try:
        __import__(name)
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"{name} cannot be imported: {error}")


def test_timm_models_are_built_and_their_errors_are_ours():
    library("timm")
    model = build_model("timm:resnet10t,drop_rate=0.25", classes=4, channels=1).eval()
    assert model(torch.rand(2, 1, 32, 32)).shape == (2, 4)
    assert model.drop_rate == 0.25
    with pytest.raises(InputError, match="timm model: 'resnet10x' is unknown; did you mean 'resnet10t'"):
        build_model("timm:resnet10x", classes=4, channels=1)
    with pytest.raises(InputError, match=r"model: timm:resnet10t refuses .*'hue': 3"):
        build_model("timm:resnet10t,hue=3", classes=4, channels=1)


def test_torchvision_models_are_built_and_their_errors_are_ours():
    library("torchvision")
    model = build_model("torchvision:squeezenet1_1,dropout=0.25", classes=4, channels=3).eval()
    assert model(torch.rand(2, 3, 64, 64)).shape == (2, 4)
    with pytest.raises(InputError, match="torchvision model: 'resnet17' is unknown; did you mean 'resnet1"):
        build_model("torchvision:resnet17", classes=4, channels=3)
    with pytest.raises(InputError, match=r"model: torchvision:squeezenet1_1 refuses .*'hue': 3"):
        build_model("torchvision:squeezenet1_1,hue=3", classes=4)
    with pytest.raises(InputError, match="data: images of 1 channels; allowed: 3 for torchvision:squeezenet1_1"):
        build_model("torchvision:squeezenet1_1", classes=4, channels=1)


def test_a_library_that_cannot_be_imported_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match=r"model: timm cannot be imported .*rasura\[vision\]"):
        build_model("timm:resnet18", classes=4, channels=1)


# ------------------------------------------------------------------------------- save, load, cards


@pytest.mark.parametrize("architecture", ["convnet,width=4", "resnet8,width=4", "vit,width=8,patch=2,depth=1"])
def test_a_saved_model_comes_back_bit_for_bit(architecture, tmp_path):
    model = trained(card=replace(CARD, architecture=architecture))
    loaded = load_model(saved(tmp_path / "model", model))
    assert same(loaded, model) and type(loaded) is type(model)
    assert card_of(loaded) == card_of(model)
    assert not any(module.training for module in loaded.modules())
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    inputs = torch.rand(4, 1, 8, 8)
    assert torch.equal(logits_of(loaded, inputs), logits_of(model, inputs))
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["model.json", "model.safetensors"]


def test_tied_and_transposed_weights_are_saved_whole(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(5, 5), nn.Linear(5, 5)
            self.second.weight = self.first.weight
            self.turned = nn.Parameter(torch.rand(3, 5).T)

        def forward(self, rows: Tensor) -> Tensor:
            return self.second(self.first(rows)) @ self.turned

    model, other = Tied(), Tied()
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model", architecture=other)
    assert loaded is other and same(loaded, model)
    assert loaded.get_parameter("second.weight") is loaded.get_parameter("first.weight")


def test_a_model_is_not_saved_over_another_nor_with_broken_weights(tmp_path):
    folder = saved(tmp_path / "model")
    with pytest.raises(InputError, match=r"out: .*model exists; allowed: a new or empty folder"):
        save_model(trained(1), folder)
    for value in (float("nan"), float("inf")):
        broken = trained()
        with torch.no_grad():
            broken.get_parameter("head.bias")[1] = value
        with pytest.raises(InputError, match=r"model: head\.bias holds NaN or infinite weights"):
            save_model(broken, tmp_path / "broken")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert same(load_model(folder), trained())


def test_a_card_survives_json_and_travels_with_copies():
    import copy

    assert Card.from_json(json.loads(json.dumps(CARD.to_json()))) == CARD
    assert CARD.after({"n": 2}).history == ({"n": 1}, {"n": 2})
    model = with_card(nn.Linear(2, 2), CARD)
    assert card_of(copy.deepcopy(model)) == CARD
    assert card_of(nn.Linear(2, 2)) == Card()


def test_a_card_says_what_the_data_says():
    data = rasura.load_data("digits")
    card = to_card("convnet", data, training={"seed": 3})
    assert (card.input_shape, card.classes, card.data) == ((1, 8, 8), tuple("0123456789"), "digits")
    images = torch.cat([data.train.stored(torch.arange(len(data.train)))]).double() / 255  # pyright: ignore
    assert card.mean == pytest.approx([images.mean().item()])
    assert card.std == pytest.approx([images.std(correction=0).item()])
    assert card.training == {"seed": 3}


# ------------------------------------------------------------------------------ folders that are broken


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def cut_weights_and_mend_the_hash(folder: Path) -> None:
    from rasura.files import hash_of_file

    cut_weights(folder)
    edit(folder, sha256=hash_of_file(folder / "model.safetensors"))


def change_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    state = load_file(path)
    state["head.bias"] += 1
    save_file(state, path)


BROKEN = {
    "truncated weights": (cut_weights, "model.safetensors is truncated or not a file of weights"),
    "truncated weights under their own hash": (cut_weights_and_mend_the_hash, "is truncated or not a file of weights"),
    "other weights": (change_weights, "is truncated or changed .its hash is not the one in model.json"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors does not exist"),
    "wrong hash": (lambda folder: edit(folder, sha256="0" * 64), "is truncated or changed"),
    "no hash": (lambda folder: edit(folder, sha256=None), "is truncated or changed"),
    "other width": (
        lambda folder: edit(folder, architecture="resnet8,width=6"),
        r"bn1.bias in .* has shape \(4,\); allowed: \(6,\)",
    ),
    "other net": (lambda folder: edit(folder, architecture="convnet"), "misses tensor 'block1.0.bias'"),
    "unknown net": (lambda folder: edit(folder, architecture="resnet9"), "did you mean 'resnet8'"),
    "other classes": (lambda folder: edit(folder, classes=["cat"]), r"head.bias in .* has shape \(3,\); allowed: \(1,"),
    "no architecture": (lambda folder: edit(folder, architecture=None), "does not name one; allowed: the module"),
    "no list of classes": (lambda folder: edit(folder, classes=3), "not a model card"),
    "no numbers": (lambda folder: edit(folder, mean=["grey"]), "not a model card"),
    "a list": (lambda folder: (folder / "model.json").write_text("[]"), "is not readable JSON .it holds a list"),
    "an empty object": (lambda folder: (folder / "model.json").write_text("{}"), "not a model card .KeyError"),
    "no JSON": (lambda folder: (folder / "model.json").write_text('{"format": 1,'), "is not readable JSON"),
    "no text": (lambda folder: (folder / "model.json").write_bytes(b"\xff\xfe\x00"), "is not readable JSON"),
}


@pytest.mark.parametrize("damage", BROKEN)
def test_a_damaged_folder_is_refused_and_the_reason_given(damage, tmp_path):
    folder = saved(tmp_path / "model")
    act, message = BROKEN[damage]
    act(folder)
    with pytest.raises(InputError, match=message):
        load_model(folder)


@pytest.mark.parametrize(
    ("name", "lacking"), [("", "holds none"), ("nothing", "does not exist"), ("empty", "holds none")]
)
def test_a_place_without_a_model_is_refused(name, lacking, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=f"{lacking}; allowed: a model folder, a Hugging Face folder, a file"):
        load_model(tmp_path / name)


@pytest.mark.parametrize(
    "architecture",
    ["hf:stranger/net,attn_implementation=stranger/kernel", "hf:a/b,allow_all_kernels=true", "timm:a,file=b.pt"],
)
def test_a_folder_cannot_hand_words_to_a_librarys_builder(tmp_path, architecture, monkeypatch):
    monkeypatch.setattr("rasura.models.build.library", lambda name: pytest.fail(f"{name} was imported"))
    torch.manual_seed(0)
    model = with_card(nn.Linear(4, 3), replace(CARD, architecture=architecture, input_shape=(4,)))
    folder = saved(tmp_path / "model", model)
    with pytest.raises(InputError, match=r"wants to (load hf:|hand file=).* allowed: naming the architecture yourself"):
        load_model(folder)


def test_a_folder_cannot_make_us_run_a_file_that_the_user_did_not_name(tmp_path):
    trace, file = tmp_path / "trace", tmp_path / "nets.py"
    file.write_text(
        f"from pathlib import Path\nfrom torch import nn\nPath({str(trace)!r}).write_text('ran')\n"
        "def net(classes):\n    return nn.Linear(4, classes)\n"
    )
    architecture = f"{file}:net"
    torch.manual_seed(0)
    model = with_card(nn.Linear(4, 3), replace(CARD, architecture=architecture, input_shape=(4,)))
    folder = saved(tmp_path / "model", model)
    with pytest.raises(InputError, match=r"wants to run .*nets.py; allowed: with --trust .*nets.py"):
        load_model(folder)
    assert not trace.exists()
    loaded = load_model(folder, architecture=architecture)
    assert same(loaded, model) and trace.exists()
    assert same(load_model(folder, architecture=nn.Linear(4, 3)), model)
    assert same(load_model(folder, trust=[file]), model)


# ----------------------------------------------------------------------------------- files of weights


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


NESTINGS = {
    "plain": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model": lambda state: {"model": state},
    "model_state_dict": lambda state: {"model_state_dict": state, "loss": 0.5},
    "nested twice": lambda state: {"state_dict": {"model": state}},
    "DataParallel": lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
    "nested DataParallel": lambda state: {"model": {f"module.{name}": tensor for name, tensor in state.items()}},
}


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt"])
@pytest.mark.parametrize("nesting", NESTINGS)
def test_a_state_dict_is_found_in_its_usual_wrappings(nesting, suffix, tmp_path):
    path = tmp_path / f"weights{suffix}"
    torch.save(NESTINGS[nesting](weights(trained())), path)
    loaded = load_model(path, architecture="resnet8,width=4", like=CARD)
    assert same(loaded, trained())
    assert card_of(loaded) == CARD


def test_a_safetensors_file_is_read_with_an_architecture_or_a_module(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(weights(trained()), path)
    assert same(load_model(path, architecture="resnet8,width=4", like=CARD), trained())
    assert same(load_model(path, architecture=trained(1)), trained())
    with pytest.raises(InputError, match="holds weights alone; allowed: an architecture"):
        load_model(path)


def test_a_module_called_module_keeps_its_name(tmp_path):
    path = tmp_path / "weights.pt"
    wrapped = nn.DataParallel(trained())
    torch.save(wrapped.state_dict(), path)
    assert same(load_model(path, architecture=nn.DataParallel(trained(1))), wrapped)


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "ran")


@pytest.mark.parametrize("kind", ["in a torch file", "in a legacy torch file", "in a bare pickle", "beside tensors"])
def test_a_pickled_payload_is_refused_and_does_not_run(kind, tmp_path):
    trace, path = tmp_path / "trace", tmp_path / "weights.pt"
    if kind == "in a bare pickle":
        path.write_bytes(pickle.dumps(Payload(trace), protocol=2))
    elif kind == "beside tensors":
        torch.save({**weights(trained()), "extra": Payload(trace)}, path)
    else:
        torch.save(Payload(trace), path, _use_new_zipfile_serialization=kind == "in a torch file")
    with pytest.raises(InputError, match="holds objects that could run code; allowed: tensors only"):
        load_model(path, architecture="resnet8,width=4", like=CARD)
    assert not trace.exists()
    torch.load(path, weights_only=False) if kind != "in a bare pickle" else pickle.loads(path.read_bytes())
    assert trace.exists(), "the payload would have run"


def without(name: str) -> dict[str, Tensor]:
    state = weights(trained())
    del state[name]
    return state


UNFIT = {
    "wrong shape": (
        lambda: weights(trained()) | {"head.weight": torch.zeros(4, 16)},
        r"head.weight in .* has shape \(4, 16\); allowed: \(3, 16\)",
    ),
    "missing": (lambda: without("head.bias"), "misses tensor 'head.bias'; allowed: weights of resnet8,width=4"),
    "unknown": (lambda: weights(trained()) | {"extra": torch.zeros(1)}, "has an unknown tensor 'extra'"),
    "NaN": (
        lambda: weights(trained()) | {"head.bias": torch.tensor([0.0, float("nan"), 0.0])},
        "head.bias in .* holds NaN or infinite weights",
    ),
    "sparse": (
        lambda: weights(trained()) | {"head.bias": torch.ones(3).to_sparse()},
        "head.bias in .* is a sparse tensor; allowed: dense torch.float32",
    ),
    "complex": (
        lambda: weights(trained()) | {"head.bias": torch.ones(3, dtype=torch.complex64)},
        "head.bias in .* is a complex tensor",
    ),
    "whole": (
        lambda: weights(trained()) | {"head.bias": torch.ones(3, dtype=torch.int8)},
        "head.bias in .* is a torch.int8 tensor; allowed: dense torch.float32",
    ),
    "a tensor": (lambda: torch.zeros(3), "holds no state dict; allowed: a dict of tensors by name"),
    "numbers": (lambda: {"head.bias": 3}, "holds no state dict"),
    "numbered": (lambda: {0: torch.zeros(3)}, "holds no state dict"),
}


@pytest.mark.parametrize("fault", UNFIT)
def test_weights_that_do_not_fit_are_refused_by_name(fault, tmp_path):
    make, message = UNFIT[fault]
    path = tmp_path / "weights.pt"
    torch.save(make(), path)
    with pytest.raises(InputError, match=message):
        load_model(path, architecture="resnet8,width=4", like=CARD)


def with_weight(change) -> nn.Module:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    net[1].weight = nn.Parameter(change(net[1].weight.detach()), requires_grad=False)
    return net


@pytest.mark.parametrize(
    ("net", "kind"),
    [
        (lambda: with_weight(lambda weight: weight.to("meta")), "1.weight is a meta tensor"),
        (lambda: with_weight(lambda weight: weight.to_sparse()), "1.weight is a sparse tensor"),
        (lambda: with_weight(lambda weight: weight.to(torch.complex64)), "1.weight is a complex tensor"),
        (lambda: with_weight(lambda weight: weight.char()), "1.weight is a torch.int8 tensor"),
    ],
    ids=["meta", "sparse", "complex", "whole"],
)
@pytest.mark.parametrize(
    "use",
    [
        lambda net, data, request: rasura.forget(net, data, request, rasura.methods.Damp()),
        lambda net, data, request: rasura.audit(net, data, request, original=net),
    ],
    ids=["forget", "audit"],
)
def test_weights_that_cannot_be_run_or_trained_are_refused_before_any_work(net, kind, use):
    images = torch.rand(24, 1, 2, 2), torch.arange(24) % 2
    data, request = rasura.Data.from_tensors(images, images), rasura.ForgetClasses([0])
    with pytest.raises(InputError, match=rf"{kind}; allowed: dense floating-point weights with values"):
        use(net(), data, request)


def test_quantised_modules_are_refused():
    quantised = pytest.importorskip("torch.ao.nn.quantized.dynamic")
    warnings.simplefilter("ignore")  # torch says that it will do without them
    with pytest.raises(InputError, match="model: 0 is quantised; allowed: dense floating-point weights"):
        check_weights(nn.Sequential(quantised.Linear(4, 2)))


@pytest.mark.parametrize("length", [0, 10, 0.3, 0.99])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_truncated_file_is_refused(suffix, length, tmp_path):
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save(weights(trained()), path)
    else:
        save_file(weights(trained()), path)
    content = path.read_bytes()
    path.write_bytes(content[: length if isinstance(length, int) else int(length * len(content))])
    with pytest.raises(InputError, match=r"is truncated or not a file|holds objects that could run code"):
        load_model(path, architecture="resnet8,width=4", like=CARD)


# -------------------------------------------------------------------------------------- Hugging Face


def hugging_face(kind: str) -> nn.Module:
    import transformers

    torch.manual_seed(0)
    if kind == "ViT":
        sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
        config = transformers.ViTConfig(image_size=8, patch_size=4, num_channels=1, num_labels=3, **sizes)
        return transformers.ViTForImageClassification(config).eval()
    if kind == "ResNet":
        config = transformers.ResNetConfig(
            num_channels=1, embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", num_labels=3
        )
        return transformers.ResNetForImageClassification(config).eval()
    config = transformers.DistilBertConfig(vocab_size=30, dim=8, n_layers=1, n_heads=2, hidden_dim=8, num_labels=3)
    return transformers.DistilBertForSequenceClassification(config).eval()


def hugging_face_inputs(kind: str) -> Any:
    if kind == "DistilBERT":
        return {"input_ids": torch.randint(30, (2, 6)), "attention_mask": torch.ones(2, 6, dtype=torch.int64)}
    return torch.rand(2, 1, 8, 8)


@pytest.mark.parametrize("kind", ["ViT", "ResNet", "DistilBERT"])
def test_a_hugging_face_folder_is_loaded(kind, tmp_path):
    model = hugging_face(kind)
    model.save_pretrained(tmp_path / "hub")  # pyright: ignore[reportCallIssue]
    loaded = load_model(tmp_path / "hub")
    assert same(loaded, model) and type(loaded) is type(model)
    inputs = hugging_face_inputs(kind)
    assert torch.equal(logits_of(loaded, inputs), logits_of(model, inputs))
    assert logits_of(loaded, inputs).shape == (2, 3)
    fresh = build_model(f"hf:{tmp_path / 'hub'}", classes=5).eval()
    assert logits_of(fresh, inputs).shape == (2, 5)


def test_a_hugging_face_folder_that_is_pickled_truncated_or_no_model_is_refused(tmp_path):
    model, folder = hugging_face("ResNet"), tmp_path / "hub"
    model.save_pretrained(folder)  # pyright: ignore[reportCallIssue]
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(InputError, match=r"model: .*safetensors is truncated or not a file of weights"):
        load_model(folder)
    path.unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"does not load .*allowed: a classifier in safetensors"):
        load_model(folder)
    (folder / "config.json").write_text('{"model_type": "no such net"}')
    with pytest.raises(InputError, match="does not load"):
        load_model(folder)
    with pytest.raises(InputError, match=r"model: hf:.*nowhere does not load"):
        build_model(f"hf:{tmp_path / 'nowhere'}", classes=3)


# ------------------------------------------------------------------------------------------- logits


def test_models_without_parameters_lie_on_the_cpu():
    assert device_of(nn.Identity()) == torch.device("cpu")


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float64])
def test_inputs_are_given_in_the_precision_of_the_weights(precision):
    net = nn.Linear(3, 2).to(precision)
    assert logits_of(net, torch.rand(4, 3)).dtype == precision

    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.head = nn.Embedding(5, 3).to(precision), net

        def forward(self, tokens: Tensor, values: Tensor) -> Tensor:
            return self.head(self.words(tokens) + values)

    assert logits_of(Named(), {"tokens": torch.tensor([1, 4]), "values": torch.rand(2, 3)}).dtype == precision


@pytest.mark.parametrize("output", [torch.zeros(3), torch.zeros(2, 3, 4)], ids=["[K]", "[B, K, 4]"])
def test_an_answer_of_another_shape_is_no_logits(output):
    class Constant(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return output

    with pytest.raises(InputError, match=r"allowed: logits of shape .batch, classes"):
        logits_of(Constant(), torch.zeros(1))


@pytest.mark.skipif(os.name != "posix", reason="other systems have no permissions of this kind")
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_all_files_of_a_model_have_the_permissions_of_new_files(mask, tmp_path):
    before = os.umask(mask)
    try:
        save_model(build_model("convnet,width=4", 2, 1, 8), tmp_path / "net")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "net").iterdir()}
    assert modes == dict.fromkeys(("model.json", "model.safetensors"), 0o666 & ~mask)


def test_the_examples_of_building_are_true():
    assert doctest.testmod(build).failed == 0 < doctest.testmod(build).attempted
