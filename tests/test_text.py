"""Texts all the way: sources, tokens, encoders, and requests on the command line."""

import csv
import json
from pathlib import Path

import pytest
import torch

import rasura
from rasura import InputError
from rasura.cli import main
from rasura.data import read_samples, resolve
from rasura.data._text import read_texts
from rasura.models import build_model, for_data

GOOD, BAD = ["fine", "lovely", "superb", "warm"], ["dull", "awful", "weak", "cold"]
COMMON = ["the", "film", "was", "a", "story", "of", "two", "friends", "and", "their", "dog"]
ENCODER = "distilbert,width=16,depth=1,length=16"


def review(number: int, words: list[str]) -> str:
    generator = torch.Generator().manual_seed(number)
    said = [COMMON[int(torch.randint(len(COMMON), (1,), generator=generator))] for _ in range(6)]
    said.insert(number % 5, words[int(torch.randint(len(words), (1,), generator=generator))])
    return " ".join(said).capitalize() + "."


def reviews(start: int, count: int) -> list[dict]:
    labels = ["neg", "pos", "mixed"]
    words = {"neg": BAD, "pos": GOOD, "mixed": ["so-so", "average", "middling", "passable"]}
    return [
        {"text": review(number, words[labels[number % 3]]), "label": labels[number % 3], "id": number}
        for number in range(start, start + count)
    ]


def write(path: Path, rows: list[dict]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Reviews in the layout of the IMDB benchmark."""
    made = tmp_path_factory.mktemp("text") / "imdb"
    made.mkdir()
    write(made / "train.jsonl", reviews(0, 240))
    write(made / "test.jsonl", reviews(1000, 120))
    return made


# ------------------------------------------------------------------------------------------- sources


def test_a_folder_of_json_lines_is_read_and_detected(folder):
    data = rasura.load_data(f"text:{folder},words=60,length=12")
    assert (data.classes, len(data.train), len(data.test)) == (("mixed", "neg", "pos"), 240, 120)
    inputs, labels = data.train.batch(torch.arange(3))
    assert isinstance(inputs, dict) and set(inputs) == {"input_ids", "attention_mask"}
    assert inputs["input_ids"].shape == (3, 12) and labels.tolist() == [1, 2, 0]
    assert (inputs["attention_mask"] == (inputs["input_ids"] != 0)).all()
    assert rasura.load_data(str(folder)).name == "imdb"


def test_whole_words_are_numbered_by_how_often_they_occur(tmp_path):
    rows = [{"text": text, "label": label} for text, label in [("B b, a", 0), ("a b", 1), ("c", 0), ("a b", 1)] * 5]
    path = write(tmp_path / "few.jsonl", rows)
    (tmp_path / "x").mkdir()
    data = rasura.load_data(f"text:{path},words=6,length=8")
    seen = {tuple(row) for row in data.train.source["input_ids"].tolist()}
    # [PAD] [UNK] [CLS] [SEP] b a: two words are known, the comma and "c" are not; longer than nothing is cut.
    assert seen == {(2, 4, 4, 1, 5, 3, 0, 0), (2, 5, 4, 3, 0, 0, 0, 0), (2, 1, 3, 0, 0, 0, 0, 0)}


def test_a_table_says_the_same_as_lines_of_json(folder, tmp_path):
    table = write(tmp_path / "train.csv", reviews(0, 240))
    one = rasura.load_data(f"text:{table}")
    other = rasura.load_data(f"text:{folder / 'train.jsonl'}")
    assert one.classes == other.classes and len(one.test) == 48
    assert torch.equal(one.train.source["input_ids"], other.train.source["input_ids"])
    assert torch.equal(one.test.labels, other.test.labels)


def test_a_data_set_of_hugging_face_is_read_from_its_folder(folder, tmp_path):
    import datasets

    rows = {part: reviews(start, count) for part, start, count in (("train", 0, 240), ("test", 1000, 120))}
    names = datasets.ClassLabel(names=["mixed", "neg", "pos"])
    made = {}
    for part, found in rows.items():
        columns = {"text": [row["text"] for row in found], "label": [names.str2int(row["label"]) for row in found]}
        made[part] = datasets.Dataset.from_dict(
            columns, features=datasets.Features({"text": datasets.Value("string"), "label": names})
        )
    datasets.DatasetDict(made).save_to_disk(str(tmp_path / "saved"))
    data = rasura.load_data(f"text:{tmp_path / 'saved'},length=32")
    same = rasura.load_data(f"text:{folder},length=32")
    assert data.classes == same.classes
    assert torch.equal(data.train.source["input_ids"], same.train.source["input_ids"])
    assert torch.equal(data.test.labels, same.test.labels)


NAMED = ["neg", "pos"]


def saved(folder: Path, label: str | None = None, **parts: tuple[list, list]) -> Path:
    """A data set as `datasets` stores it; labels are of two names, or of a type."""
    import datasets

    kind = datasets.Value(label) if label else datasets.ClassLabel(names=NAMED)
    features = datasets.Features({"sentence": datasets.Value("string"), "label": kind})
    made = {
        name: datasets.Dataset.from_dict({"sentence": texts, "label": labels}, features=features)
        for name, (texts, labels) in parts.items()
    }
    datasets.DatasetDict(made).save_to_disk(str(folder / "saved"))
    return folder / "saved"


def rows(count: int, labels: list) -> tuple[list[str], list]:
    return [f"film {number}" for number in range(count)], [labels[number % len(labels)] for number in range(count)]


@pytest.mark.parametrize("missing", [-1, None])
def test_a_test_part_without_labels_gives_way_to_the_next_one(missing, tmp_path):
    path = saved(tmp_path, train=rows(40, [0, 1]), validation=rows(20, [0, 0, 0, 1]), test=rows(10, [missing]))
    read = read_texts(str(path))
    assert (read.classes, len(read.train[0])) == (("neg", "pos"), 40)
    assert read.test[1] == [0, 0, 0, 1] * 5


def test_without_a_labelled_test_part_a_fifth_of_train_is_held_out(tmp_path):
    for number, label in enumerate((None, "int64")):
        (tmp_path / str(number)).mkdir()
        path = saved(tmp_path / str(number), label, train=rows(40, [0, 1]), test=rows(10, [-1]))
        read = read_texts(str(path))
        assert (len(read.train[0]), len(read.test[0]), len(read.classes)) == (32, 8, 2)


def test_of_plain_numbers_minus_one_is_a_label_where_train_has_it(tmp_path):
    read = read_texts(str(saved(tmp_path, "int64", train=rows(40, [-1, 1]), test=rows(10, [-1]))))
    assert (read.classes, len(read.train[0]), read.test[1]) == (("-1", "1"), 40, [0] * 10)


@pytest.mark.parametrize(
    ("label", "train", "test", "message"),
    [
        (None, rows(8, [0, 1, 1, -1]), rows(4, [0]), r"train, row 3 \(from 0\) has no label"),
        (None, rows(8, [0, None]), rows(4, [0]), r"train, row 1 \(from 0\) has no label"),
        (None, rows(8, [-1]), rows(4, [0]), r"train, row 0 \(from 0\) has no label"),
        (None, rows(8, [0, 1]), rows(4, [0, 1, -1]), r"test, row 2 \(from 0\) has no label"),
        ("int64", rows(8, [0, 1]), rows(4, [0, 1, -1]), r"test, row 2 \(from 0\) has no label"),
        (
            None,
            (["a", "b", None, "d"], [0, 1, 0, 1]),
            rows(4, [0]),
            r"train, row 2 \(from 0\) has text None; allowed",
        ),
        (None, rows(8, [0, 1]), (["a", None], [0, 1]), r"test, row 1 \(from 0\) has text None"),
        ("float32", rows(8, [0.0, 1.0]), rows(4, [0.0]), r"train, row 0 \(from 0\) has label 0\.0; allowed: a name or"),
    ],
)
def test_rows_of_a_data_set_that_lack_something_are_named(label, train, test, message, tmp_path):
    with pytest.raises(InputError, match=message):
        read_texts(str(saved(tmp_path, label, train=train, test=test)))


def test_a_text_that_is_no_string_is_named(tmp_path):
    import datasets

    datasets.Dataset.from_dict({"text": [1, 2], "label": [0, 1]}).save_to_disk(str(tmp_path / "numbers"))
    with pytest.raises(InputError, match=r"train, row 0 \(from 0\) has text 1; allowed: a string"):
        read_texts(str(tmp_path / "numbers"))


@pytest.mark.parametrize("row", ["hello, my friend,pos", "pos"])
def test_a_row_with_other_fields_than_the_header_is_refused(row, tmp_path):
    (tmp_path / "a.csv").write_text(f'text,label\n"quoted, as it should be",neg\n{row}\n')
    with pytest.raises(InputError, match=r"line 3 has more or fewer fields than the header; allowed: 2 fields"):
        read_texts(str(tmp_path / "a.csv"))


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([1, 2, 3, 4, 5], ("1", "2", "3", "4", "5")),
        ([-1, 1, -2], ("-2", "-1", "1")),
        ([10, 9, 0], ("0", "9", "10")),
        (["2", "10"], ("2", "10")),
        ([0, 1, 2], ("0", "1", "2")),
        (["b", "a", "1"], ("1", "a", "b")),
    ],
)
def test_labels_that_are_whole_numbers_keep_their_names_without_empty_classes(labels, classes, tmp_path):
    found = [{"text": f"film {number}", "label": labels[number % len(labels)]} for number in range(60)]
    read = read_texts(str(write(tmp_path / "a.jsonl", found)))
    assert read.classes == classes
    assert set(read.train[1]) == set(read.test[1]) == set(range(len(classes)))
    known = {row["text"]: str(row["label"]) for row in found}
    for texts, numbers in (read.train, read.test):
        assert [known[text] for text in texts] == [classes[number] for number in numbers]


def test_an_unknown_number_in_the_test_part_is_refused(tmp_path):
    write(tmp_path / "train.jsonl", [{"text": "a", "label": label} for label in (1, 5, 1, 5)])
    write(tmp_path / "test.jsonl", [{"text": "b", "label": 3}])
    with pytest.raises(InputError, match="test: class 3 has no training examples"):
        read_texts(str(tmp_path))


def write_reviews(folder: Path, *parts: str) -> None:
    for part in parts:
        (folder / part).mkdir(parents=True)
        for number in range(5):
            (folder / part / f"{number}_7.txt").write_text(f"{part} film {number}", encoding="utf-8")


def test_a_file_per_review_in_a_folder_per_class_is_read(tmp_path):
    write_reviews(tmp_path, "train/pos", "train/neg", "train/unsup", "test/pos", "test/neg")
    (tmp_path / "train" / "urls_pos.txt").write_text("http://nowhere")
    read = read_texts(str(tmp_path))
    assert read.classes == ("neg", "pos")
    assert read.train == ([f"train/{name} film {row}" for name in NAMED for row in range(5)], [0] * 5 + [1] * 5)
    assert read.test == ([f"test/{name} film {row}" for name in NAMED for row in range(5)], [0] * 5 + [1] * 5)
    for spec in (f"text:{tmp_path},length=8", str(tmp_path)):
        data = rasura.load_data(spec)
        assert (len(data.train), len(data.test), data.classes) == (10, 10, ("neg", "pos"))


def test_a_file_per_review_without_a_test_part_is_split(tmp_path):
    write_reviews(tmp_path, "train/pos", "train/neg", "train/unsup")
    read = read_texts(str(tmp_path))
    assert (read.classes, len(read.train[0]), len(read.test[0])) == (("neg", "pos"), 8, 2)


def test_a_class_called_unsup_stays_where_test_has_it_and_others_need_no_counterpart(tmp_path):
    write_reviews(tmp_path, "train/pos", "train/odd", "train/unsup", "test/pos", "test/unsup")
    read = read_texts(str(tmp_path))
    assert (read.classes, sorted(set(read.test[1]))) == (("odd", "pos", "unsup"), [1, 2])


def test_an_empty_review_is_named(tmp_path):
    write_reviews(tmp_path, "train/pos", "train/neg")
    (tmp_path / "train" / "neg" / "3_7.txt").write_text(" \n")
    with pytest.raises(InputError, match=r"neg/3_7\.txt has no text"):
        read_texts(str(tmp_path))


def test_positions_count_the_training_part_as_loaded(tmp_path):
    write(tmp_path / "all.jsonl", [{"text": f"word{number}", "label": number % 2} for number in range(20)])
    data = rasura.load_data(f"text:{tmp_path / 'all.jsonl'},length=4")
    (tmp_path / "ids.txt").write_text(f"{len(data.train) - 1}\n")
    assert len(data.train) == 16  # a fifth was held out
    assert resolve(read_samples(str(tmp_path / "ids.txt"), data), data).forget_rows.tolist() == [15]
    with pytest.raises(InputError, match="indices: 16 is not in the training set; allowed: 0 to 15"):
        resolve(read_samples("16", data), data)


def test_a_tokenizer_of_transformers_is_used(folder, tmp_path):
    from transformers import BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *COMMON, *GOOD, *BAD, "##s", "."]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    tokenizer = BertTokenizerFast(str(tmp_path / "vocab.txt"))
    tokenizer.save_pretrained(str(tmp_path / "tokenizer"))
    data = rasura.load_data(f"text:{folder},tokenizer={tmp_path / 'tokenizer'},length=10")
    text = reviews(0, 1)[0]["text"]
    said = tokenizer(text, padding="max_length", truncation=True, max_length=10)
    assert data.train.source["input_ids"][0].tolist() == said["input_ids"]
    assert data.train.source["attention_mask"][0].tolist() == said["attention_mask"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "good", "label": 1', "line 1 is no JSON"),
        ('{"words": "good", "label": 1}', "line 1 has columns words, label; allowed: one of text"),
        ('{"text": "good", "label": 1}\n\n{"text": " ", "label": 0}', "line 3 has no text"),
        ('{"text": "good", "label": 0.5}', "line 1 has label 0.5"),
        ("[1, 2]", "line 1 is no object"),
        ("", "holds no rows"),
    ],
)
def test_lines_that_cannot_be_read_are_named(content, message, tmp_path):
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(InputError, match=message):
        rasura.load_data(f"text:{tmp_path / 'a.jsonl'}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (",lenght=8", "text option: 'lenght' is unknown; did you mean 'length'"),
        (",length=2", "length: 2; allowed: 3 or more"),
        (",length=few", "length: 'few'; allowed: a whole number"),
        (",tokenizer=/nowhere/at-all", "tokenizer: /nowhere/at-all does not load"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message, folder):
    with pytest.raises(InputError, match=message):
        rasura.load_data(f"text:{folder}{options}")


def test_an_unseen_class_in_the_test_part_is_refused(tmp_path):
    write(tmp_path / "train.jsonl", reviews(0, 30))
    write(tmp_path / "test.jsonl", [{"text": "odd", "label": "odd"}])
    with pytest.raises(InputError, match="test: class 'odd' has no training examples"):
        rasura.load_data(f"text:{tmp_path}")


def test_nothing_there_is_said_in_one_line(tmp_path):
    with pytest.raises(InputError, match=r"data: .* does not load .* allowed: a \.jsonl or \.csv file"):
        rasura.load_data(f"text:{tmp_path / 'nothing'}")


# -------------------------------------------------------------------------------------------- encoders


@pytest.mark.parametrize("name", ["distilbert", "bert"])
def test_encoders_take_the_vocabulary_from_the_data(name, folder):
    data = rasura.load_data(f"text:{folder},words=60,length=12")
    architecture = for_data(f"{name},width=8,depth=1", data)
    assert architecture.endswith(f",vocabulary={int(data.train.source['input_ids'].max()) + 1}")
    assert for_data(architecture, data) == architecture
    model = build_model(architecture, classes=3)
    assert rasura.predict(model, data.test).shape == (120, 3)


def test_encoders_and_images_do_not_fit(folder):
    with pytest.raises(InputError, match="data: digits holds no texts; allowed: tokens"):
        for_data("distilbert", rasura.load_data("digits"))
    with pytest.raises(InputError, match="model: 'bert' takes texts"):
        build_model("bert", classes=3, channels=1, size=8)
    with pytest.raises(InputError, match="allowed: square images"):
        main_quietly(["train", "--data", f"text:{folder}", "--model", "resnet8", "--out", "never"])
    with pytest.raises(InputError, match="width: 15 is no multiple of heads 2"):
        build_model("bert,width=15", classes=3)


def main_quietly(arguments: list[str]) -> None:
    from rasura.cli import COMMANDS

    COMMANDS[arguments[0]](arguments[1:])


# ------------------------------------------------------------------------------------- the command line


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    spec = f"text:{folder},words=60,length=12"
    usual = ["--data", spec, "--model", ENCODER, "--epochs", "20", "--batch-size", "16", "--learning-rate", "0.003"]
    assert main(["train", *usual, "--out", str(runs / "original")]) == 0
    for seed in ("1", "2"):
        assert main(["train", *usual, "--without", "pos", "--seed", seed, "--out", str(runs / f"class-{seed}")]) == 0
        samples = ["--without-samples", "10%", "--seed", seed, "--out", str(runs / f"samples-{seed}")]
        assert main(["train", *usual, *samples]) == 0
    return runs, spec


@pytest.mark.parametrize("kind", ["class", "samples"])
def test_train_forget_audit_and_report_of_texts(kind, trained, tmp_path, capsys):
    runs, spec = trained
    asked = ["--forget", "pos"] if kind == "class" else ["--forget-samples", "10%"]
    usual = ["--model", str(runs / "original"), "--data", spec, *asked, "--json"]
    brief = ["--steps", "60", "--learning-rate", "0.02", "--unseen-steps", "60", "--keep-adapter"]
    capsys.readouterr()
    assert main(["forget", "rfa", *usual, *brief, "--out", str(tmp_path / "forgetful")]) == 0
    record = json.loads(capsys.readouterr().out)
    effect = record["effect"]
    assert min(effect["forget_accuracy_before"], effect["retain_accuracy_before"]) > 0.9
    if kind == "class":
        assert effect["forget_accuracy_after"] < 0.1 and effect["retain_accuracy_after"] > 0.9
    else:
        assert effect["output_change"] > 0.1
    references = [str(path) for path in sorted(runs.glob(f"{kind}-*"))]
    audited = ["--original", str(runs / "original"), "--data", spec, "--reference", *references, "--out"]
    again = tmp_path / "audit"
    with_adapter = ["--model", str(runs / "original"), "--adapter", str(tmp_path / "forgetful" / "adapter")]
    assert main(["audit", *with_adapter, *audited, str(again), *asked, "--json"]) == 0
    finding = json.loads(capsys.readouterr().out)
    assert finding["verdict"] in ("ERASED", "INCONCLUSIVE", "RESIDUAL", "MASKED", "OVER-ERASED", "DAMAGED", "INVALID")
    assert (finding["membership"] is not None) or kind == "class"
    page = (again / "report.html").read_text()
    assert "Residuals" in page
    assert main(["report", str(again)]) == 0
