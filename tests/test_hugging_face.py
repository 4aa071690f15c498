"""Hugging Face folders: what is written beside the weights, what is not, and that both ways lead back to one model."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import rasura
from rasura.errors import InputError
from rasura.methods import method_class
from rasura.models import card_of, hash_of_model, logits_of
from rasura.models.adapters import with_adapters

NAMES = {"id2label": {0: "amber", 1: "blue", 2: "coral"}, "label2id": {"amber": 0, "blue": 1, "coral": 2}}


def vit(folder: Path, **named: Any) -> Path:
    import transformers

    torch.manual_seed(0)
    wide: dict[str, Any] = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
    config = transformers.ViTConfig(image_size=8, patch_size=4, num_channels=1, **wide, **(named or NAMES))
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 8, "width": 8}, image_mean=[0.5], image_std=[0.5]).save_pretrained(
        folder
    )
    return folder


def three_classes() -> rasura.Data:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat_interleave(24)
    parts = [(torch.rand(72, 1, 8, 8, generator=generator) + labels[:, None, None, None], labels) for _ in range(2)]
    return rasura.Data.from_tensors(*parts, classes=["amber", "blue", "coral"])


METHODS = {
    "damp": {},
    "head-reset": {},
    "finetune": {},
    "retrain": {},
    "svd-projection": {},
    "gradient-ascent": {},
    "rfa": {"keep_adapter": True},
}


@pytest.mark.parametrize(("name", "settings"), METHODS.items(), ids=list(METHODS))
def test_what_a_method_makes_of_a_model_comes_back_by_both_ways(name, settings, tmp_path):
    import transformers

    model, data = rasura.load_model(vit(tmp_path / "hub")), three_classes()
    outcome = rasura.forget(model, data, rasura.ForgetClasses(["coral"]), method_class(name)(**settings))
    outcome.save(tmp_path / "out")
    ours = rasura.load_model(tmp_path / "out")
    theirs = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "out").eval()
    inputs = torch.rand(5, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(logits_of(ours, inputs), logits_of(outcome.model, inputs))
        assert torch.equal(logits_of(theirs, inputs), logits_of(outcome.model, inputs))
    assert card_of(ours).history[0]["method"] == name
    assert theirs.config.id2label == NAMES["id2label"]
    assert transformers.AutoImageProcessor.from_pretrained(tmp_path / "out").image_mean[0] == 0.5
    if settings:
        again = with_adapters(model, [tmp_path / "out" / "adapter"])
        assert torch.allclose(logits_of(again, inputs), logits_of(ours, inputs), atol=1e-5)


def test_a_folder_that_forget_wrote_is_forgotten_from_again(tmp_path):
    place, data = vit(tmp_path / "hub"), three_classes()
    for number, name in enumerate(("coral", "blue"), start=1):
        request = rasura.ForgetClasses([name])
        rasura.forget(rasura.load_model(place), data, request, rasura.methods.LogitMask()).save(tmp_path / name)
        place = tmp_path / name
        assert len(card_of(rasura.load_model(place)).history) == number
        assert (place / "preprocessor_config.json").read_bytes() == (
            tmp_path / "hub" / "preprocessor_config.json"
        ).read_bytes()


def test_a_model_that_transformers_loaded_is_saved_as_a_hugging_face_folder_and_left_as_it_was(tmp_path):
    import transformers

    model = transformers.AutoModelForImageClassification.from_pretrained(vit(tmp_path / "hub")).eval()
    before = model.config.to_dict()
    rasura.save_model(model, tmp_path / "out")
    assert model.config.to_dict() == before
    assert hash_of_model(rasura.load_model(tmp_path / "out")) == hash_of_model(model)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "config.json",
        "model.json",
        "model.safetensors",
        "preprocessor_config.json",
    }


def test_only_files_of_the_folder_that_are_known_and_no_code_are_copied(tmp_path):
    hub, secret = vit(tmp_path / "hub"), tmp_path / "secret.txt"
    secret.write_text("a file outside of the folder")
    (hub / "modeling_own.py").write_text("raise SystemExit('a script ran')")
    (hub / "README.md").write_text("about the original")
    (hub / "tokenizer_config.json").mkdir()
    (hub / "vocab.txt").symlink_to(secret)
    (hub / "merges.txt").symlink_to(hub / "README.md")
    os.mkfifo(hub / "vocab.json")
    rasura.save_model(rasura.load_model(hub), tmp_path / "out")
    copied = {path.name for path in (tmp_path / "out").iterdir()}
    assert copied == {"config.json", "model.json", "model.safetensors", "preprocessor_config.json", "merges.txt"}
    assert not (tmp_path / "out" / "merges.txt").is_symlink()


def test_a_folder_cannot_name_another_as_its_source(tmp_path):
    hub, other = vit(tmp_path / "hub"), tmp_path / "other"
    other.mkdir()
    (other / "vocab.txt").write_text("words of somebody else")
    config = json.loads((hub / "config.json").read_text())
    (hub / "config.json").write_text(json.dumps(config | {"_name_or_path": str(other), "name_or_path": str(other)}))
    rasura.save_model(rasura.load_model(hub), tmp_path / "out")
    assert not (tmp_path / "out" / "vocab.txt").exists() and (tmp_path / "out" / "preprocessor_config.json").exists()
    assert str(tmp_path) not in (tmp_path / "out" / "model.json").read_text()


def test_files_in_the_cache_of_the_hub_are_copied_though_they_are_links(tmp_path):
    snapshot, blobs = tmp_path / "cache" / "snapshots" / "abc", tmp_path / "cache" / "blobs"
    vit(blobs)
    snapshot.mkdir(parents=True)
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(path)
    rasura.save_model(rasura.load_model(snapshot), tmp_path / "out")
    content = (tmp_path / "out" / "preprocessor_config.json").read_bytes()
    assert content == (blobs / "preprocessor_config.json").read_bytes()


def test_weights_without_their_head_are_refused(tmp_path):
    hub = vit(tmp_path / "hub")
    state = load_file(hub / "model.safetensors")
    save_file(
        {name: one for name, one in state.items() if "classifier" not in name},
        hub / "model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(InputError, match=r"misses tensor 'classifier.bias', 2 in all; allowed: .* with its head"):
        rasura.load_model(hub)


def test_weights_that_were_exchanged_are_refused(tmp_path):
    hub = vit(tmp_path / "hub")
    rasura.save_model(rasura.load_model(hub), tmp_path / "out")
    state = load_file(hub / "model.safetensors")
    save_file({name: one + 1 for name, one in state.items()}, tmp_path / "out" / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="truncated or changed"):
        rasura.load_model(tmp_path / "out")


@pytest.mark.parametrize("names", [{"num_labels": 3}, NAMES], ids=["LABEL_0 …", "own names"])
def test_classes_without_names_get_those_of_the_card(names, tmp_path):
    import transformers

    from rasura.models import Card, with_card

    model = with_card(rasura.load_model(vit(tmp_path / "hub", **names)), Card(classes=("x", "y", "z")))
    rasura.save_model(model, tmp_path / "out")
    found = transformers.AutoConfig.from_pretrained(tmp_path / "out").id2label
    assert found == ({0: "x", 1: "y", 2: "z"} if "num_labels" in names else NAMES["id2label"])


def test_a_class_of_the_user_s_own_is_not_taken_for_one_of_transformers(tmp_path):
    class Wrapped(nn.Module):
        def __init__(self, net: nn.Module):
            super().__init__()
            self.net = net

    model = Wrapped(rasura.load_model(vit(tmp_path / "hub")))
    rasura.save_model(model, tmp_path / "out")
    assert not (tmp_path / "out" / "config.json").exists()
    fresh = Wrapped(rasura.load_model(vit(tmp_path / "other", num_labels=3)))
    nn.init.zeros_(next(fresh.parameters()))
    assert hash_of_model(rasura.load_model(tmp_path / "out", fresh)) == hash_of_model(model)
