"""The command line as a user meets it: exit codes, one line on stderr, JSON alone on stdout, nothing half-written."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import rasura
from rasura.cli import main
from rasura.files import as_json
from rasura.sealed import replace_files, sealed
from rasura.tables import print_findings


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An original and one retrained model on digits, made by the command line itself."""
    folder = tmp_path_factory.mktemp("trained")
    common = ["train", "--data", "digits", "--model", "resnet8,width=4", "--epochs", "4"]
    assert main([*common, "--out", str(folder / "original")]) == 0
    for seed in ("1", "2", "3"):
        reference = ["--without", "3", "--seed", seed, "--out", str(folder / f"reference-{seed}")]
        assert main([*common, *reference]) == 0
    return folder


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a refused command prints; fails if it was not refused as it should be."""
    capsys.readouterr()
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("rasura: ")
    return lines[0]


def test_help_names_every_command_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for command in ("demo", "train", "forget", "audit", "report", "list"):
        assert re.search(rf"^  {command} ", text, re.MULTILINE)
    assert "2 wrong input" in text


@pytest.mark.parametrize("command", [["train"], ["audit"], ["demo"], ["forget", "damp"], ["report"]])
def test_help_of_a_command_shows_defaults_and_meaning(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "default" in text or "required" in text
    if command == ["forget", "damp"]:
        assert re.search(r"--energy FLOAT", text)
        assert "(default: 0.95)" in " ".join(text.replace("│", " ").split())  # a line may break inside it


def test_no_command_is_wrong_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2


@pytest.mark.parametrize("what", ["methods", "models", "data", "decoders"])
def test_lists_have_a_line_for_everything(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", what]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= 4
    assert all(len(line.split("  ", 1)) == 2 and line.split("  ", 1)[1].strip() for line in lines)


def test_train_forget_audit_report(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    masked, audited = tmp_path / "masked", tmp_path / "audit"
    common = ["--data", "digits", "--forget", "3", "--json"]
    capsys.readouterr()
    assert main(["forget", "logit-mask", "--model", str(trained / "original"), "--out", str(masked), *common]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["effect"]["forget_accuracy_after"] == 0
    audit = ["audit", "--model", str(masked), "--original", str(trained / "original"), "--out", str(audited), *common]
    audit += ["--reference", *(str(trained / f"reference-{seed}") for seed in (1, 2, 3))]
    assert main([*audit, "--require", "erased"]) == 1
    finding = json.loads(capsys.readouterr().out)
    assert finding["verdict"] != "ERASED"
    assert {path.name for path in audited.iterdir()} == {"run.json", "verdict.json", "scores.parquet", "report.html"}
    stored = json.loads((audited / "verdict.json").read_text())
    assert stored["verdict"] == finding["verdict"]
    page = (audited / "report.html").read_bytes()
    (audited / "report.html").unlink()
    assert main(["report", str(audited)]) == 0
    assert (audited / "report.html").read_bytes() == page
    capsys.readouterr()
    assert main(audit) == 0
    assert json.loads(capsys.readouterr().out) == finding, "a finished audit is read, not made anew"


def test_a_file_of_weights_is_audited_with_its_architecture(trained: Path, tmp_path: Path) -> None:
    state = rasura.load_model(trained / "original").state_dict()
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, tmp_path / "vendor.pt")
    arguments = ["audit", "--model", str(tmp_path / "vendor.pt"), "--original", str(trained / "original")]
    arguments += ["--data", "digits", "--forget", "3", "--out", str(tmp_path / "audit")]
    assert main([*arguments, "--architecture", "resnet8,width=4", "--require", "not-forgotten"]) == 0


def test_unknown_names_lead_to_the_nearest(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    original, out = str(trained / "original"), str(tmp_path / "out")
    forget = ["--model", original, "--out", out]
    cases = {
        "damp'": ["forget", "dampp", *forget, "--data", "digits", "--forget", "3"],
        "digits'": ["forget", "damp", *forget, "--data", "digitz", "--forget", "3"],
        "Trouser'": ["train", "--data", "fashion-mini", "--model", "resnet8", "--out", out, "--without", "Trousers"],
        "resnet8'": ["train", "--data", "digits", "--model", "resnet9", "--out", out],
        "width'": ["train", "--data", "digits", "--model", "resnet8,widht=4", "--out", out],
        "train'": ["trian"],
        "methods'": ["list", "method"],
    }
    for nearest, arguments in cases.items():
        assert f"did you mean '{nearest}?" in refused(arguments, capsys)
    assert not any(tmp_path.iterdir())


def test_bad_files_are_refused(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"

    class Payload:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "pwned",))

    torch.save(Payload(), tmp_path / "evil.pt")
    truncated = tmp_path / "truncated"
    truncated.mkdir()
    for name in ("model.json", "model.safetensors"):
        content = (trained / "original" / name).read_bytes()
        (truncated / name).write_bytes(content[:2000] if name.endswith("tensors") else content)
    common = ["--data", "digits", "--forget", "3", "--out", str(out)]
    evil = ["forget", "damp", "--model", str(tmp_path / "evil.pt"), "--architecture", "resnet8,width=4", *common]
    assert "could run code" in refused(evil, capsys)
    assert "truncated" in refused(["forget", "damp", "--model", str(truncated), *common], capsys)
    assert "model" in refused(["forget", "damp", "--model", str(tmp_path / "nothing"), *common], capsys)
    assert not (tmp_path / "pwned").exists()
    assert not out.exists()


def test_data_that_does_not_fit_is_refused(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, draw = tmp_path / "out", np.random.default_rng(0)

    def npz(name: str, shape: tuple[int, ...], labels: int) -> str:
        images = draw.integers(0, 255, (200, *shape), dtype=np.uint8)
        truth = (np.arange(200) % labels).astype(np.int64)
        np.savez(tmp_path / name, x_train=images, y_train=truth, x_test=images[::-1], y_test=truth[::-1])
        return str(tmp_path / name)

    forget = ["forget", "logit-mask", "--model", str(trained / "original"), "--forget", "3", "--out", str(out)]
    assert "(1, 12, 12)" in refused([*forget, "--data", npz("size.npz", (12, 12), 10)], capsys)
    assert "(3, 8, 8)" in refused([*forget, "--data", npz("channels.npz", (8, 8, 3), 10)], capsys)
    common = ["forget", "logit-mask", "--model", str(trained / "original"), "--data", "digits", "--out", str(out)]
    everything = [str(number) for number in range(10)]
    assert "10 of 10 to forget" in refused([*common, "--forget", *everything], capsys)
    assert not out.exists()


def test_stored_scores_are_judged_again(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, out = str(trained / "original"), tmp_path / "audit"
    references = [str(trained / f"reference-{seed}") for seed in (1, 2, 3)]
    audit = ["audit", "--model", old, "--original", old, "--reference", *references, "--data", "digits"]
    assert main([*audit, "--forget", "3", "--out", str(out)]) == 0
    written = {path.name: path.read_bytes() for path in out.iterdir()}
    content = json.loads(written["verdict.json"])
    (out / "report.html").unlink()
    assert main(["audit", f"--recompute={out}", "--require", "not-forgotten"]) == 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == written
    assert main(["audit", "--recompute", str(out), "--require", "erased"]) == 1
    assert "holds no run.json" in refused(["audit", "--recompute", str(tmp_path)], capsys)
    again = [*audit, "--forget", "3", "--out", str(out), "--require", "erased"]
    edited = json.dumps(content | {"verdict": "ERASED", "qualifiers": [], "reason": "none"})
    for name, changed in (("verdict.json", edited.encode()), ("scores.parquet", b"not a table")):
        (out / name).write_bytes(changed)
        for command in (["audit", "--recompute", str(out), "--require", "erased"], again):
            assert f"{name} was changed since it was written" in refused(command, capsys)
        (out / name).write_bytes(written[name])
    assert main(again) == 1


def test_a_verdict_that_does_not_follow_from_its_scores_meets_no_requirement(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Even where its digest was put right with it."""
    old, out = str(trained / "original"), tmp_path / "audit"
    audit = ["audit", "--model", old, "--original", old, "--data", "digits", "--forget", "3", "--out", str(out)]
    assert main([*audit, "--require", "not-forgotten"]) == 0
    content = json.loads((out / "verdict.json").read_text(encoding="utf-8"))
    edited = as_json(content | {"verdict": "ERASED", "qualifiers": []})
    replace_files(out, {"verdict.json": edited}, sealed(out, "out"))
    assert "says verdict 'ERASED', its scores 'NOT FORGOTTEN'" in refused([*audit, "--require", "erased"], capsys)
    assert main(["audit", "--recompute", str(out), "--require", "erased"]) == 1
    assert main([*audit, "--require", "erased"]) == 1


def test_lists_and_reports_are_json_too(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "methods", "--json"]) == 0
    assert "damp" in json.loads(capsys.readouterr().out)
    assert "option: '--jsno' is unknown; did you mean '--json'" in refused(["list", "methods", "--jsno"], capsys)
    old = str(trained / "original")
    audit = [
        "audit",
        "--model",
        old,
        "--original",
        old,
        "--data",
        "digits",
        "--forget",
        "3",
        "--out",
        str(tmp_path / "a"),
    ]
    assert main(audit) == 0
    capsys.readouterr()
    assert main(["report", str(tmp_path / "a"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"report": str(tmp_path / "a" / "report.html")}


def test_a_users_file_that_does_not_run_is_named_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.py"
    train = ["train", "--out", str(tmp_path / "out"), "--data"]
    for source, where, said in [
        ("import torch\nraise KeyError('x')\n", ":2", "KeyError"),
        ("def data(:\n", ":1", "SyntaxError"),
        ("import nothing_of_that_name\n", ":1", "ModuleNotFoundError"),
    ]:
        file.write_text(source)
        for arguments in ([*train, f"{file}:data", "--model", "resnet8"], [*train, "digits", "--model", f"{file}:net"]):
            line = refused(arguments, capsys)
            assert f"{file}{where} does not run ({said}" in line
    file.write_text("def data(folder):\n    return folder\n")
    assert "data of" in (line := refused([*train, f"{file}:data", "--model", "resnet8"], capsys))
    assert "needs arguments" in line


def test_impossible_seeds_are_refused(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--data", "digits", "--out", str(tmp_path / "out")]
    old = ["--model", str(trained / "original"), "--forget", "3"]
    for seed in ("-1", str(2**32)):
        for command in (
            ["train", "--model", "resnet8,width=4"],
            ["forget", "logit-mask", *old],
            ["audit", *old, "--original", str(trained / "original")],
        ):
            assert f"seed: {seed}; allowed: a whole number from 0" in refused([*command, *out, "--seed", seed], capsys)
    assert not (tmp_path / "out").exists()


def test_a_net_from_a_users_own_file_is_trained_and_forgets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = "from torch import nn\n\ndef net(classes, channels, size):\n"
    source += "    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size * size, classes))\n"
    Path("mine.py").write_text(source)
    assert main(["train", "--data", "digits", "--model", "mine.py:net", "--epochs", "2", "--out", "a"]) == 0
    forget = ["forget", "logit-mask", "--data", "digits", "--forget", "3", "--out", "b"]
    assert main([*forget, "--model", "a"]) == 2  # a folder brings no code along unless the user names it
    assert main([*forget, "--model", "a", "--architecture", "mine.py:net"]) == 0
    assert Path("b/model.safetensors").is_file()


def test_a_link_is_filled_and_the_current_folder_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train = ["train", "--data", "digits", "--model", "resnet8,width=4", "--epochs", "1", "--out"]
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert "is the current folder; allowed: a new folder" in refused([*train, "."], capsys)
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    assert main([*train, str(tmp_path / "link")]) == 0
    assert (tmp_path / "target" / "model.safetensors").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "link", "target"]


def test_a_folder_with_another_run_is_left_alone(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    original = trained / "original"
    before = {path.name: path.read_bytes() for path in original.iterdir()}
    arguments = ["train", "--data", "digits", "--model", "resnet8,width=4", "--epochs", "5", "--out", str(original)]
    assert "holds another run" in refused(arguments, capsys)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("do not overwrite")
    assert "exists and is no run" in refused([*arguments[:-1], str(tmp_path / "mine")], capsys)
    assert {path.name: path.read_bytes() for path in original.iterdir()} == before
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_bad_settings_are_refused(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    forget = ["--model", str(trained / "original"), "--data", "digits", "--forget", "3", "--out", str(tmp_path / "o")]
    assert "energy: 7.0" in refused(["forget", "damp", *forget, "--energy", "7"], capsys)
    train = ["train", "--data", "digits", "--model", "resnet8", "--out", str(tmp_path / "o")]
    assert "epochs: 0" in refused([*train, "--epochs", "0"], capsys)
    assert "--epochs: invalid literal for int() with base 10: 'many'" in refused([*train, "--epochs", "many"], capsys)
    assert "Perhaps you meant: --epochs" in refused([*train, "--epochz", "3"], capsys)
    assert "Missing from rasura train: --out PATH" in refused(train[:-2], capsys)
    assert not (tmp_path / "o").exists()


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
from rasura.cli import main
from rasura.tables import print_findings
sys.exit(main(sys.argv[1:]))
"""


def test_a_full_disk_is_one_line_and_leaves_nothing(trained: Path, tmp_path: Path) -> None:
    """No file may grow beyond 20 kB, as if the disk were full: the weights do not fit."""
    out = tmp_path / "out"
    arguments = ["forget", "logit-mask", "--model", str(trained / "original"), "--data", "digits"]
    command = [sys.executable, "-c", LIMITED, *arguments, "--forget", "3", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"})
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("rasura: ")
    assert not any(tmp_path.iterdir())


WAITING = """
import signal, sys, time
from rasura import training
from rasura.cli import main
from rasura.tables import print_findings
write = training.write_checkpoint

def write_and_wait(*arguments):
    write(*arguments)
    print("written", flush=True)
    time.sleep(300)

training.write_checkpoint = write_and_wait
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell are started without it
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_training_resumes_to_the_same_bits(stop: signal.Signals, tmp_path: Path) -> None:
    """The process waits after its first checkpoint, and is stopped there."""
    out, whole = tmp_path / "out", tmp_path / "whole"
    train = ["train", "--data", "digits", "--model", "resnet8,width=8", "--epochs", "3", "--out"]
    command = [sys.executable, "-c", WAITING, *train, str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    process.send_signal(stop)
    _, errors = process.communicate(timeout=100)
    partial = tmp_path / ".out.partial"
    held = [] if stop == signal.SIGINT else [".out.lock"]  # a killed process cannot tidy up; its lock holds nobody
    assert sorted(path.name for path in tmp_path.iterdir()) == [*held, partial.name]
    if stop == signal.SIGINT:
        assert process.returncode == 130
        assert len(errors.splitlines()) == 1
        assert [path.name for path in partial.iterdir()] == ["checkpoint.pt"]
    for folder in (out, whole):
        assert main([*train, str(folder)]) == 0
    assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"rasura {rasura.__version__}\n"


def test_a_finding_without_comparisons_is_still_a_table(capsys):
    finding = {
        "request": {"forget": "60 training examples", "classes": []},
        "data": {"name": "digits"},
        "name": "net",
        "verdict": "INCONCLUSIVE",
    }
    answers = {part: {"point": 0.5} for part in ("forget", "retain")}
    finding |= {"where": "", "qualifiers": [], "comparisons": [], "outputs": {"model": answers, "reference 1": answers}}
    print_findings([finding])
    table = capsys.readouterr().out
    assert table.count("–") == 4 and "RMIA" in table and "linear probe" not in table
