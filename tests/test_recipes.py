"""Recipes: the table is sound, its settings are taken, and on the data at hand they do what the table says."""

import functools
import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import rasura
from rasura import Data, ForgetClasses, InputError, methods
from rasura.cli import main
from rasura.data import Examples
from rasura.listing import LISTS
from rasura.progress import silent
from rasura.recipes import data_sets, known, method_for, nearest_for, trained_as
from rasura.runs import train_run
from rasura.strength import FORGOTTEN, Search
from rasura.testing import small_problem
from rasura.training import Recipe, predict

ALL = [(data, name) for data in data_sets() for name in known(data)]
DEBIAN = Path("/usr/share/datasets/fashion-mnist")


@pytest.mark.parametrize(("data", "name"), ALL)
def test_every_recipe_can_be_used_and_says_what_it_did(data, name):
    entry, usual = known(data)[name], methods.method_class(name)()
    method = nearest_for(name, data)
    assert {key for key, value in vars(method).items() if value != getattr(usual, key)} == set(entry.settings)
    lost = entry.retain_accuracy_before - entry.retain_accuracy
    assert entry.worked == (entry.forget_accuracy <= FORGOTTEN and round(lost, 5) <= Search().tolerance)
    if entry.worked:
        assert method_for(name, data) == method
    else:
        with pytest.raises(InputError, match=f"recipe: none is known to work for {name} on {data}; allowed: "):
            method_for(name, data)


def test_every_method_but_retrain_was_tried_on_the_embedded_data():
    assert set(known("fashion-mini")) == set(methods.names()) - {"retrain"}
    assert sum(one.worked for one in known("fashion-mini").values()) >= 12
    assert LISTS["recipes"]().keys() == set(data_sets())


def test_what_is_unknown_is_answered_with_the_nearest():
    with pytest.raises(InputError, match="recipe: 'fashion-mimi' is unknown; did you mean 'fashion-mini'"):
        known("fashion-mimi")
    assert nearest_for("retrain", "fashion-mini") == methods.Retrain()


def test_the_command_line_starts_from_a_recipe_and_the_user_has_the_last_word(tmp_path, capsys):
    rasura.save_model(small_problem().model, tmp_path / "original")
    name, entry = next((name, one) for name, one in known("fashion-mini").items() if one.worked and one.settings)
    common = ["--model", str(tmp_path / "original"), "--data", "digits", "--forget", "3", "--recipe", "fashion-mini"]
    assert main(["forget", name, *common, "--out", str(tmp_path / "a"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["settings"]
    assert {key: found[key] for key in entry.settings} == entry.settings
    field = next(key for key, value in entry.settings.items() if isinstance(value, float))
    own = [f"--{field.replace('_', '-')}", "0.0123"]
    assert main(["forget", name, *common, "--out", str(tmp_path / "b"), *own, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["settings"] == found | {field: 0.0123}
    assert main(["forget", name, *common[:-1], "fashion", "--out", str(tmp_path / "c")]) == 2
    assert "recipe: 'fashion' is unknown" in capsys.readouterr().err


def recall(model: nn.Module, examples: Examples) -> float:
    return (predict(model, examples).argmax(1) == examples.labels).double().mean().item()


def folder_of(data: str) -> str:
    """Where a data set lies that is not embedded; skips where it is not there."""
    folder = os.environ.get(f"RASURA_{data.upper().replace('-', '_')}", str(DEBIAN) if data == "fashion-mnist" else "")
    if not folder or not Path(folder).is_dir():
        pytest.skip(f"{data} is not here")
    return folder


def first(data: Data, images: int) -> Data:
    """With the first training images of each class, so many in all."""
    count = images // len(data.classes)
    rows = [(data.train.labels == number).nonzero()[:count, 0] for number in range(len(data.classes))]
    return replace(data, train=data.train.take(torch.cat(rows).sort().values))


@functools.cache
def data_and_original(name: str) -> tuple[Data, nn.Module]:
    """The images that methods read, and the table's net."""
    training, data = trained_as(name), rasura.load_data(name if name == "fashion-mini" else folder_of(name))
    recipe = Recipe(epochs=training["epochs"], augment=tuple(training["augment"]))
    with tempfile.TemporaryDirectory() as folder:
        whole = first(data, training["images"])
        original = train_run(whole, "resnet8", recipe, (), 0, Path(folder) / "original", silent)
    return first(data, training["read"]), original


@pytest.mark.slow
@pytest.mark.parametrize(("name", "method"), [(data, name) for data, name in ALL if known(data)[name].worked])
def test_recipes_forget_the_class_on_held_out_images_too(name, method):
    data, original = data_and_original(name)
    number = data.classes.index(known(name)[method].forget)
    outcome = rasura.forget(original, data, ForgetClasses([number]), method_for(method, name), progress=silent)
    going, kept = (data.test.take(chosen) for chosen in (data.test.labels == number, data.test.labels != number))
    assert recall(outcome.model, going) <= 0.05
    assert recall(outcome.model, kept) >= recall(original, kept) - 0.05
