"""The command line: one thin layer over the same functions that Python users call.

Each command is a dataclass in `options` and a function that takes it. Results go to stdout,
progress and errors to stderr. Exit codes: 0 done, 1 `--require` not met, 2 wrong input, 130 interrupted.
"""

import contextlib
import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import field, make_dataclass
from pathlib import Path
from typing import Any

import tyro

import rasura
from rasura.auditing import Shadows
from rasura.data import read_samples
from rasura.errors import InputError, unknown
from rasura.options import Audit, Bench, Compare, Demo, Forget, Recompute, Report, Train
from rasura.tables import print_comparison, print_findings, print_summary, qualified

USAGE = """\
usage: rasura COMMAND [options]      (rasura COMMAND --help shows the options, their units and defaults)

Make a trained classifier forget a class, and prove what is left of it inside.

  demo    [--out DIR]                                   the whole path on embedded data, one report at the end
  train   --data NAME --model NAME --out DIR            train a model; --without CLASS … makes a retrained reference
  forget  METHOD --model DIR --data NAME --forget CLASS … --out DIR      (--strength auto: the weakest that forgets)
  audit   --model DIR --original DIR --reference DIR … --data NAME --out DIR      (--forget CLASS …)
  audit   --recompute DIR                               judge stored scores again; no model is needed
  compare --model DIR --data NAME --forget CLASS … --reference DIR … --out DIR      methods side by side, one page
  bench   GRID.toml --out DIR                           compare methods over models, seeds and classes; resumable
  report  DIR                                           write report.html anew from the audits in a folder
  list    methods|models|data|decoders|on-request|recipes          what there is

Exit codes: 0 done, 1 --require not met, 2 wrong input, 130 interrupted.
Every command takes --json: one JSON object on stdout and nothing else.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"rasura {rasura.__version__}")
        return 0
    try:
        command, rest = arguments[0], arguments[1:]
        if command not in COMMANDS:
            raise unknown("command", command, COMMANDS)
        return COMMANDS[command](rest)
    except InputError as error:
        return _refuse(str(error))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _refuse(f"file: {error.filename or 'a file'} cannot be used ({error.strerror or error})")
    except KeyboardInterrupt:
        print("rasura: interrupted; nothing is left half-written, the same command resumes", file=sys.stderr)
        return 130


def entry() -> None:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a console without “→” shows “?”, and the work is not lost
    sys.exit(main())


def _refuse(reason: str) -> int:
    print(f"rasura: {' '.join(reason.split())}", file=sys.stderr)
    return 2


def _parsed(kind: Any, arguments: list[str], name: str, description: str | None = None) -> Any:
    options = (tyro.conf.FlagCreatePairsOff,)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(kind, args=arguments, prog=f"rasura {name}", description=description, config=options)
    except SystemExit as stop:
        if not stop.code:
            raise  # help was asked for
        raise InputError(f"{_one_line(complaint.getvalue())}; see rasura {name} --help") from None


def _one_line(box: str) -> str:
    """What tyro says in a box of many lines, without the frame and the help texts (indented by eight or more)."""
    lines = [line.strip("│╰╯\n").rstrip() for line in box.splitlines()[1:]]  # without the title
    short = [line for line in lines if not line.startswith(" " * 8)]
    words = " ".join(line.strip() if line.strip(" ─-") else ";" for line in short)
    reason = words.partition("For full helptext")[0].partition("Argument helptext")[0]
    return " ".join(reason.split()).replace(" ;", ";").strip("; ").removeprefix("Error parsing settings: ")


def _with_settings(name: str, options: type, settings: Any, arguments: list[str]) -> tuple[Any, Any]:
    """Parse a command's own options beside the fields of a dataclass of settings, which begin as in `settings`."""
    flat = tyro.conf.OmitArgPrefixes
    parts: Any = [("options", flat[options]), ("settings", flat[type(settings)], field(default=settings))]
    both = make_dataclass("Both", parts, frozen=True)
    parsed = _parsed(both, arguments, name, (options.__doc__ or "").split("\n")[0])
    return parsed.options, parsed.settings


# ------------------------------------------------------------------------------------------------ commands


def _demo(arguments: list[str]) -> int:
    from rasura.demo import run_demo
    from rasura.progress import terminal

    options = _parsed(Demo, arguments, "demo")
    with terminal() as progress:
        findings = run_demo(options.out, progress)
    if options.json:
        _print_json({"report": str(options.out / "report.html"), "findings": [_brief(one) for one in findings]})
        return 0
    print_findings(findings)
    print(f"\nThe page: {options.out / 'report.html'}")
    return 0


def _train(arguments: list[str]) -> int:
    from rasura.progress import terminal
    from rasura.runs import train_run
    from rasura.training import Recipe

    options, recipe = _with_settings("train", Train, Recipe(), arguments)
    data = rasura.load_data(options.data, options.held_out)
    without = _names(data, options.without)
    samples = read_samples(options.without_samples, data) if options.without_samples else None
    with terminal() as progress:
        model = train_run(data, options.model, recipe, without, options.seed, options.out, progress, samples)
        held_out = rasura.predict(model, data.test, progress=progress).argmax(1)
    kept = [name for name in data.classes if name not in without]
    asked = [data.classes[number] not in without for number in data.test.labels.tolist()]
    accuracy = float((held_out == data.test.labels)[asked].double().mean())
    if options.json:
        _print_json({"model": str(options.out), "classes": kept, "held_out_accuracy": round(accuracy, 5)})
    else:
        print(f"{options.out}: {accuracy:.1%} of the held-out examples of its {len(kept)} classes are named rightly")
    return 0


def _forget(arguments: list[str]) -> int:
    from rasura.methods import method_class, names
    from rasura.progress import terminal
    from rasura.recipes import method_for
    from rasura.runs import forget_run

    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: rasura forget METHOD [options]\n\nMethods: {', '.join(names())}\n")
        print("rasura forget METHOD --help shows a method's options.")
        return 0 if arguments else 2
    name, rest = arguments[0], arguments[1:]
    options, method = _with_settings(f"forget {name}", Forget, method_class(name)(), rest)
    if options.recipe:
        options, method = _with_settings(f"forget {name}", Forget, method_for(name, options.recipe), rest)
    data = rasura.load_data(options.data, options.held_out)
    model = _adapted(_load(options.model, options.architecture, data), options.adapter)
    request = _request(data, options)
    search = _search(data, options)
    with terminal() as progress:
        _, record = forget_run(model, data, request, method, options.seed, options.out, progress, search)
    for line in record["warnings"]:
        print(f"rasura: {line}", file=sys.stderr)
    if options.json:
        _print_json({"model": str(options.out), **record})
        return 0
    effect = record["effect"]
    print(f"{options.out}: {record['method']} in {record['seconds']:.1f} s")
    if search:
        found = record["search"]
        besides = "".join(f", {name} {value}" for name, value in found["besides"].items())
        print(f"  strength: {found['field']} {found['chosen']:g}{besides}, of {len(found['trials'])} settings tried")
    for part, what in (("forget", "to forget"), ("retain", "to keep")):
        before, after = effect[f"{part}_accuracy_before"], effect[f"{part}_accuracy_after"]
        print(f"  training images {what}: accuracy {before:.1%} → {after:.1%}")
    print("Zero accuracy does not show that a class is gone. Audit the model: rasura audit --help")
    return 0


def _audit(arguments: list[str]) -> int:
    from rasura.progress import terminal
    from rasura.runs import audit_runs, recompute

    if "--recompute" in arguments:
        again = _parsed(Recompute, arguments, "audit")
        return _report_finding(recompute(again.recompute), again.recompute, again.require, again.json)
    options = _parsed(Audit, arguments, "audit")
    data = rasura.load_data(options.data, options.held_out)
    model, original = (_load(path, options.architecture, data) for path in (options.model, options.original))
    model = _adapted(model, options.adapter)
    asked = options.forget or options.forget_samples
    request = _request(data, options) if asked else rasura.methods.forgotten_classes(model)
    references, *shadows = (
        [_load(path, options.architecture, data) for path in paths]
        for paths in (options.reference, options.shadow_original, options.shadow_unlearned)
    )
    with terminal() as progress:
        shown = options.adapter[-1].resolve().parent if options.adapter else options.model.resolve()
        name = shown.name
        place = {name: (model, options.out)}
        rest = options.seed, progress, options.goal, options.also, Shadows(*shadows)
        found = audit_runs(place, data, request, original, references, *rest)[name]
    return _report_finding(found, options.out, options.require, options.json)


def _report_finding(found: dict[str, Any], folder: Path, require: str | None, json: bool) -> int:
    for line in found.get("notes", ()):
        print(f"rasura: {line}", file=sys.stderr)
    if json:
        _print_json(_brief(found))
    else:
        print_findings([found])
        print(f"\n{found['verdict']}{qualified(found)}: {found['reason']}\nThe page: {folder / 'report.html'}")
    wanted = (require or "").replace("-", " ").upper()
    met = found["verdict"].replace("-", " ") == wanted and not (wanted == "ERASED" and found["qualifiers"])
    return 1 if wanted and not met else 0


def _compare(arguments: list[str]) -> int:
    from rasura.compare import PAGE, compare
    from rasura.methods import method_class, names
    from rasura.progress import terminal
    from rasura.recipes import nearest_for

    options = _parsed(Compare, arguments, "compare")
    chosen = options.methods or names()
    methods = {name: nearest_for(name, options.recipe) if options.recipe else method_class(name)() for name in chosen}
    data = rasura.load_data(options.data, options.held_out)
    request = rasura.ForgetClasses(_names(data, options.forget))
    model = _load(options.model, options.architecture, data)
    references = [_load(path, options.architecture, data) for path in options.reference]
    search = rasura.Search(options.budget) if options.strength else None
    with terminal() as progress:
        rows, failed = compare(model, data, request, methods, references, options.out, progress, options.seed, search)
    if options.json:
        _print_json({"page": str(options.out / PAGE), "rows": [row.to_json() for row in rows], "failed": failed})
        return 0
    print_comparison([row.to_json() for row in rows], failed)
    print(f"\nThe page: {options.out / PAGE}")
    return 0


def _bench(arguments: list[str]) -> int:
    from rasura.bench import read_grid, run_grid, summarise
    from rasura.files import write_json
    from rasura.progress import terminal

    options = _parsed(Bench, arguments, "bench")
    grid = read_grid(options.grid)
    with terminal() as progress:
        findings = run_grid(grid, options.out, options.engine, progress)
    rows = summarise(findings)
    write_json(options.out / "summary.json", rows)
    if options.json:
        _print_json({"out": str(options.out), "rows": rows})
    else:
        print_summary(rows)
    return 0


def _report(arguments: list[str]) -> int:
    from rasura.runs import write_report

    options = _parsed(Report, arguments, "report")
    page = write_report(options.folder)
    if options.json:
        _print_json({"report": str(page)})
    else:
        print(page)
    return 0


def _list(arguments: list[str]) -> int:
    from rasura.listing import LISTS

    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: rasura list {'|'.join(LISTS)} [--json]")
        return 0 if arguments else 2
    if arguments[0] not in LISTS:
        raise unknown("list", arguments[0], LISTS)
    if arguments[1:] not in ([], ["--json"]):
        raise unknown("option", arguments[1], ["--json"])
    rows = LISTS[arguments[0]]()
    if arguments[1:]:
        _print_json(rows)
        return 0
    width = max(len(name) for name in rows)
    for name, meaning in rows.items():
        print(f"{name:<{width}}  {meaning}")
    return 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "demo": _demo,
    "train": _train,
    "forget": _forget,
    "audit": _audit,
    "compare": _compare,
    "bench": _bench,
    "report": _report,
    "list": _list,
}


# ------------------------------------------------------------------------------------------------ shared


def _names(data: Any, given: Sequence[str]) -> tuple[str, ...]:
    """Class names; a number that is not itself a name stands for the class at that place."""
    numbered = [int(one) if one.isdecimal() and one not in data.classes else one for one in given]
    return tuple(data.classes[number] for number in data.class_numbers(numbered)) if numbered else ()


def _search(data: Any, options: Forget) -> rasura.Search | None:
    if not options.strength:
        if options.validation:
            raise InputError(f"validation: {options.validation}; allowed: with --strength auto")
        return None
    limits = options.budget, options.forget_accuracy, options.tolerance
    if options.validation:
        return rasura.Search(*limits, validation=read_samples(options.validation, data).indices)
    return rasura.Search(*limits)


def _request(data: Any, options: Forget | Audit) -> rasura.ForgetClasses | rasura.ForgetSamples:
    if bool(options.forget) == bool(options.forget_samples):
        raise InputError("forget: give classes (--forget) or training examples (--forget-samples), one of the two")
    if options.forget_samples:
        return read_samples(options.forget_samples, data)
    return rasura.ForgetClasses(_names(data, options.forget))


def _load(path: Path, architecture: str | None, data: Any) -> Any:
    from rasura.models import to_card

    return rasura.load_model(path, architecture, like=to_card(architecture, data))


def _adapted(model: Any, folders: Sequence[Path]) -> Any:
    """The model with stored adapters folded in."""
    from rasura.models.adapters import merged, with_adapters

    return merged(with_adapters(model, folders)) if folders else model


def _print_json(content: Any) -> None:
    print(json.dumps(content, ensure_ascii=False, allow_nan=False))


def _brief(content: dict[str, Any]) -> dict[str, Any]:
    """A finding without its pictures."""
    return {key: value for key, value in content.items() if key != "pictures"}
