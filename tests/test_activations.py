"""Taps, features, streamed moments and the anatomy of nets of every kind."""

import itertools
from collections import namedtuple
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rasura import InputError, build_model
from rasura.activations import Moments, Point, anatomy, features, is_operator, moments, pooled, stream, tap, unreadable
from rasura.data import Examples, examples_from


def images(count: int = 10, channels: int = 1, side: int = 8) -> Examples:
    generator = torch.Generator().manual_seed(0)
    return examples_from(torch.rand(count, channels, side, side, generator=generator), torch.arange(count) % 3)


def convnet() -> nn.Module:
    torch.manual_seed(0)
    return build_model("convnet,width=4", classes=3, channels=1, size=8).eval()


def hooks_in(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


# ------------------------------------------------------------------------------------------------- tap


def test_a_tap_sees_what_goes_in_and_what_comes_out():
    model, seen = convnet(), {}
    inputs = images().source
    points = {Point("block2", "input"): "in", Point("block2"): "out"}
    with tap(model, {point: lambda tensor, name=name: seen.update({name: tensor}) for point, name in points.items()}):
        model(inputs)
    first = model.get_submodule("block1")(inputs)
    assert torch.equal(seen["in"], first)
    assert torch.equal(seen["out"], model.get_submodule("block2")(first))
    assert hooks_in(model) == 0


def fail(*_: Any) -> None:
    raise KeyError("stop")


def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def test_hooks_are_gone_however_the_block_ends():
    model = convnet()
    fast = torch.backends.mha.get_fastpath_enabled()
    with pytest.raises(KeyError), tap(model, {Point("block1"): fail}):
        model(images().source)
    with pytest.raises(KeyboardInterrupt), tap(model, {Point("block1"): interrupt}):
        model(images().source)
    with (
        pytest.raises(InputError, match="layer: the model has no module 'block9'; allowed: a name of named_modules"),
        tap(model, {Point("block1"): fail, Point("block9"): fail}),
    ):
        pass
    assert hooks_in(model) == 0
    assert torch.backends.mha.get_fastpath_enabled() == fast
    model(images().source)


Pair = namedtuple("Pair", ["maps", "note"])


class Wrapping(nn.Module):
    """Hands its input on in a container, as blocks of Hugging Face models do."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind

    def forward(self, tensor: Tensor) -> Any:
        output = tensor + 1
        return {
            "tensor": output,
            "tuple": (output, "note"),
            "second in a tuple": (None, output),
            "list": [output],
            "dict": {"note": None, "maps": output},
            "named tuple": Pair(output, "note"),
        }[self.kind]


class Unwrapping(nn.Module):
    def __init__(self, kind: str):
        super().__init__()
        self.inner = Wrapping(kind)

    def forward(self, tensor: Tensor) -> Tensor:
        output = self.inner(tensor)
        if isinstance(output, Tensor):
            return output
        if isinstance(output, Pair):
            return output.maps
        values = output.values() if isinstance(output, dict) else output
        return next(value for value in values if isinstance(value, Tensor))


KINDS = ["tensor", "tuple", "second in a tuple", "list", "dict", "named tuple"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", ["input", "output"])
def test_a_function_that_returns_a_tensor_puts_it_in_place(kind, side):
    model = Unwrapping(kind)
    with tap(model, {Point("inner", side): lambda tensor: tensor * 10}):
        found = model(torch.full((2,), 3.0))
    assert found.tolist() == ([31.0] * 2 if side == "input" else [40.0] * 2)
    with tap(model, {Point("inner", side): lambda tensor: None}):
        assert model(torch.full((2,), 3.0)).tolist() == [4.0] * 2


def test_a_replaced_tensor_of_a_hugging_face_output_is_used():
    from transformers.modeling_outputs import BaseModelOutput

    class Body(nn.Module):
        def forward(self, tensor: Tensor) -> BaseModelOutput:
            return BaseModelOutput(last_hidden_state=tensor)  # pyright: ignore[reportArgumentType]

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = Body()

        def forward(self, tensor: Tensor) -> Any:
            output = self.body(tensor)
            assert output[0] is output.last_hidden_state
            return output.last_hidden_state

    model = Whole()
    with tap(model, {Point("body"): lambda tensor: tensor + 1}):
        assert model(torch.zeros(2)).tolist() == [1.0, 1.0]


def test_inputs_given_by_name_are_seen_and_replaced():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 2)

        def forward(self, rows: Tensor) -> Tensor:
            return self.inner(input=rows)

    model, rows = Named(), torch.rand(4, 3)
    with tap(model, {Point("inner", "input"): lambda tensor: tensor * 0}):
        assert torch.equal(model(rows), model.inner.bias.expand(4, 2))


# -------------------------------------------------------------------------------- pooled and features


def test_one_vector_per_example_of_every_shape():
    generator = torch.Generator().manual_seed(0)
    flat = torch.rand(4, 5, generator=generator)
    tokens = torch.rand(4, 7, 5, generator=generator)
    maps = torch.rand(4, 5, 6, 3, generator=generator)
    last = torch.rand(4, 6, 6, 5, generator=generator)
    cubes = torch.rand(4, 5, 2, 3, 2, generator=generator)
    for tensor, expected in [
        (flat[:, 0], [[row[0]] for row in flat.tolist()]),
        (flat, flat.tolist()),
        (tokens, [[*one[0], *(sum(column) / 7 for column in zip(*one, strict=True))] for one in tokens.tolist()]),
        (maps, [[sum(itertools.chain(*channel)) / 18 for channel in one] for one in maps.tolist()]),
        (last, [[sum(itertools.chain(*channel)) / 36 for channel in one.permute(2, 0, 1).tolist()] for one in last]),
        (cubes, cubes.sum((2, 3, 4)).div(12).tolist()),
    ]:
        torch.testing.assert_close(pooled(tensor), torch.tensor(expected), atol=1e-6, rtol=1e-6)
    square = torch.rand(4, 6, 6, 6)
    torch.testing.assert_close(pooled(square), square.mean((2, 3)))  # nothing tells: channels first, as in PyTorch


@pytest.mark.parametrize("batch_size", [3, 10, 64])
def test_features_are_those_of_the_modules_run_by_hand(batch_size):
    model, examples = convnet().train(), images()
    points = [Point("block1"), Point("block3"), Point("head", "input"), Point("block2", "input")]
    steps = []
    found, logits = features(model, examples, points, batch_size, progress=lambda *step: steps.append(step))
    assert list(found) == points
    one = model.get_submodule("block1")(examples.source)
    three = model.get_submodule("block3")(model.get_submodule("block2")(one))
    means = {"block1": one, "block3": three, "head": three, "block2": one}
    for point, tensor in found.items():
        torch.testing.assert_close(tensor, means[point.module].mean((2, 3)), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(logits, model(examples.source), atol=1e-5, rtol=1e-5)
    assert steps[-1] == ("features", len(steps), len(steps)) and len(steps) == -(-10 // batch_size)
    assert model.training and hooks_in(model) == 0
    assert not found[points[0]].requires_grad and not found[points[0]].is_inference()


class Twice(nn.Module):
    """Runs one module twice and has one that never runs."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.shared = nn.Linear(4, 4)
        self.idle = nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, rows: Tensor) -> Tensor:
        return self.head(self.shared(self.shared(self.first(rows))))


def test_a_layer_that_runs_twice_is_read_at_its_last_run():
    net, rows = Twice(), torch.rand(5, 4)
    found, _ = features(net, examples_from(rows, torch.arange(5) % 3), [Point("shared")], batch_size=2)
    torch.testing.assert_close(found[Point("shared")], net.shared(net.shared(net.first(rows))))


class Rows(nn.Module):
    """Layers on the rows of all images, one image after another or row by row, and one that sees positions alone."""

    def __init__(self):
        super().__init__()
        self.place, self.by_image, self.by_row = nn.Linear(1, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        placed = images[:, 0] + self.place(torch.linspace(0, 1, 2)[:, None])
        seen = self.by_image(placed.reshape(-1, 4)).reshape(-1, 2, 4)
        turned = self.by_row(seen.transpose(0, 1).reshape(-1, 4)).reshape(2, -1, 4)
        return self.head(turned.mean(0))


def test_rows_of_an_example_are_averaged_and_what_has_no_rows_of_examples_is_named():
    net, images = Rows(), torch.rand(5, 1, 2, 4)
    found = anatomy(net, images[:2])
    assert found.stages == ("place", "by_image", "by_row")
    assert unreadable(net, images[:2], found) == {
        "place": "its rows are not examples",
        "by_row": "its rows are not one example after another",
    }
    read, _ = features(net, examples_from(images, torch.zeros(5, dtype=torch.int64)), [Point("by_image")])
    placed = images[:, 0] + net.place(torch.linspace(0, 1, 2)[:, None])
    torch.testing.assert_close(read[Point("by_image")], net.by_image(placed).mean(1))


@pytest.mark.parametrize("module", ["idle", "place"])
def test_features_of_a_layer_that_does_not_run_on_examples_are_refused_or_named(module):
    net = Twice() if module == "idle" else Rows()
    examples = examples_from(torch.rand(5, 4) if module == "idle" else torch.rand(5, 1, 2, 4), torch.arange(5) % 3)
    with pytest.raises(InputError, match=f"layer: {module} does not run on every example"):
        features(net, examples, [Point(module)])
    unread: set[str] = set()
    found, _ = features(net, examples, [Point(module), Point("head", "input")], unread=unread)
    assert (list(found), unread) == ([Point("head", "input")], {module})


class Signals(nn.Module):
    """A one-dimensional convolutional net whose maps are as long as they have channels."""

    def __init__(self, norm: nn.Module | None = None):
        super().__init__()
        self.body = nn.Sequential(nn.Conv1d(2, 6, 3, padding=1), norm or nn.BatchNorm1d(6), nn.ReLU())
        self.head = nn.Linear(6, 3)

    def forward(self, signals: Tensor) -> Tensor:
        return self.head(self.body(signals).mean(2))


@pytest.mark.parametrize("length", [6, 11])
@pytest.mark.parametrize("norm", [nn.BatchNorm1d(6), nn.GroupNorm(2, 6), nn.InstanceNorm1d(6), nn.MaxPool1d(1)])
def test_channels_come_first_in_what_a_convolution_of_signals_gives(length, norm):
    net, signals = Signals(norm).eval(), torch.rand(5, 2, length)
    found, _ = features(net, examples_from(signals, torch.arange(5) % 3), [Point("body"), Point("head", "input")])
    for tensor in found.values():
        torch.testing.assert_close(tensor, net.body(signals).mean(2))


def test_channels_lie_where_the_layer_has_them_that_made_the_maps_not_where_sizes_suggest():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(5, 6, 6, 4, generator=generator)
    first = nn.Sequential(nn.Conv2d(6, 6, 1), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    last = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Flatten(), nn.Linear(216, 3))
    examples = examples_from(images, torch.arange(5) % 3)
    found, _ = features(first, examples, [Point("0"), Point("1")])
    for point, made in {"0": first[0](images), "1": first[:2](images)}.items():
        torch.testing.assert_close(found[Point(point)], made.mean((2, 3)))
    found, _ = features(last, examples, [Point("0"), Point("1")])  # [B, 6, 6, 6]
    for point, made in {"0": last[0](images), "1": last[:2](images)}.items():
        torch.testing.assert_close(found[Point(point)], made.mean((1, 2)))


# ---------------------------------------------------------------------------------------------- moments

drawn_rows = st.tuples(st.integers(0, 2**31), st.integers(1, 40), st.integers(1, 6), st.floats(-1e4, 1e4))


def drawn(one: tuple[int, int, int, float]) -> Tensor:
    seed, count, d, offset = one
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, d, generator=generator, dtype=torch.float64) * 3 + offset


@settings(deadline=None, max_examples=60)
@given(drawn_rows, st.lists(st.integers(0, 40), max_size=6))
def test_streamed_moments_are_those_of_the_whole_for_any_split(one, cuts):
    rows = drawn(one)
    fed = Moments(rows.shape[1], scatter=True)
    bounds = sorted({0, len(rows), *(min(cut, len(rows)) for cut in cuts)})
    for low, high in itertools.pairwise(bounds):
        fed.update(rows[low:high])
        fed.update(rows[:0])
    assert fed.count == len(rows) and fed.scatter is not None
    centred = rows - rows.mean(0)
    size = 1 + rows.abs().max().item()
    torch.testing.assert_close(fed.mean, rows.mean(0), atol=1e-10 * size, rtol=1e-10)
    torch.testing.assert_close(fed.scatter, centred.T @ centred, atol=1e-10 * size * len(rows), rtol=1e-10)
    torch.testing.assert_close(fed.covariance, centred.T @ centred / len(rows), atol=1e-10 * size, rtol=1e-10)


@settings(deadline=None, max_examples=40)
@given(drawn_rows, st.integers(0, 40), st.booleans())
def test_merged_moments_are_those_of_both(one, cut, scatter):
    rows = drawn(one)
    halves = []
    for part in (rows[:cut], rows[cut:]):
        halves.append(Moments(rows.shape[1], scatter))
        halves[-1].update(part)
    halves[0].merge(halves[1])
    whole = Moments(rows.shape[1], scatter)
    whole.update(rows)
    size = 1 + rows.abs().max().item()
    assert halves[0].count == whole.count
    torch.testing.assert_close(halves[0].mean, whole.mean, atol=1e-10 * size, rtol=1e-10)
    assert (halves[0].scatter is None) == (not scatter)
    if halves[0].scatter is not None and whole.scatter is not None:
        torch.testing.assert_close(halves[0].scatter, whole.scatter, atol=1e-9 * size * len(rows), rtol=1e-10)


def test_moments_of_single_precision_far_from_zero_keep_their_digits():
    rows = (torch.arange(10_000) % 2).float() + 4096.0
    fed = Moments(1, scatter=True)
    for part in rows.view(-1, 1).split(97):
        fed.update(part)
    assert fed.mean.item() == pytest.approx(4096.5, abs=1e-9)
    assert fed.covariance.item() == pytest.approx(0.25, abs=1e-9)


def test_means_per_class_are_streamed_over_batches(monkeypatch):
    model, examples = convnet(), images(700)
    pools: list[Point] = []

    def pool(point: Point, tensor: Tensor) -> Tensor:
        pools.append(point)
        return tensor.mean((2, 3))

    found = moments(model, examples, [Point("block1"), Point("block2")], classes=4, pool=pool)
    for point, per_class in found.items():
        vectors = features(model, examples, [point])[0][point].double()
        assert [one.count for one in per_class] == [*torch.bincount(examples.labels).tolist(), 0]
        for number in range(3):
            expected = vectors[examples.labels == number].mean(0)
            torch.testing.assert_close(per_class[number].mean, expected, atol=1e-6, rtol=1e-6)
    assert len(pools) == 2 * 3  # three batches of at most 256 at two points


def test_a_stream_hands_over_every_point_of_every_batch_with_its_labels():
    model, examples = convnet(), images()
    seen: list[tuple[str, int, list[int]]] = []
    stream(model, examples, [Point("block1"), Point("head")], receive_into(seen), batch_size=4)
    labels = examples.labels.tolist()
    assert seen == [
        (module, len(labels[start : start + 4]), labels[start : start + 4])
        for start in (0, 4, 8)
        for module in ("block1", "head")
    ]


def receive_into(seen: list[tuple[str, int, list[int]]]) -> Callable[[Point, Tensor, Tensor], None]:
    return lambda point, tensor, labels: seen.append((point.module, len(tensor), labels.tolist()))


# -------------------------------------------------------------------------------------------- anatomy


def parts_of(model: nn.Module, inputs: Any) -> Any:
    """The anatomy after the checks that hold for every net."""
    training = model.training
    found = anatomy(model, inputs)
    modules = dict(model.named_modules())
    assert model.training == training and hooks_in(model) == 0
    assert found.head == found.operators[-1]
    assert all(is_operator(modules[name]) for name in found.operators)
    assert len(set(found.operators)) == len(found.operators)
    for stage in found.stages:
        assert any(name == stage or name.startswith(f"{stage}.") for name in found.operators), stage
        assert not (found.head == stage or found.head.startswith(f"{stage}."))
    nested = [pair for pair in itertools.permutations(found.stages, 2) if pair[1].startswith(f"{pair[0]}.")]
    assert not nested
    assert len(found.stages) <= 8
    assert found.points == (*(Point(stage) for stage in found.stages), Point(found.head, "input"))
    assert all(isinstance(modules[name], nn.modules.batchnorm._BatchNorm) for name in found.norms.values())
    return found


def test_the_parts_of_a_plain_convolutional_net():
    found = parts_of(convnet(), torch.rand(2, 1, 8, 8))
    assert found.stages == ("block1", "block2", "block3")
    assert found.operators == ("block1.0", "block2.0", "block3.0", "head")
    assert found.norms == {}


def test_the_parts_of_a_residual_net():
    model = build_model("resnet8,width=4", classes=3, channels=1, size=8)
    found = parts_of(model, torch.rand(2, 1, 8, 8))
    assert found.stages == ("conv1", "layer1", "layer2", "layer3")
    assert found.head == "head"
    convolutions = {name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    assert set(found.operators) == convolutions | {"head"}
    assert found.norms == {
        "conv1": "bn1",
        **{f"layer{k}.0.conv{j}": f"layer{k}.0.bn{j}" for k in (1, 2, 3) for j in (1, 2)},
        **{f"layer{k}.0.shortcut.0": f"layer{k}.0.shortcut.1" for k in (2, 3)},
    }


def test_the_parts_of_a_deep_residual_net():
    model = build_model("resnet18,width=2", classes=3, channels=1, size=8)
    found = parts_of(model, torch.rand(2, 1, 8, 8))
    assert found.stages == ("conv1", "layer1", "layer2", "layer3", "layer4")
    assert len(found.operators) == 1 + 16 + 3 + 1
    assert len(found.norms) == 20


@pytest.mark.parametrize(("depth", "blocks"), [(2, [0, 1]), (12, None)])
def test_the_parts_of_a_vision_transformer(depth, blocks):
    model = build_model(f"vit,patch=2,width=8,depth={depth}", classes=3, channels=1, size=8)
    found = parts_of(model, torch.rand(2, 1, 8, 8))
    assert len(found.operators) == 1 + 4 * depth + 1
    if blocks is None:
        assert len(found.stages) == 8
        assert found.stages[-1] == "blocks.11"
        numbers = [int(stage.rpartition(".")[2]) for stage in found.stages if stage.startswith("blocks.")]
        assert numbers == sorted(numbers) and max(b - a for a, b in itertools.pairwise(numbers)) <= 2
    else:
        assert found.stages == ("embed", *(f"blocks.{number}" for number in blocks))


def hugging_face(kind: str) -> nn.Module:
    import transformers

    torch.manual_seed(0)
    small = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
    if kind == "ViT":
        config = transformers.ViTConfig(image_size=8, patch_size=4, num_channels=1, num_labels=3, **small)
        return transformers.ViTForImageClassification(config)
    if kind == "ResNet":
        config = transformers.ResNetConfig(
            num_channels=1, embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", num_labels=3
        )
        return transformers.ResNetForImageClassification(config)
    if kind == "BERT":
        return transformers.BertForSequenceClassification(transformers.BertConfig(vocab_size=30, num_labels=3, **small))
    if kind == "GPT-2":
        config = transformers.GPT2Config(
            vocab_size=30, n_positions=16, n_embd=8, n_layer=2, n_head=2, num_labels=3, pad_token_id=0
        )
        return transformers.GPT2ForSequenceClassification(config)
    config = transformers.DistilBertConfig(vocab_size=30, dim=8, n_layers=2, n_heads=2, hidden_dim=8, num_labels=3)
    return transformers.DistilBertForSequenceClassification(config)


HUGGING_FACE = {  # the stages that a reader would name, operators in all, and the head
    "ViT": (["embeddings", "layers.0", "layers.1"], 1 + 2 * 6 + 1, "classifier"),
    "ResNet": (["embedder", "stages.0", "stages.1"], None, "classifier.1"),
    "BERT": (["layer.0", "layer.1", "pooler"], 2 * 6 + 2, "classifier"),
    "GPT-2": (["h.0", "h.1"], 2 * 4 + 1, "score"),
    "DistilBERT": (["layer.0", "layer.1", "pre_classifier"], 2 * 6 + 2, "classifier"),
}


@pytest.mark.parametrize("kind", HUGGING_FACE)
def test_the_parts_of_hugging_face_nets(kind):
    model = hugging_face(kind)
    text = {"input_ids": torch.randint(1, 30, (2, 6)), "attention_mask": torch.ones(2, 6, dtype=torch.int64)}
    found = parts_of(model, torch.rand(2, 1, 8, 8) if kind in ("ViT", "ResNet") else text)
    stages, operators, head = HUGGING_FACE[kind]
    assert found.head == head
    assert len(found.stages) == len(stages), found.stages
    for stage, named in zip(found.stages, stages, strict=True):
        assert named in stage, found.stages
    if operators is not None:
        assert len(found.operators) == operators
    if kind == "ResNet":
        convolutions = {name for name in found.operators if isinstance(model.get_submodule(name), nn.Conv2d)}
        assert set(found.norms) == convolutions
    if kind == "GPT-2":
        assert {type(model.get_submodule(name)).__name__ for name in found.operators} == {"Conv1D", "Linear"}


class Encoder(nn.Module):
    """PyTorch's own transformer, whose fused path in eval mode skips the modules inside."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(8, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(pixels[:, 0])).mean(1))


def test_hooks_fire_inside_pytorchs_fused_transformer():
    torch.manual_seed(0)
    model, examples = Encoder().eval(), images()
    found = parts_of(model, examples.source[:2])
    assert found.stages == ("embed", "encoder.layers.0", "encoder.layers.1")
    assert {"encoder.layers.0.linear1", "encoder.layers.1.linear2"} <= set(found.operators)
    seen, _ = features(model, examples, [Point("encoder.layers.1.linear1", "input"), Point("encoder.layers.0")])
    assert all(len(tensor) == len(examples) for tensor in seen.values())
    assert torch.backends.mha.get_fastpath_enabled()


def vgg() -> nn.Module:
    layers: list[nn.Module] = []
    for inner, outer in [(1, 4), (4, 4), (4, 8), (8, 8)]:
        layers += [nn.Conv2d(inner, outer, 3, padding=1), nn.BatchNorm2d(outer), nn.ReLU(inplace=True)]
    net = nn.Module()
    net.features, net.avgpool = nn.Sequential(*layers), nn.AdaptiveAvgPool2d(2)
    net.classifier = nn.Sequential(nn.Linear(32, 16), nn.ReLU(True), nn.Dropout(), nn.Linear(16, 3))
    net.forward = lambda pixels: net.classifier(net.avgpool(net.features(pixels)).flatten(1))
    return net


def test_the_parts_of_a_vgg():
    found = parts_of(vgg(), torch.rand(2, 1, 8, 8))
    assert found.stages == (*(f"features.{number}" for number in (0, 3, 6, 9)), "classifier.0")
    assert found.head == "classifier.3"
    assert found.norms == {f"features.{number}": f"features.{number + 1}" for number in (0, 3, 6, 9)}


def test_the_parts_of_a_perceptron_and_of_a_lone_linear_map():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    found = parts_of(model, torch.rand(2, 1, 8, 8))
    assert found.stages == ("1", "3") and found.head == "5"
    alone = anatomy(nn.Linear(4, 3), torch.rand(2, 4))
    assert (alone.stages, alone.operators, alone.head) == ((), ("",), "")
    assert alone.points == (Point("", "input"),)


class Wrapper(nn.Module):
    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, pixels: Tensor) -> Any:
        return self.inner(pixels)


def test_wrappers_are_opened():
    found = parts_of(Wrapper(Wrapper(convnet())), torch.rand(2, 1, 8, 8))
    assert found.stages == tuple(f"inner.inner.block{number}" for number in (1, 2, 3))
    assert found.head == "inner.inner.head"


def test_a_module_that_runs_twice_is_one_operator_and_an_idle_one_is_none():
    found = parts_of(Twice(), torch.rand(2, 4))
    assert found.operators == ("first", "shared", "head")
    assert found.stages == ("first", "shared")


def test_the_head_is_the_last_linear_map_that_runs_not_the_last_that_is_declared():
    class Declared(nn.Module):
        def __init__(self):
            super().__init__()
            self.classifier = nn.Linear(4, 3)
            self.body = nn.Linear(8, 4)

        def forward(self, rows: Tensor) -> Tensor:
            return self.classifier(self.body(rows)) / 2

    found = parts_of(Declared(), torch.rand(2, 8))
    assert found.operators == ("body", "classifier")
    assert found.stages == ("body",)


def test_the_head_is_the_map_that_gives_the_answers_not_one_that_runs_after_it():
    class Decoy(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head, self.decoy = nn.Linear(8, 4), nn.Linear(4, 3), nn.Linear(8, 3)

        def forward(self, rows: Tensor) -> Tensor:
            return self.head(self.body(rows)) + 0 * self.decoy(rows)

    found = parts_of(Decoy(), torch.rand(2, 8))
    assert found.head == "head"
    assert found.operators == ("body", "decoy", "head")


def test_features_are_kept_as_they_were_when_code_changes_them_in_place():
    class Silenced(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(64, 3)

        def forward(self, images: Tensor) -> Tensor:
            logits = self.head(images.flatten(1))
            logits[:, 0] = -1e4
            return logits

    found, logits = features(Silenced(), images(), [Point("head")])
    assert (logits[:, 0] == -1e4).all()
    assert (found[Point("head")][:, 0].abs() < 10).all()


def ordered(*modules: nn.Module) -> nn.Module:
    return nn.Sequential(*modules, nn.Flatten(), nn.Linear(4 * 36, 3))


def test_only_a_norm_that_takes_the_operators_own_output_belongs_to_it():
    inputs = torch.rand(2, 1, 8, 8)
    convolution, norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
    assert anatomy(ordered(convolution, norm), inputs).norms == {"0": "1"}
    assert anatomy(ordered(convolution, nn.Identity(), norm), inputs).norms == {"0": "2"}
    for between in (nn.ReLU(), nn.ReLU(inplace=True), nn.Dropout(0.5, inplace=True).train(), nn.ELU(inplace=True)):
        changes = not isinstance(between, nn.Dropout)  # in eval mode dropout does nothing
        assert anatomy(ordered(convolution, between, norm), inputs).norms == ({} if changes else {"0": "2"})


def test_a_net_without_linear_maps_is_refused():
    with pytest.raises(InputError, match=r"model: no learnable linear map runs .*Flatten.*; allowed: Linear or Conv"):
        anatomy(nn.Sequential(nn.Flatten()), torch.rand(2, 1, 8, 8))


def test_inputs_that_the_net_cannot_take_are_named_by_their_shape():
    with pytest.raises(InputError, match=r"data: the model cannot take inputs of shape \(2, 3, 8, 8\)"):
        anatomy(convnet(), torch.rand(2, 3, 8, 8))
    with pytest.raises(InputError, match=r"allowed: logits of shape \[batch, classes\]"):
        anatomy(convnet().get_submodule("block1"), torch.rand(2, 1, 8, 8))


def timm_nets() -> Iterator[str]:
    yield from ("resnet10t", "vit_tiny_patch16_224,img_size=32", "mobilenetv3_small_050", "convnext_atto")


@pytest.mark.parametrize("name", list(timm_nets()))
def test_the_parts_of_timm_nets(name):
    try:
        __import__("timm")
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"timm cannot be imported: {error}")
    model = build_model(f"timm:{name}", classes=3, channels=3).eval()
    found = parts_of(model, torch.rand(2, 3, 32, 32))
    expected = {name for name, module in model.named_modules() if is_operator(module)}
    assert set(found.operators) == expected
    assert found.head == next(reversed([name for name, module in model.named_modules() if is_operator(module)]))
    assert 4 <= len(found.stages) <= 8


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn", "mobilenet_v3_small"])
def test_the_parts_of_torchvision_nets(name):
    try:
        __import__("torchvision")
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torchvision cannot be imported: {error}")
    with torch.device("meta"):
        empty = build_model(f"torchvision:{name}", classes=3, channels=3)
    model = empty.to_empty(device="cpu").eval()
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.detach().zero_()
    found = parts_of(model, torch.rand(2, 3, 32, 32))
    modules = dict(model.named_modules())
    assert set(found.operators) == {name for name, module in modules.items() if is_operator(module)}
    norms = {name for name, module in modules.items() if isinstance(module, nn.BatchNorm2d)}
    assert set(found.norms.values()) == norms
    assert 4 <= len(found.stages) <= 8
