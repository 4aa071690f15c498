"""A finished run is believed only as it was written: whatever happens to one of its files is noticed in one line."""

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rasura.cli import main
from rasura.errors import FolderError
from rasura.files import hash_of_file, hash_of_json, write_json
from rasura.sealed import check_model_folder, replace_files, seal, sealed, shared

ON_DIGITS = ["--data", "digits", "--forget", "3"]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def exchange(path: Path) -> None:
    path.write_bytes(b'{"verdict": "ERASED", "format": 2}\n')


def link(path: Path) -> None:
    path.rename(path.with_name(".kept"))
    path.mkdir()


TAMPERINGS: list[Callable[[Path], None]] = [flip, cut, empty, exchange, link, Path.unlink]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained model, one that was made to forget, and its audit."""
    folder = tmp_path_factory.mktemp("runs")
    for command in commands(folder).values():
        assert main(command) == 0
    return folder


def commands(folder: Path) -> dict[str, list[str]]:
    original, forgotten = str(folder / "train"), str(folder / "forget")
    train = ["train", "--data", "digits", "--model", "convnet,width=4", "--epochs", "2", "--out", original]
    forget = ["forget", "logit-mask", "--model", original, *ON_DIGITS, "--out", forgotten]
    audit = ["audit", "--model", forgotten, "--original", original, *ON_DIGITS, "--out", str(folder / "audit")]
    return {"train": train, "forget": forget, "audit": audit}


def copied(runs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(runs, tmp_path / "runs"))


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1, captured.err
    return captured.err


FILES = [
    *(("train", name) for name in ("model.json", "model.safetensors", "run.json")),
    *(("forget", name) for name in ("model.json", "model.safetensors", "record.json", "run.json")),
    *(("audit", name) for name in ("verdict.json", "scores.parquet", "report.html", "run.json")),
]


def test_the_files_that_are_tampered_with_are_all_that_there_are(runs: Path) -> None:
    assert sorted(FILES) == sorted((path.parent.name, path.name) for path in runs.rglob("*") if path.is_file())


@pytest.mark.parametrize(("kind", "name"), FILES)
def test_a_file_that_was_tampered_with_is_noticed(kind: str, name: str, runs: Path, tmp_path: Path) -> None:
    sealed(runs / kind, "out")
    for number, tamper in enumerate(TAMPERINGS):
        folder = Path(shutil.copytree(runs / kind, tmp_path / str(number)))
        tamper(folder / name)
        with pytest.raises(FolderError, match=name) as caught:
            sealed(folder, "out")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("kind", "name"), FILES)
def test_no_command_believes_it(
    kind: str, name: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied(runs, tmp_path)
    here = {key: [one.replace(str(runs), str(folder)) for one in value] for key, value in commands(runs).items()}
    exchange(folder / kind / name)
    assert name in refused(here[kind], capsys)
    if kind == "train":  # others read the model in it
        assert name in refused([*here["forget"][:-1], str(tmp_path / "new")], capsys)
    if kind == "forget":
        assert name in refused([*here["audit"][:-1], str(tmp_path / "new")], capsys)
    if kind == "audit":
        assert name in refused([*here["audit"], "--require", "erased"], capsys)
    if kind == "audit" and name != "report.html":  # which these write anew
        assert name in refused(["audit", "--recompute", str(folder / "audit")], capsys)
        assert name in refused(["report", str(folder / "audit")], capsys)
        assert name in refused(["report", str(folder)], capsys)


@pytest.mark.parametrize("name", ["verdict.json", "adapter/adapter_model.safetensors", "notes.txt"])
def test_an_added_file_is_noticed(name: str, runs: Path, tmp_path: Path) -> None:
    for kind in ("train", "audit"):
        folder = Path(shutil.copytree(runs / kind, tmp_path / kind))
        if (folder / name).exists():
            continue
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
        with pytest.raises(FolderError, match=f"{name} was added"):
            sealed(folder, "out")


def test_every_bit_of_run_json_counts(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    seal(tmp_path, {"hash": hash_of_json({"kind": "x"}), "spec": {"kind": "x"}, "seconds": 1.5})
    written = (tmp_path / "run.json").read_bytes()
    for at in range(len(written)):
        for bit in (1, 8):
            (tmp_path / "run.json").write_bytes(written[:at] + bytes([written[at] ^ bit]) + written[at + 1 :])
            with pytest.raises(FolderError, match=r"run\.json"):
                sealed(tmp_path, "out")
            with pytest.raises(FolderError, match=r"run\.json"):
                check_model_folder(tmp_path)
    (tmp_path / "run.json").write_bytes(written)
    assert sealed(tmp_path, "out")["files"] == {"file": hash_of_file(tmp_path / "file")}


def test_a_spec_under_another_hash_is_no_run(tmp_path: Path) -> None:
    seal(tmp_path, {"hash": hash_of_json({"kind": "x"}), "spec": {"kind": "y"}})
    with pytest.raises(FolderError, match=r"run\.json was changed"):
        sealed(tmp_path, "out")


@pytest.mark.parametrize(
    "changes", [{"spec": None}, {"files": 3}, {"files": {"a": None}}, {"replaced": []}, {"format": 3}]
)
def test_a_record_of_other_kinds_is_refused_whatever_its_hashes_say(changes: dict[str, Any], tmp_path: Path) -> None:
    record = {"format": 2, "hash": "", "spec": {}, "files": {}} | changes
    record["hash"] = hash_of_json(record["spec"])
    write_json(tmp_path / "run.json", record | {"sha256": hash_of_json(record)})
    for read in (check_model_folder, lambda folder: sealed(folder, "out"), lambda folder: shared(folder, "bench")):
        with pytest.raises(FolderError, match=r"run\.json (was changed|is damaged)"):
            read(tmp_path)


def test_a_record_reads_no_file_outside_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (tmp_path / "run").mkdir()
    record = {
        "format": 2,
        "hash": hash_of_json({}),
        "spec": {},
        "files": {"../secret": hash_of_file(tmp_path / "secret")},
    }
    write_json(tmp_path / "run" / "run.json", record | {"sha256": hash_of_json(record)})
    with pytest.raises(FolderError, match="secret was removed"):
        sealed(tmp_path / "run", "out")


def test_runs_below_and_hidden_files_are_not_of_the_run(tmp_path: Path) -> None:
    below = tmp_path / "below"
    below.mkdir()
    record = {"hash": hash_of_json({}), "spec": {}}
    seal(tmp_path, record)
    seal(below, record)
    (below / ".hidden").write_text("a system's own")
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "half").write_text("of a killed process")
    assert sealed(tmp_path, "out")["files"] == {}


def test_a_run_without_digests_is_no_result_but_a_model(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied(runs, tmp_path)
    here = {key: [one.replace(str(runs), str(folder)) for one in value] for key, value in commands(runs).items()}
    for kind in ("train", "audit"):
        old = json.loads((folder / kind / "run.json").read_text())
        write_json(folder / kind / "run.json", {"format": 1, **{key: old[key] for key in ("hash", "spec", "seconds")}})
    assert "was written by an older rasura, without digests" in refused(here["train"], capsys)
    assert "was written by an older rasura" in refused(["audit", "--recompute", str(folder / "audit")], capsys)
    assert main([*here["forget"][:-1], str(tmp_path / "new")]) == 0


class StoppedError(BaseException):
    """As if the process had been killed."""


def test_files_and_digests_change_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped before any of its four writes, and again when it goes on, each file is old or new and all is whole."""
    for first in range(5):
        for second in range(5):
            folder = tmp_path / f"{first}-{second}"
            folder.mkdir()
            (folder / "a").write_bytes(b"old")
            seal(folder, {"hash": hash_of_json({}), "spec": {}})
            for writes in (first, second):
                with monkeypatch.context() as patch, contextlib.suppress(StoppedError):
                    patch.setattr(os, "replace", stopped_after(writes))
                    replace_files(folder, NEW, sealed(folder, "out"))
                sealed(folder, "out")
            replace_files(folder, NEW, sealed(folder, "out"))
            assert {name: (folder / name).read_bytes() for name in NEW} == NEW
            (folder / "a").write_bytes(b"old")
            with pytest.raises(FolderError, match="a was changed"):
                sealed(folder, "out")


NEW = {"a": b"new", "b": b"added"}


def stopped_after(writes: int) -> Callable[[Path, Path], None]:
    replace, seen = os.replace, []

    def counted(*paths: Path) -> None:
        seen.append(paths)
        if len(seen) > writes:
            raise StoppedError
        replace(*paths)

    return counted


def test_a_shared_folder_knows_its_own_files(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("a note")
    replace_files(tmp_path, {"page": b"1"}, shared(tmp_path, "compare"))
    replace_files(tmp_path, {"page": b"2"}, shared(tmp_path, "compare"))
    with pytest.raises(FolderError, match=r"holds another run \(compare\)"):
        shared(tmp_path, "bench")
    for tamper in TAMPERINGS:
        tamper(tmp_path / "page")
        with pytest.raises(FolderError, match="page was"):
            shared(tmp_path, "compare")
        shutil.rmtree(tmp_path / "page") if (tmp_path / "page").is_dir() else None
        (tmp_path / "page").write_bytes(b"2")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["comparison.json", "comparison.html", "run.json", "audits/logit-mask/verdict.json"])
def test_a_comparison_that_was_tampered_with_is_noticed(
    name: str, compared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, tamper in enumerate(TAMPERINGS[:-1]):
        folder = Path(shutil.copytree(compared, tmp_path / str(number)))
        tamper(folder / "compared" / name)
        assert name in refused(comparing(folder), capsys)


@pytest.fixture(scope="module")
def compared(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(shutil.copytree(runs, tmp_path_factory.mktemp("compared") / "runs"))
    train = ["train", "--data", "digits", "--model", "convnet,width=4", "--epochs", "2", "--without", "3"]
    assert main([*train, "--seed", "1", "--out", str(folder / "reference")]) == 0
    assert main(comparing(folder)) == 0
    return folder


def comparing(folder: Path) -> list[str]:
    models = ["--model", str(folder / "train"), "--reference", str(folder / "reference")]
    return ["compare", *models, *ON_DIGITS, "--methods", "logit-mask", "--out", str(folder / "compared")]
