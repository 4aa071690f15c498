"""A model's own preprocessing: taken from where it lies, applied as its library does, remembered, and never guessed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import rasura
from rasura.auditing import read_scores
from rasura.cli import main
from rasura.data import ModelsOwn, Preprocessing, Standardise, hash_of_data
from rasura.errors import InputError
from rasura.methods.contract import check_fits
from rasura.models import Card, card_of, preprocessing_named, preprocessing_of, with_card

CLASSES = ("amber", "blue", "coral")
UNUSUAL = {"image_mean": [0.1, 0.6, 0.3], "image_std": [0.9, 0.05, 0.4]}


def picture_folder(root: Path, each: int = 2, sizes: tuple[tuple[int, int], ...] = ((31, 47), (52, 30))) -> list[Path]:
    """PNGs of several sizes and shapes, one of them grey; their paths in the order of the reader."""
    generator, paths = np.random.default_rng(0), []
    for part in ("train", "test"):
        for label, name in enumerate(CLASSES):
            (root / part / name).mkdir(parents=True)
            for number in range(each):
                height, width = sizes[number % len(sizes)]
                shape = (height, width) if (label, number) == (1, 1) else (height, width, 3)
                pixels = 60 * label + generator.integers(0, 90, shape)
                paths.append(root / part / name / f"{number}.png")
                Image.fromarray(pixels.astype(np.uint8)).save(paths[-1])
    return paths


def processor_folder(folder: Path, kind: str, **settings: Any) -> Any:
    """A folder that holds an image processor and the configuration of a model; the processor itself."""
    import transformers

    processor = getattr(transformers, kind)(**settings)
    processor.save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "vit"}')
    return transformers.AutoImageProcessor.from_pretrained(folder)


def own_of(model: nn.Module | Path) -> ModelsOwn:
    own = preprocessing_of(model)
    assert own is not None
    return own


def both_parts(data: rasura.Data) -> Tensor:
    inputs = [part.batch(torch.arange(len(part)))[0] for part in (data.train, data.test)]
    return torch.cat([one for one in inputs if isinstance(one, Tensor)])


PROCESSORS = {
    "squashed": ("ViTImageProcessor", {"size": {"height": 20, "width": 24}} | UNUSUAL),
    "shortest edge, then crop": ("ConvNextImageProcessor", {"size": {"shortest_edge": 24}, "crop_pct": 0.75} | UNUSUAL),
    "crop of another size": ("CLIPImageProcessor", {"size": {"shortest_edge": 30}, "crop_size": 24}),
    "wider than the image": ("BitImageProcessor", {"size": {"shortest_edge": 20}, "crop_size": 28}),
    "standardised twice": ("EfficientNetImageProcessor", {"size": {"height": 20, "width": 20}, "include_top": True}),
    "channels in reverse": ("MobileViTImageProcessor", {"size": {"shortest_edge": 24}, "crop_size": 20}),
    "from 0 to 255": ("ViTImageProcessor", {"size": {"height": 9, "width": 9}, "do_rescale": False} | UNUSUAL),
    "nearest pixel": ("DeiTImageProcessor", {"size": {"height": 40, "width": 40}, "crop_size": 32, "resample": 0}),
}


@pytest.mark.parametrize(("kind", "settings"), PROCESSORS.values(), ids=list(PROCESSORS))
def test_pictures_become_what_the_model_s_own_processor_makes_of_them(kind, settings, tmp_path):
    paths, processor = picture_folder(tmp_path / "pictures"), processor_folder(tmp_path / "hub", kind, **settings)
    own = own_of(tmp_path / "hub")
    data = rasura.load_data(str(tmp_path / "pictures"), own)
    wanted = processor(images=[Image.open(path).convert("RGB") for path in paths], return_tensors="pt")["pixel_values"]
    found = both_parts(data)
    assert found.shape == wanted.shape and found.dtype == torch.float32
    assert torch.allclose(found, wanted.float(), rtol=1e-4, atol=1e-3 * float(wanted.abs().max()))
    assert kind in own.said_by and data.preprocessing == {
        "preprocessor_config.json": json.loads((tmp_path / "hub" / "preprocessor_config.json").read_text())
    }


def test_stored_arrays_become_the_same_and_grey_ones_are_repeated(tmp_path):
    processor = processor_folder(tmp_path / "hub", "ConvNextImageProcessor", size={"shortest_edge": 24}, **UNUSUAL)
    own = preprocessing_of(tmp_path / "hub")
    grey = rasura.load_data("digits", own)
    stored = torch.as_tensor(grey.test.stored(torch.arange(5)))
    wanted = processor(
        images=[np.repeat(image, 3, axis=0) for image in stored.numpy()],
        input_data_format="channels_first",
        return_tensors="pt",
    )["pixel_values"]
    found = grey.test.batch(torch.arange(5))[0]
    assert stored.shape == (5, 1, 8, 8) and torch.allclose(torch.as_tensor(found), wanted, atol=1e-3)
    assert torch.as_tensor(grey.test.batch(torch.arange(0))[0]).shape == (0, 3, 24, 24)
    assert rasura.data.input_shape(grey.train) == (3, 24, 24)


def test_colours_are_not_forced_into_a_grey_model(tmp_path):
    processor_folder(
        tmp_path / "hub", "ViTImageProcessor", size={"height": 8, "width": 8}, image_mean=[0.5], image_std=[1]
    )
    (tmp_path / "hub" / "config.json").write_text('{"model_type": "vit", "num_channels": 1}')
    picture_folder(tmp_path / "pictures")
    with pytest.raises(InputError, match="data: images of 3 channels; allowed: 1, as the model takes, or grey ones"):
        rasura.load_data(str(tmp_path / "pictures"), preprocessing_of(tmp_path / "hub"))


@pytest.mark.parametrize("name", ["resnet10t", "test_vit", "test_vit,img_size=32"])
def test_pictures_become_what_timm_makes_of_them(name, tmp_path):
    timm = pytest.importorskip("timm")
    from timm.data.config import resolve_data_config
    from timm.data.transforms_factory import create_transform

    paths = picture_folder(tmp_path / "pictures")
    weights = tmp_path / "weights.safetensors"
    weights.touch()
    data = rasura.load_data(str(tmp_path / "pictures"), preprocessing_of(weights, f"timm:{name}"))
    plain, _, side = name.partition(",img_size=")
    config = resolve_data_config({"img_size": int(side)} if side else {}, timm.get_pretrained_cfg(plain).to_dict())
    transform: Any = create_transform(**config)
    wanted = torch.stack([transform(Image.open(path).convert("RGB")) for path in paths])
    assert torch.allclose(both_parts(data), wanted, atol=1e-5)
    assert preprocessing_named(f"timm:{plain}") is None  # untrained weights were made for nothing
    assert preprocessing_named(f"timm:{name},pretrained=true") == preprocessing_of(weights, f"timm:{name}")


def test_a_loaded_model_brings_its_preprocessing_too(tmp_path):
    timm, folder = pytest.importorskip("timm"), tiny_vit(tmp_path / "hub")
    own = preprocessing_of(rasura.load_model(folder))
    assert isinstance(own, Preprocessing) and own == preprocessing_of(folder)
    assert np.allclose((*own.mean, *own.std), (*UNUSUAL["image_mean"], *UNUSUAL["image_std"]))
    assert own_of(timm.create_model("test_vit")).settings["timm"]["input_size"] == [3, 160, 160]
    assert preprocessing_of(nn.Linear(2, 2)) is None and preprocessing_of(tmp_path) is None


# --------------------------------------------------------------------------------- the command line


def tiny_vit(folder: Path, **settings: Any) -> Path:
    """A Hugging Face folder of a small ViT, untrained, with an unusual processor."""
    import transformers

    torch.manual_seed(0)
    wide: dict[str, Any] = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    names: dict[str, Any] = {"id2label": dict(enumerate(CLASSES)), "label2id": {n: i for i, n in enumerate(CLASSES)}}
    config = transformers.ViTConfig(image_size=12, patch_size=4, intermediate_size=24, **wide, **names)
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    transformers.ConvNextImageProcessor(
        size={"shortest_edge": 12}, crop_pct=0.6, **UNUSUAL, **settings
    ).save_pretrained(folder)
    return folder


def wide_pictures(folder: Path) -> str:
    """Wide images in whose middle, at one brightness or another, lies what tells the classes apart."""
    generator = np.random.default_rng(0)
    for part, each in (("train", 40), ("test", 20)):
        for label, name in enumerate(CLASSES):
            (folder / part / name).mkdir(parents=True)
            for number in range(each):
                pixels = generator.integers(0, 256, (24, 40, 3))
                pixels[6:18, 14:26] = 40 + 60 * label + generator.integers(0, 30, (12, 12, 3))
                Image.fromarray(pixels.astype(np.uint8)).save(folder / part / name / f"{number}.png")
    return str(folder)


def trained_by_transformers(folder: Path, pictures: Path) -> None:
    """Train the folder's model outside of rasura, on what its own processor makes of the images."""
    import transformers

    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    model = transformers.AutoModelForImageClassification.from_pretrained(folder)
    paths = sorted((pictures / "train").rglob("*.png"))
    labels = torch.tensor([CLASSES.index(path.parent.name) for path in paths])
    inputs = processor(images=[Image.open(path) for path in paths], return_tensors="pt")["pixel_values"]
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        loss = nn.functional.cross_entropy(model(inputs).logits, labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.save_pretrained(folder)


def forget(model: Path, data: str, out: Path, *more: str) -> int:
    given = ["--model", str(model), "--data", data, "--forget", "coral", "--out", str(out), "--json", *more]
    return main(["forget", "logit-mask", *given])


def test_accuracy_is_kept_from_training_to_forgetting_and_audit(tmp_path, capfd):
    folder, data = tiny_vit(tmp_path / "hub"), wide_pictures(tmp_path / "pictures")
    trained_by_transformers(folder, tmp_path / "pictures")
    assert forget(folder, f"{data}@12", tmp_path / "squares", "--preprocess", "data") == 0
    assert json.loads(capfd.readouterr().out)["effect"]["retain_accuracy_before"] < 0.7
    assert forget(folder, data, tmp_path / "out") == 0
    shown = capfd.readouterr()
    assert json.loads(shown.out)["effect"]["retain_accuracy_before"] > 0.95
    assert "inputs are prepared by the model's own ConvNextImageProcessor; --preprocess data" in shown.err

    reread = rasura.load_model(tmp_path / "out")
    kept = own_of(reread)
    assert kept == preprocessing_of(folder) and card_of(reread).preprocessing == kept.settings
    audit = ["audit", "--model", str(tmp_path / "out"), "--original", str(folder), "--data", data]
    assert main([*audit, "--out", str(tmp_path / "audit"), "--json"]) == 0
    capfd.readouterr()
    scores = read_scores(tmp_path / "audit" / "scores.parquet")
    right = scores.right("original", "output", "output")
    assert right is not None and np.nanmean(right) > 0.9  # held-out images, told by what the audit gave the original


def test_an_audit_refuses_other_inputs_than_forgetting_saw(tmp_path, capfd):
    folder, out = square_vit(tmp_path), tmp_path / "out"
    assert main(["forget", "logit-mask", *given(folder, "digits", out)]) == 0
    audit = ["audit", "--original", str(folder), *given(out, "digits", tmp_path / "audit")]
    assert main([*audit, "--preprocess", "data"]) == 2
    assert "std (0.3,), as the model was trained with" in capfd.readouterr().err
    assert not (tmp_path / "audit").exists()


def test_the_data_s_own_preprocessing_is_what_it_was_and_stays_chosen(tmp_path, capfd):
    folder, data = square_vit(tmp_path), "digits"
    assert main(["forget", "logit-mask", *given(folder, data, tmp_path / "out"), "--preprocess", "data"]) == 0
    assert "prepared by" not in capfd.readouterr().err
    plain = rasura.load_data(data)
    assert isinstance(plain.train.transform, Standardise) and plain.preprocessing == {}
    outcome = rasura.forget(
        rasura.load_model(folder), plain, rasura.ForgetClasses(["3"]), rasura.methods.LogitMask(), seed=0
    )
    written = rasura.load_model(tmp_path / "out")
    assert all(torch.equal(tensor, outcome.model.state_dict()[name]) for name, tensor in written.state_dict().items())
    assert preprocessing_of(tmp_path / "out") is None  # although a processor lies there: it was not used
    assert (tmp_path / "out" / "preprocessor_config.json").is_file()
    assert card_of(written).mean == plain.train.transform.mean


def square_vit(tmp_path: Path) -> Path:
    """A ViT that takes digits as they are, with a processor that wants them otherwise."""
    import transformers

    wide: dict[str, Any] = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = transformers.ViTConfig(image_size=8, patch_size=4, num_channels=1, num_labels=10, **wide)
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "hub")
    size = {"height": 8, "width": 8}
    transformers.ViTImageProcessor(size=size, image_mean=[0.1], image_std=[0.3]).save_pretrained(tmp_path / "hub")
    return tmp_path / "hub"


def given(model: Path, data: str, out: Path) -> list[str]:
    return ["--model", str(model), "--data", data, "--forget", "3", "--out", str(out)]


def test_other_inputs_are_another_run(tmp_path, capfd):
    folder = square_vit(tmp_path)
    assert main(["forget", "logit-mask", *given(folder, "digits", tmp_path / "out")]) == 0
    assert main(["forget", "logit-mask", *given(folder, "digits", tmp_path / "out"), "--preprocess", "data"]) == 2
    assert "holds another run" in capfd.readouterr().err
    own, plain = (rasura.load_data("digits", preprocessing_of(folder)), rasura.load_data("digits"))
    assert hash_of_data(own) != hash_of_data(plain)


def test_a_reference_that_saw_the_images_cut_otherwise_is_refused(tmp_path):
    folder = tiny_vit(tmp_path / "hub")
    model = rasura.load_model(folder)
    data = rasura.load_data(wide_pictures(tmp_path / "pictures"), own_of(folder))
    made = rasura.forget(model, data, rasura.ForgetClasses(["coral"]), rasura.methods.LogitMask()).model
    processor = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(processor | {"crop_pct": 0.9}))
    other = rasura.load_data(str(tmp_path / "pictures"), own_of(folder))
    rasura.predict(made, other.test)  # the shapes, mean and standard deviation are the same
    with pytest.raises(InputError, match=r"another preprocessor_config.json than the model was made with"):
        rasura.audit(made, other, rasura.ForgetClasses(["coral"]), original=model)


@pytest.mark.slow
def test_compare_prepares_inputs_as_forget_does(tmp_path, capfd):
    folder, data = tiny_vit(tmp_path / "hub"), wide_pictures(tmp_path / "pictures")
    trained_by_transformers(folder, tmp_path / "pictures")
    common = ["--data", data, "--out"]
    train = ["train", "--model", f"hf:{folder},pretrained=false", "--without", "coral", "--epochs", "2"]
    assert main([*train, *common, str(tmp_path / "reference")]) == 0
    compare = ["compare", "--model", str(folder), "--forget", "coral", "--reference", str(tmp_path / "reference")]
    assert main([*compare, "--methods", "logit-mask", *common, str(tmp_path / "compare")]) == 0
    assert capfd.readouterr().err.count("inputs are prepared by the model's own ConvNextImageProcessor") == 2
    written = rasura.load_model(tmp_path / "compare" / "logit-mask")
    assert card_of(written).preprocessing == own_of(folder).settings
    assert card_of(written).history[0]["effect"]["retain_accuracy_before"] > 0.95


def test_training_starts_from_what_its_weights_were_made_for(tmp_path, capfd):
    folder, out = square_vit(tmp_path), tmp_path / "trained"
    common = ["train", "--data", "digits", "--model", f"hf:{folder}", "--epochs", "1"]
    assert main([*common, "--out", str(out)]) == 0
    assert "inputs are prepared by the model's own ViTImageProcessor" in capfd.readouterr().err
    assert card_of(rasura.load_model(out)).mean == pytest.approx((0.1,)) and preprocessing_of(out) is not None
    import transformers

    named = transformers.AutoModelForImageClassification.from_pretrained(out)
    assert named.config.id2label == dict(enumerate("0123456789"))  # no longer LABEL_0 …
    assert main([*common, "--out", str(tmp_path / "plain"), "--preprocess", "data"]) == 0
    assert preprocessing_of(tmp_path / "plain") is None


def test_tensors_that_the_user_made_are_left_alone(tmp_path, capfd):
    folder, file = square_vit(tmp_path), tmp_path / "mine.py"
    file.write_text("import rasura\n\n\ndef make():\n    return rasura.load_data('digits')\n")
    data = rasura.load_data(f"{file}:make", preprocessing_of(folder))
    assert data.preprocessing == {} and isinstance(data.train.transform, Standardise)
    assert (
        main(["forget", "logit-mask", *given(folder, f"{file}:make", tmp_path / "out"), "--preprocess", "model"]) == 2
    )
    assert "mine.py:make comes as it is; allowed: --preprocess data" in capfd.readouterr().err


def test_a_model_without_preprocessing_has_none_to_ask_for(tmp_path, capfd):
    assert (
        main(["train", "--data", "digits", "--model", "convnet,width=4", "--epochs", "1", "--out", str(tmp_path / "a")])
        == 0
    )
    assert (
        main(["forget", "logit-mask", *given(tmp_path / "a", "digits", tmp_path / "b"), "--preprocess", "model"]) == 2
    )
    assert "brings none; allowed: --preprocess data" in capfd.readouterr().err


def test_a_model_is_not_fed_by_a_processor_that_was_changed_since(tmp_path, capfd):
    folder, out = square_vit(tmp_path), tmp_path / "out"
    assert main(["forget", "logit-mask", *given(folder, "digits", out)]) == 0
    settings = json.loads((out / "preprocessor_config.json").read_text())
    (out / "preprocessor_config.json").write_text(json.dumps(settings | {"image_mean": [0.2]}))
    assert main(["audit", "--original", str(folder), *given(out, "digits", tmp_path / "audit")]) == 2
    assert "another processor or tokenizer than the one beside it" in capfd.readouterr().err


@pytest.mark.parametrize(
    "content",
    [
        '{"image_processor_type": "ViTImageProcessor", "size": {"height": 1000000, "width": 1000000}}',
        '{"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 224}, "crop_pct": 1e-9}',
        '{"image_processor_type": "NoSuchProcessor"}',
        '{"image_processor_type": "ViTImageProcessor", "size": {"height": 0, "width": 3}}',
        '{"image_processor_type": "ViTImageProcessor", "image_mean": [0.5]}',
        '{"image_processor_type": "ViTImageProcessor", "rescale_factor": 0}',
        '{"image_processor_type": "ViTImageProcessor", "rescale_factor": -1}',
        '{"image_processor_type": "ViTImageProcessor", "image_std": [0, 0, 0]}',
        '{"image_processor_type": "ViTImageProcessor", "image_mean": [NaN, NaN, NaN]}',
        '["ViTImageProcessor"]',
        "{",
    ],
)
def test_settings_that_no_image_survives_are_refused_in_one_line(content, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    (tmp_path / "preprocessor_config.json").write_text(content)
    with pytest.raises(InputError, match="allowed: ") as caught:
        preprocessing_of(tmp_path)
    assert "\n" not in str(caught.value)


def test_no_script_of_a_folder_runs(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    (tmp_path / "preprocessor_config.json").write_text('{"auto_map": {"AutoImageProcessor": "evil.Evil"}}')
    (tmp_path / "evil.py").write_text("raise SystemExit('a script ran')")
    assert "ViTImageProcessor" in own_of(tmp_path).said_by  # transformers' own, for this model


# -------------------------------------------------------------------------------------------- texts

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *CLASSES, "sea", "sun", "sky")


def text_model(folder: Path) -> Path:
    import transformers

    small: dict[str, Any] = {"dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 8, "num_labels": 3}
    config = transformers.DistilBertConfig(vocab_size=len(WORDS), **small)
    transformers.DistilBertForSequenceClassification(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    return folder


def test_texts_become_the_tokens_of_the_model_s_own_tokenizer(tmp_path, capfd):
    import transformers

    folder, source = text_model(tmp_path / "hub"), tmp_path / "texts.jsonl"
    rows = [{"text": f"{name} sea sun {number}", "label": name} for name in CLASSES for number in range(10)]
    source.write_text("\n".join(map(json.dumps, rows)))
    spec = f"text:{source},length=6"
    tokens = rasura.load_data(spec, preprocessing_of(folder)).train.stored(torch.arange(3))
    wanted = transformers.AutoTokenizer.from_pretrained(folder)("amber sea sun 0", padding="max_length", max_length=6)
    assert isinstance(tokens, dict) and wanted["input_ids"] in tokens["input_ids"].tolist()
    named = rasura.load_data(f"{spec},tokenizer={folder}", preprocessing_of(folder))
    assert named.preprocessing == {}  # the user's own choice
    out = tmp_path / "out"
    given = ["--model", str(folder), "--data", spec, "--forget", "coral", "--out", str(out)]
    assert main(["forget", "logit-mask", *given]) == 0
    assert "inputs are prepared by the model's own tokenizer" in capfd.readouterr().err
    assert own_of(out).settings == card_of(rasura.load_model(out)).preprocessing
    assert (out / "vocab.txt").read_text() == (folder / "vocab.txt").read_text()
    (out / "vocab.txt").write_text("\n".join(reversed(WORDS)))
    with pytest.raises(InputError, match="another processor or tokenizer"):
        preprocessing_of(out)


@pytest.mark.parametrize("made_with", [{}, {"tokenizer": "one"}])
def test_a_model_made_with_other_inputs_is_refused(made_with):
    """As a reference made with words, beside a model that brings a tokenizer: the same numbers mean other words."""
    words, labels = torch.arange(8).reshape(4, 2), torch.tensor([0, 1, 0, 1])
    data = rasura.Data.from_tensors(({"input_ids": words}, labels), ({"input_ids": words}, labels))
    net = nn.Linear(2, 2)
    net.forward = lambda input_ids: nn.Linear.forward(net, input_ids.float())
    model, own = with_card(net, Card(preprocessing=made_with)), {"tokenizer": "another"}
    with pytest.raises(InputError, match="data: inputs prepared by another tokenizer than the model was made with"):
        check_fits(model, replace(data, preprocessing=own))
    check_fits(with_card(net, Card(preprocessing=None)), replace(data, preprocessing=own))
    check_fits(with_card(net, Card(preprocessing=own)), replace(data, preprocessing=own))
