"""Which output means which class: by the model's own names, by its answers, and refused where neither fits."""

import copy
import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rasura
from rasura.class_order import check_order, ordered, places
from rasura.cli import main
from rasura.data import Data, ForgetClasses, ForgetSamples, in_order, matched
from rasura.errors import InputError
from rasura.methods import Damp, forgotten_classes
from rasura.models import Card, card_of, class_names_of, complete, logits_of, with_card
from rasura.models.complete import by_class, own_outputs
from rasura.training import Recipe, fit, predict

ANIMALS = ("dog", "retriever", "tabby", "wolf")
"""As folders sort them; the models below count them otherwise."""
OWN = ("Tabby", "wolf", "retriever", "dog")
BRIEFLY = Recipe(epochs=4, learning_rate=0.003, optimiser="adamw")


def images(count: int, seed: int, names: tuple[str, ...] = ANIMALS) -> tuple[Tensor, Tensor]:
    """Noise around one pattern per class, the same whatever number the class has."""
    patterns = torch.randn(len(ANIMALS), 1, 8, 8, generator=torch.Generator().manual_seed(5))
    labels = torch.arange(count) % len(names)
    of_class = torch.tensor([ANIMALS.index(name) for name in names])
    noise = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    return 1.5 * patterns[of_class[labels]] + noise, labels


def animals(names: tuple[str, ...] = ANIMALS, count: int = 160) -> Data:
    return Data.from_tensors(images(count, 1, names), images(120, 2, names), names, name="animals")


def vit(names: tuple[str, ...]) -> nn.Module:
    import transformers

    torch.manual_seed(0)
    config = transformers.ViTConfig(
        image_size=8,
        patch_size=4,
        num_channels=1,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
    )
    return transformers.ViTForImageClassification(config)


@pytest.fixture(scope="module")
def named() -> nn.Module:
    """A Hugging Face net that was trained with the classes in its own order."""
    return fit(vit(OWN), in_own_order(animals()).train, BRIEFLY, 0)


def in_own_order(data: Data) -> Data:
    to = torch.tensor([3, 2, 0, 1])  # dog, retriever, tabby, wolf among OWN
    train, test = (replace(part, labels=to[part.labels]) for part in (data.train, data.test))
    return replace(data, train=train, test=test, classes=OWN)


def recall(model: nn.Module, name: str) -> float:
    """How many of a class's held-out images get the output that the model's configuration calls so."""
    said = predict(model, animals().test).argmax(1)
    going = animals().test.labels == ANIMALS.index(name)
    return float((said[going] == [one.casefold() for one in OWN].index(name)).double().mean())


# ------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        (["a", "b"], ["b", "a"], {0: 1, 1: 0}),
        (["Ape", "ape"], ["ape", "APE"], {0: 1, 1: 0}),
        (["ape"], ["Ape", "APE"], {}),
        (["great_white  shark"], ["tench", "Great white shark"], {0: 1}),
        (["tabby_cat", "tench"], ["tench, Tinca tinca", "tabby, tabby cat"], {0: 1, 1: 0}),
        (["crane"], ["crane, bird", "crane, machine"], {}),
        (["crane"], ["crane", "crane"], {}),
        (["tabby", "tabby cat"], ["tabby, tabby cat"], {}),
        ([], ["a"], {}),
    ],
)
def test_names_match_where_one_alone_can_be_meant(ours, theirs, expected):
    assert matched(ours, theirs) == expected


def test_a_model_says_its_names():
    model = vit(OWN)
    assert class_names_of(model) == OWN
    assert class_names_of(with_card(model, Card(classes=("a", "b")))) == ("a", "b")
    assert class_names_of(vit(("LABEL_0", "LABEL_1"))) == ()
    assert class_names_of(nn.Linear(2, 2)) == ()
    odd: Any = nn.Linear(2, 2)
    odd.pretrained_cfg = {"label_names": ["n01", "n02"]}
    assert class_names_of(odd) == ("n01", "n02")
    odd.pretrained_cfg = {"label_names": None}
    assert class_names_of(odd) == ()
    odd.config = type("Config", (), {"id2label": {"1": "b", "0": "a"}})()
    assert class_names_of(odd) == ("a", "b")


def test_data_keep_their_spelling_and_get_the_classes_that_they_lack():
    data = animals(("dog", "tabby"))
    turned = in_order(data, OWN)
    assert turned.classes == ("tabby", "wolf", "retriever", "dog")
    assert torch.equal(turned.train.labels, torch.tensor([3, 0])[data.train.labels])
    assert torch.equal(turned.train.rows, data.train.rows)
    assert in_order(data, ("Dog", "TABBY")) is data
    cranes = in_order(animals(("dog", "wolf")), ("dog", "crane", "wolf", "crane")).classes
    assert cranes == ("dog", "crane (output 1)", "wolf", "crane (output 3)")


# --------------------------------------------------------------------------------------- forgetting


def test_the_class_that_was_asked_for_is_forgotten(named):
    assert recall(named, "tabby") > 0.9
    assert recall(named, "retriever") > 0.9
    outcome = rasura.forget(named, animals(), ForgetClasses(["tabby"]), Damp())
    assert recall(outcome.model, "tabby") < 0.1
    assert recall(outcome.model, "retriever") > 0.9
    assert outcome.record["request"] == {"forget": "tabby", "classes": [0]}
    assert (
        "counts them otherwise than animals; they were matched by name: 'tabby' is output 0, 'dog' is output 3"
        in outcome.warnings[0]
    )
    assert forgotten_classes(outcome.model) == ForgetClasses(["Tabby"])
    again = ordered(outcome.model, animals(), forgotten_classes(outcome.model))
    assert again.data.class_numbers(again.request.classes) == (0,)  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("request_", [["tabby"], ["Tabby"], [2], ("2",), {"tabby"}], ids=str)
def test_numbers_are_those_of_the_data(named, request_):
    outcome = rasura.forget(named, animals(), request_, "logit-mask")
    assert outcome.record["request"] == {"forget": "tabby", "classes": [0]}
    assert recall(outcome.model, "tabby") == 0


def test_samples_stay_the_samples_that_they_were(named):
    rows = [4, 9, 14]
    outcome = rasura.forget(named, animals(), ForgetSamples(rows), rasura.methods.GradientAscent())
    assert outcome.record["samples"]["indices"] == rows


def test_the_order_does_not_change_what_is_done(named):
    """The same net and images, the classes counted as the net does: the same bits, and no word about an order."""
    by_name = rasura.forget(named, animals(), ["tabby"], Damp())
    as_counted = rasura.forget(named, in_own_order(animals()), ["Tabby"], Damp())
    for name, weight in by_name.model.state_dict().items():
        assert torch.equal(weight, as_counted.model.state_dict()[name]), name
    assert as_counted.warnings == by_name.warnings[1:]
    assert ordered(named, in_own_order(animals()), ForgetClasses(["Tabby"])).warnings == ()


def test_the_search_counts_as_the_model_does(named):
    found = rasura.search_strength(named, animals(), [2], "gradient-ascent", rasura.Search(budget=1))
    assert found.record["request"] == {"forget": "tabby", "classes": [0]}
    assert any("matched by name" in line for line in found.warnings)


def test_a_model_may_know_more_classes_than_the_data_have(named):
    data = animals(("dog", "retriever", "tabby"))
    outcome = rasura.forget(named, data, ["tabby"], "logit-mask")
    assert recall(outcome.model, "tabby") == 0
    assert "1 of the model's have no examples" in outcome.warnings[0]
    with pytest.raises(InputError, match=r"data: class 1 \('wolf'\) has no example"):
        rasura.forget(named, data, ["tabby"], "damp")


def test_a_mismatch_that_cannot_be_mapped_is_refused(named):
    data = replace(animals(), classes=("dog", "retriever", "lynx", "wolf"))
    with pytest.raises(InputError, match="classes: the model names no 'lynx' of animals") as refused:
        rasura.forget(named, data, ["lynx"], "damp")
    assert "\n" not in str(refused.value)


def test_numbers_alone_are_taken_for_the_models_if_its_answers_bear_them_out(named):
    own = in_own_order(animals())
    numbers = replace(own, classes=("0", "1", "2", "3"))
    outcome = rasura.forget(named, numbers, ["Tabby"], "logit-mask")
    assert recall(outcome.model, "tabby") == 0
    assert "have no names in animals" in outcome.warnings[0]
    by_number = rasura.forget(named, numbers, [0], "logit-mask")
    assert recall(by_number.model, "tabby") == 0
    other = Data.from_tensors((torch.randn(80, 1, 8, 8), torch.arange(80) % 4), images(40, 3))
    with pytest.raises(InputError, match="classes: tensors names none, and by number the model is right for"):
        rasura.forget(named, other, [0], "logit-mask")


def test_names_of_a_head_that_was_exchanged_say_nothing():
    model: Any = vit(("one", "two", "three"))
    model.classifier = nn.Linear(16, 4)
    assert ordered(model, animals(), ForgetClasses(["tabby"])).data.classes == ANIMALS


def test_a_text_classifier_counts_its_own_way():
    import transformers

    torch.manual_seed(0)
    config = transformers.DistilBertConfig(
        vocab_size=20,
        dim=16,
        n_layers=1,
        n_heads=2,
        hidden_dim=16,
        max_position_embeddings=8,
        id2label={0: "weather", 1: "sports", 2: "politics"},
    )
    names = ("politics", "sports", "weather")

    def texts(seed: int) -> tuple[dict[str, Tensor], Tensor]:
        labels = torch.arange(90) % 3
        words = torch.randint(0, 5, (90, 6), generator=torch.Generator().manual_seed(seed)) + 2 + 5 * labels[:, None]
        return {"input_ids": words, "attention_mask": torch.ones_like(words)}, labels

    data = Data.from_tensors(texts(1), texts(2), names)
    own = replace(data.train, labels=2 - data.train.labels)
    model = fit(transformers.DistilBertForSequenceClassification(config), own, replace(BRIEFLY, epochs=8), 0)
    outcome = rasura.forget(model, data, ["weather"], "logit-mask")
    said = predict(outcome.model, data.test).argmax(1)
    assert outcome.record["request"] == {"forget": "weather", "classes": [0]}
    assert not (said == 0).any()
    assert ((said == 2) == (data.test.labels == 0)).double().mean() > 0.6


def test_a_timm_model_with_label_names_counts_its_own_way():
    timm = pytest.importorskip("timm")
    model = timm.create_model("resnet10t", num_classes=4, in_chans=1).eval()
    model.pretrained_cfg["label_names"] = list(OWN)
    assert class_names_of(model) == OWN
    assert ordered(model, animals(), ForgetClasses(["tabby"])).data.classes == ("tabby", "wolf", "retriever", "dog")


# ------------------------------------------------------------------------------------ without names


class Renamed(nn.Module):
    """A net whose outputs stand in another order, and which keeps no names."""

    def __init__(self, net: nn.Module, order: list[int]):
        super().__init__()
        self.net, self.order = net, order

    def forward(self, inputs: Tensor) -> Tensor:
        return logits_of(self.net, inputs)[:, self.order]


@pytest.fixture(scope="module")
def nameless(named) -> nn.Module:
    """The same net with its outputs in the order of the data."""
    return Renamed(named, [3, 2, 0, 1]).eval()


def test_outputs_in_the_order_of_the_data_raise_no_doubt(nameless):
    assert check_order(nameless, animals(), [2]) == ()


@pytest.mark.parametrize("order", [[3, 2, 1, 0], [1, 2, 3, 0]], ids=str)
@pytest.mark.parametrize("request_", [ForgetClasses(["tabby"]), ForgetSamples([1, 2])], ids=["class", "samples"])
def test_labels_that_are_confused_wholesale_are_refused_before_any_work(nameless, order, request_):
    model = Renamed(nameless, order).eval()
    calls: list[str] = []
    with pytest.raises(InputError, match=r"the model calls most of .*'dog'.*; allowed: classes in the order"):
        rasura.forget(model, animals(), request_, Damp(), progress=lambda label, *_: calls.append(label))
    assert calls == []
    with pytest.raises(InputError, match="classes: the model calls most of"):
        rasura.audit(model, animals(), request_, model)


def test_two_classes_that_are_exchanged_are_refused_when_one_is_asked_for(nameless):
    model = Renamed(nameless, [0, 2, 1, 3]).eval()
    said = r"of the training examples of 'tabby', \d+% of the others, and calls \d+% 'retriever', whose"
    with pytest.raises(InputError, match=said):
        rasura.forget(model, animals(), ["tabby"], "damp")
    rasura.forget(model, animals(), ["dog"], "logit-mask")


def test_a_class_that_was_forgotten_before_may_be_forgotten_again(named):
    masked = rasura.forget(named, animals(), ["tabby"], Damp()).model
    again = rasura.forget(masked, animals(), ["tabby"], "head-reset")
    assert not any("hardly" in line or "forgotten the class already" in line for line in again.warnings)
    unknown = with_card(copy.deepcopy(masked), Card())
    warned = rasura.forget(unknown, animals(), ["tabby"], "head-reset")
    assert any("has it forgotten the class already" in line for line in warned.warnings)


@pytest.mark.parametrize("each", [2, 6])
def test_a_thousand_classes_with_few_examples_are_enough(each):
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(1000, 64, generator=generator)
    labels = torch.arange(1000).repeat(each)
    inputs = centres[labels] + 0.3 * torch.randn(len(labels), 64, generator=generator)
    data = Data.from_tensors((inputs, labels), (inputs[:1000], labels[:1000]))
    right = nn.Linear(64, 1000, bias=False)
    right.weight.data = centres.clone()
    assert check_order(right, data, [7]) == ()
    shifted = nn.Linear(64, 1000, bias=False)
    shifted.weight.data = centres.roll(1, 0)
    with pytest.raises(InputError, match="classes: the model calls most of '7' '8'"):
        check_order(shifted, data, [7])
    exchanged = nn.Linear(64, 1000, bias=False)
    exchanged.weight.data = centres.clone()
    exchanged.weight.data[[7, 901]] = centres[[901, 7]]
    with pytest.raises(InputError, match=r"examples of '7', .* calls 100% '901', whose own it does not"):
        check_order(exchanged, data, [7])


def test_poor_and_untrained_models_are_no_renamed_ones():
    """Nets that answer at random, with one class, or with a few, over many draws: none is refused."""
    generator = torch.Generator().manual_seed(1)
    inputs, labels = torch.randn(400, 8, generator=generator), torch.arange(400) % 10
    data = Data.from_tensors((inputs, labels), (inputs, labels))
    for seed in range(20):
        torch.manual_seed(seed)
        assert check_order(nn.Linear(8, 10), data, [seed % 10]) == ()
    constant = nn.Linear(8, 10)
    constant.weight.data.zero_()
    assert check_order(constant, data, [3]) == ()


# ---------------------------------------------------------------------------------------- the audit


@pytest.fixture(scope="module")
def retrained(named) -> list[nn.Module]:
    data = in_own_order(animals())
    return [fit(vit(OWN), data.train.take(data.train.labels != 0), BRIEFLY, seed) for seed in (1, 2)]


def in_the_datas_order(model: Any) -> nn.Module:
    """A Hugging Face net with rows of its head, and its names, in the order of the data."""
    turned, order = copy.deepcopy(model), [3, 2, 0, 1]
    turned.classifier.weight.data = model.classifier.weight.data[order]
    turned.classifier.bias.data = model.classifier.bias.data[order]
    turned.config.id2label = dict(enumerate(ANIMALS))
    return turned


def test_models_that_count_otherwise_are_audited_alike(named, retrained, monkeypatch):
    model = rasura.forget(named, animals(), ["tabby"], Damp()).model
    given = animals(), ["tabby"], named
    alike = rasura.audit(model, *given, retrained)  # pyright: ignore[reportArgumentType]
    mixed = rasura.audit(
        in_the_datas_order(model),
        *given,
        [retrained[0], in_the_datas_order(retrained[1])],  # pyright: ignore
    )
    assert (mixed.verdict, mixed.where, mixed.reason) == (alike.verdict, alike.where, alike.reason)
    assert mixed.content["comparisons"] == alike.content["comparisons"]
    assert mixed.content["geometry"] == alike.content["geometry"]
    assert mixed.content["heads"] == alike.content["heads"]
    assert mixed.content["data"]["classes"] == ["tabby", "wolf", "retriever", "dog"]
    assert "matched by name" in mixed.content["notes"][0]
    plain = rasura.audit(model, in_own_order(animals()), ["Tabby"], named, retrained)  # pyright: ignore
    assert plain.content["notes"] == []
    assert plain.content["comparisons"] == alike.content["comparisons"]
    monkeypatch.setattr(
        "rasura.finding.check_order", lambda model, *_, **__: ("a doubt",) if model is retrained[1] else ()
    )
    doubted = rasura.audit(model, *given, retrained)  # pyright: ignore[reportArgumentType]
    assert doubted.content["notes"] == [
        *alike.content["notes"][:1],
        "reference 2: a doubt",
        *alike.content["notes"][1:],
    ]


def test_a_model_with_other_names_is_not_audited(named):
    stranger = vit(("tabby", "wolf", "retriever", "lynx"))
    with pytest.raises(InputError, match="classes: a model names 'lynx'; allowed: those of animals, 'tabby', 'wolf'"):
        rasura.audit(stranger, animals(), ["tabby"], named)  # pyright: ignore[reportArgumentType]


def test_outputs_find_their_classes():
    data = animals()
    assert places(nn.Linear(2, 4), data, 4) == [0, 1, 2, 3]
    assert places(nn.Linear(2, 3), data, 3, lacking=[2]) == [0, 1, 3]
    assert places(vit(OWN), data, 4) == [2, 3, 1, 0]
    assert places(vit(("wolf", "dog", "Retriever")), data, 3, lacking=[2]) == [3, 0, 1]
    with pytest.raises(InputError, match="names no 'tabby'"):
        places(vit(("wolf", "dog", "retriever")), data, 3, lacking=[0])


def test_a_head_is_read_by_class():
    net = nn.Linear(2, 3)
    logits = net(torch.eye(2))
    made = complete(net, logits, classes=3, places=[1, 2, 0])
    assert torch.equal(made(torch.eye(2)), logits[:, [2, 0, 1]])
    assert torch.equal(by_class(made, net.weight), net.weight[[2, 0, 1]])
    assert torch.equal(own_outputs(made, made(torch.eye(2))), logits)
    assert by_class(net, net.weight) is net.weight


# -------------------------------------------------------------------------------- the command line


def make_npz(path: Any, data: Data) -> str:
    import numpy as np

    arrays = {}
    for part in ("train", "test"):
        examples = getattr(data, part)
        stored = (examples.source.clamp(-4, 4) * 30 + 128).to(torch.uint8).numpy()
        arrays |= {f"x_{part}": stored, f"y_{part}": examples.labels.numpy()}
    np.savez(path, **arrays, classes=np.array(data.classes))
    return f"npz:{path}"


def test_the_command_line_forgets_the_class_that_was_asked_for(tmp_path, capsys):
    spec = make_npz(tmp_path / "animals.npz", animals(count=240))
    data = rasura.load_data(spec)
    net: Any = fit(vit(OWN), in_own_order(data).train, BRIEFLY, 0)
    net.save_pretrained(tmp_path / "hf")
    given = ["--model", str(tmp_path / "hf"), "--data", spec]
    assert main(["forget", "damp", *given, "--forget", "tabby", "--out", str(tmp_path / "out"), "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["request"] == {"forget": "tabby", "classes": [0]}
    assert "rasura: classes: the model counts them otherwise" in said.err
    assert main(["forget", "damp", *given, "--forget", "lynx", "--out", str(tmp_path / "no")]) == 2
    assert not (tmp_path / "no").exists()


def test_training_goes_on_in_the_order_of_the_model(tmp_path, capsys):
    spec = make_npz(tmp_path / "animals.npz", animals(count=240))
    data = rasura.load_data(spec)
    net: Any = fit(vit(OWN), in_own_order(data).train, BRIEFLY, 0)
    net.save_pretrained(tmp_path / "hf")
    before = float((predict(net, data.test).argmax(1) == in_own_order(data).test.labels).double().mean())
    assert before > 0.9
    training = ["--model", f"hf:{tmp_path / 'hf'}", "--epochs", "1", "--learning-rate", "1e-6", "--json"]
    assert main(["train", "--data", spec, *training, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["held_out_accuracy"] > 0.9
    assert "counts them otherwise" in said.err
    trained = rasura.load_model(tmp_path / "out", f"hf:{tmp_path / 'hf'}")
    assert card_of(trained).classes == ("tabby", "wolf", "retriever", "dog")
    assert recall_of(trained, in_own_order(data)) > 0.9


def test_a_reference_does_not_start_from_weights_that_saw_the_class(tmp_path, capsys):
    spec, net = make_npz(tmp_path / "animals.npz", animals(count=240)), vit(OWN)
    net.save_pretrained(tmp_path / "hf")
    training = [
        "train",
        "--data",
        spec,
        "--epochs",
        "1",
        "--without",
        "tabby",
        "--out",
        str(tmp_path / "out"),
        "--model",
    ]
    assert main([*training, f"hf:{tmp_path / 'hf'}"]) == 2
    assert "without: 'tabby'; allowed: classes that the weights of hf:" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    forget = ["forget", "logit-mask", "--model", str(tmp_path / "hf"), "--data", spec, "--out", str(tmp_path / "made")]
    assert main([*forget, "--forget", "2"]) == 0
    assert "made: logit-mask, to forget tabby, in " in capsys.readouterr().out
    untrained = f"hf:{tmp_path / 'hf'},pretrained=false"
    assert main([*training, untrained]) == 0
    assert "'tabby' is output 0" in capsys.readouterr().err
    trained, fresh = rasura.load_model(tmp_path / "out"), rasura.build_model(untrained, classes=4)
    assert card_of(trained).classes == ("tabby", "wolf", "retriever", "dog")
    far = [name for name, weight in fresh.state_dict().items() if weight.dim() > 1 and "pos" not in name]
    assert far and not any(torch.equal(fresh.state_dict()[name], net.state_dict()[name]) for name in far)


def recall_of(model: nn.Module, data: Data) -> float:
    return float((predict(model, data.test).argmax(1) == data.test.labels).double().mean())
