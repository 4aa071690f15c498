"""Labelled texts from files (.jsonl, .csv, .txt) and Hugging Face data sets."""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from rasura.data._read import SHARE, check_splits, path_of, stratified, text_of
from rasura.data.dataset import is_unicode
from rasura.errors import InputError, first_line
from rasura.memory import check_room

TEXT_KEYS = ("text", "sentence", "review", "content")
LABEL_KEYS = ("label", "labels", "class", "sentiment", "category")
TEST_NAMES = ("test", "validation", "valid", "dev")
SUFFIXES = (".jsonl", ".csv")
MOST_LETTERS = 2**24
"""Of a line or a field: texts are cut to a few hundred words, and a file without line ends is none of texts."""
UNLABELLED = -1  # in data sets of Hugging Face, a row whose label is not told


class Texts(NamedTuple):
    """Texts and, for each, what it is labelled with: a name, or a number."""

    texts: list[str]
    labels: list[str | int]


class ReadTexts(NamedTuple):
    """What a source of texts holds: two parts, and the names of the classes in the order of their numbers."""

    train: tuple[list[str], list[int]]
    test: tuple[list[str], list[int]]
    classes: tuple[str, ...]


def read_texts(source: str, held_out: float | None = None) -> ReadTexts:
    """Texts from a .jsonl or .csv file, a folder of `train` and `test` files, or a Hugging Face data set.

    A folder can also hold `train/CLASS/*.txt` and `test/CLASS/*.txt`, one text per file, as the IMDB reviews do; their
    `train/unsup`, which `test` has no counterpart of, is left out.

    Args:
        source: a path; a folder that `datasets` saved; or a name on the Hub. Where there is no test part, or none that
            is labelled, a seeded share of each class is held out.
        held_out: that share; default: a fifth.

    Raises:
        InputError: nothing there, columns, texts or labels missing, or rows that cannot be read.
    """
    path = path_of(source)
    if path.is_file():
        return _split(_read_file(path), held_out)
    if path.is_dir() and any(part_of(path, ("train",))):
        return _folder(path, held_out)
    if class_folders(path / "train"):
        return _folder_of_classes(path, held_out)
    return _hugging_face(source, held_out)


def part_of(folder: Path, names: Iterable[str]) -> Iterator[Path]:
    """Files of a folder that are called like one of the names."""
    for name in names:
        yield from (path for suffix in SUFFIXES if (path := folder / f"{name}{suffix}").is_file())


# ------------------------------------------------------------------------------------------------- sources


def _folder(path: Path, held_out: float | None) -> ReadTexts:
    train, test = (next(part_of(path, names), None) for names in (("train",), TEST_NAMES))
    assert train is not None
    if test is None:
        return _split(_read_file(train), held_out)
    check_splits(path, held_out, False)
    return _joined(_read_file(train), _read_file(test))


def _folder_of_classes(path: Path, held_out: float | None) -> ReadTexts:
    train = class_folders(path / "train")
    test = next((found for name in TEST_NAMES if (found := class_folders(path / name))), [])
    if "unsup" not in {folder.name for folder in test}:
        train = [folder for folder in train if folder.name != "unsup"]
    if not test:
        return _split(_read_classes(train), held_out)
    check_splits(path, held_out, False)
    return _joined(_read_classes(train), _read_classes(test))


def class_folders(path: Path) -> list[Path]:
    """Sub-folders that hold .txt files."""
    return sorted(folder for folder in path.glob("*/") if any(folder.glob("*.txt")))


def _read_classes(folders: Sequence[Path]) -> Texts:
    files = [file for folder in folders for file in sorted(folder.glob("*.txt"))]
    found = Texts([text_of(file) for file in files], [file.parent.name for file in files])
    empty = next((file for file, text in zip(files, found.texts, strict=True) if not text.strip()), None)
    if empty is not None:
        raise InputError(f"data: {empty} has no text; allowed: words")
    return found


def _read_file(path: Path) -> Texts:
    check_room(f"data: {path}", path.stat().st_size)
    rows = _json_lines(path) if path.suffix == ".jsonl" else _table(path)
    found = Texts([], [])
    for number, row in rows:
        text, label = (_value(row, keys, f"{path}, line {number}") for keys in (TEXT_KEYS, LABEL_KEYS))
        _check_row(text, label, f"{path}, line {number}")
        found.texts.append(text)
        found.labels.append(label)
    if not found.texts:
        raise InputError(f"data: {path} holds no rows; allowed: one text per line")
    return found


def _json_lines(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(_lines(file, path), start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:  # also numbers of thousands of digits, and endless brackets
                reason = getattr(error, "msg", first_line(error))
                raise InputError(
                    f"data: {path}, line {number} is no JSON ({reason}); allowed: one object per line"
                ) from None
            if not isinstance(row, dict):
                raise InputError(f"data: {path}, line {number} is no object; allowed: {{'text': …, 'label': …}}")
            yield number, row


def _lines(file: IO[str], path: Path) -> Iterator[str]:
    """The lines of a file, none of which is read beyond `MOST_LETTERS`."""
    while line := file.readline(MOST_LETTERS + 1):
        if len(line) > MOST_LETTERS:
            raise InputError(f"data: {path} has a line of more than {MOST_LETTERS} letters; allowed: one text per line")
        yield line


def _table(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    usual = csv.field_size_limit(MOST_LETTERS)
    try:
        yield from _table_rows(path)
    finally:
        csv.field_size_limit(usual)


def _table_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.DictReader(_lines(file, path))
        try:
            for row in reader:
                if None in row or None in row.values():  # so DictReader marks fields too many and too few
                    raise InputError(
                        f"data: {path}, line {reader.line_num} has more or fewer fields than the header; allowed: "
                        f"{len(reader.fieldnames or ())} fields, those that hold commas in quotes"
                    )
                yield reader.line_num, row
        except csv.Error as error:
            raise InputError(f"data: {path}, line {reader.line_num} cannot be read ({error}); allowed: CSV") from None


def _check_row(text: Any, label: Any, place: str) -> None:
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"data: {place} has no text; allowed: words")
    if not is_unicode(text):
        raise InputError(f"data: {place} has half of a character in its text; allowed: valid Unicode")
    if isinstance(label, bool) or not isinstance(label, (str, int)) or label == "":
        raise InputError(f"data: {place} has label {label!r}; allowed: a name or a whole number")


def _value(row: Mapping[str, Any], keys: Sequence[str], where: str) -> Any:
    for key in keys:
        if row.get(key) is not None:
            return row[key]
    raise InputError(f"data: {where} has columns {', '.join(map(str, row))}; allowed: one of {', '.join(keys)}")


def _hugging_face(source: str, held_out: float | None) -> ReadTexts:
    parts = _parts(source)
    train = _columns(parts["train"], source)
    _check_rows(train, f"{source}, train", (None,))
    unlabelled = (None,) if UNLABELLED in train.labels else (None, UNLABELLED)
    for name in (name for name in TEST_NAMES if name in parts):
        test = _columns(parts[name], source)
        if any(label not in unlabelled for label in test.labels):
            check_splits(source, held_out, False)
            _check_rows(test, f"{source}, {name}", unlabelled)
            return _joined(train, test)
    return _split(train, held_out)


UNREADABLE = (ImportError, OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError)
"""What `datasets` raises on folders and names of something else."""


def _parts(source: str) -> Mapping[Any, Any]:
    from pyarrow import ArrowException

    try:
        import datasets

        saved = path_of(source)
        found = datasets.load_from_disk(str(saved)) if saved.is_dir() else datasets.load_dataset(source)
        parts: Mapping[Any, Any] = found if isinstance(found, Mapping) else {"train": found}
        for part in parts.values():
            part.data.validate(full=True)  # offsets and letters, which reading takes on trust
    except (*UNREADABLE, ArrowException) as error:
        allowed = "a .jsonl or .csv file, a folder with train.jsonl or train/CLASS/*.txt, a data set of Hugging Face"
        raise InputError(f"data: {source} does not load ({first_line(error)}); allowed: {allowed}") from None
    if "train" not in parts:
        raise InputError(f"data: {source} has parts {', '.join(map(str, parts))}; allowed: one called train")
    return parts


def _columns(dataset: Any, source: str) -> Texts:
    """What the two columns hold, as it is; of classes with names, None in place of a missing label."""
    names = {key: key for key in dataset.column_names}
    text, label = (_value(names, keys, source) for keys in (TEXT_KEYS, LABEL_KEYS))
    classes = getattr(dataset.features[label], "names", None)
    labels: list[Any] = list(dataset[label])
    if classes:
        labels = [None if number in (None, UNLABELLED) else classes[number] for number in labels]
    return Texts(list(dataset[text]), labels)


def _check_rows(found: Texts, where: str, unlabelled: Sequence[Any]) -> None:
    for row, (text, label) in enumerate(zip(found.texts, found.labels, strict=True)):
        place = f"{where}, row {row} (from 0)"
        if not isinstance(text, str):
            raise InputError(f"data: {place} has text {text!r}; allowed: a string")
        if label in unlabelled:
            raise InputError(f"data: {place} has no label; allowed: a label in every row")
        _check_row(text, label, place)


# -------------------------------------------------------------------------------------------------- shared


def _split(found: Texts, held_out: float | None) -> ReadTexts:
    labels, classes = _numbers(found.labels)
    parts = [
        ([found.texts[row] for row in rows], [labels[row] for row in rows])
        for rows in stratified(np.array(labels), held_out or SHARE)
    ]
    return ReadTexts(parts[0], parts[1], classes)


def _joined(train: Texts, test: Texts) -> ReadTexts:
    labels, classes = _numbers(train.labels)
    known = dict(zip(train.labels, labels, strict=True))
    strange = next((label for label in test.labels if label not in known), None)
    if strange is not None:
        raise InputError(f"test: class {strange!r} has no training examples; allowed: the classes of train")
    return ReadTexts((train.texts, labels), (test.texts, [known[label] for label in test.labels]), classes)


def _numbers(labels: Sequence[str | int]) -> tuple[list[int], tuple[str, ...]]:
    """Numbers in place of names, in the order of the alphabet; labels that are whole numbers, in their own order."""
    names = [str(label) for label in labels]
    if all(re.fullmatch(r"-?\d{1,18}", name) for name in names):
        names = [str(int(name)) for name in names]  # "01" is the class 1
        classes = tuple(sorted(set(names), key=int))
    else:
        classes = tuple(sorted(set(names)))
    places = {name: number for number, name in enumerate(classes)}
    return [places[name] for name in names], classes
