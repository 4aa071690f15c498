"""The command line: one thin layer over the same functions that Python users call.

Each command is a dataclass in `options` and a function that takes it. Results go to stdout,
progress and errors to stderr; `exits` has the exit codes.
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import rasura
from rasura.auditing import Shadows
from rasura.class_order import order_warnings, ordered
from rasura.data import in_order, read_samples
from rasura.errors import InputError, each_once, printable, unknown
from rasura.exits import NOT_MET, REFUSED, failed, refused, say
from rasura.given import adapted, all_loaded, chosen_classes, loaded, prepared_data, requested, search_of
from rasura.models import class_names_of
from rasura.options import Audit, Bench, Compare, Demo, Forget, Recompute, Report, Train
from rasura.parsing import HelpShownError, parsed, with_settings
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

Exit codes: 0 done; 1 --require not met; 2 wrong input, or no room on the disk or in memory; 3 a bug of ours, with
its traceback; 128 + n stopped by signal n, such as 130 by Ctrl-C. A stopped command resumes.
Every command takes --json: one JSON object on stdout and nothing else.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if arguments else REFUSED
    if arguments[0] == "--version":
        print(f"rasura {rasura.__version__}")
        return 0
    try:
        command, rest = arguments[0], arguments[1:]
        if command not in COMMANDS:
            raise unknown("command", command, COMMANDS)
        return COMMANDS[command](rest)
    except HelpShownError:
        raise
    except (Exception, KeyboardInterrupt, SystemExit) as error:  # code of the user's may call sys.exit
        return failed(error)


# ------------------------------------------------------------------------------------------------ commands


def _demo(arguments: list[str]) -> int:
    from rasura.demo import run_demo
    from rasura.progress import terminal

    options = parsed(Demo, arguments, "demo")
    with terminal() as progress:
        findings = run_demo(options.out, progress)
    if options.json:
        _print_json({"report": str(options.out / "report.html"), "findings": [_brief(one) for one in findings]})
        return 0
    print_findings(findings)
    _print("", f"The page: {options.out / 'report.html'}")
    return 0


def _train(arguments: list[str]) -> int:
    from rasura.progress import terminal
    from rasura.runs import train_run
    from rasura.training import Recipe

    options, recipe = with_settings("train", Train, Recipe(), arguments)
    data = prepared_data(options)
    without = chosen_classes(data, "without", options.without)
    samples = None if options.without_samples is None else read_samples(options.without_samples, data)
    with terminal() as progress:
        model = train_run(data, options.model, recipe, without, options.seed, options.out, progress, samples)
        given, data = data, in_order(data, class_names_of(model))
        say(*order_warnings(given, data, without))
        held_out = rasura.predict(model, data.test, progress=progress).argmax(1)
    kept = [name for name in data.classes if name not in without]
    asked = [data.classes[number] not in without for number in data.test.labels.tolist()]
    accuracy = float((held_out == data.test.labels)[asked].double().mean())
    if options.json:
        _print_json({"model": str(options.out), "classes": kept, "held_out_accuracy": round(accuracy, 5)})
    else:
        _print(f"{options.out}: {accuracy:.1%} of the held-out examples of its {len(kept)} classes are named rightly")
    return 0


def _forget(arguments: list[str]) -> int:
    from rasura.methods import method_class, names
    from rasura.progress import terminal
    from rasura.recipes import method_for
    from rasura.runs import forget_run

    if not arguments:
        raise InputError(f"method: none; allowed: {', '.join(names())}")
    if arguments[0] in ("-h", "--help"):
        print(f"usage: rasura forget METHOD [options]\n\nMethods: {', '.join(names())}\n")
        print("rasura forget METHOD --help shows a method's options.")
        return 0
    name, rest = arguments[0], arguments[1:]
    options, method = with_settings(f"forget {name}", Forget, method_class(name)(), rest)
    if options.recipe:
        options, method = with_settings(f"forget {name}", Forget, method_for(name, options.recipe), rest)
    data = prepared_data(options)
    request, search = requested(data, options), search_of(data, options)
    model = adapted(loaded(options.model, options, data), options.adapter)
    with terminal() as progress:
        _, record = forget_run(model, data, request, method, options.seed, options.out, progress, search)
    say(*record["warnings"])
    if options.json:
        _print_json({"model": str(options.out), **record})
        return 0
    effect = record["effect"]
    _print(f"{options.out}: {record['method']}, to forget {record['request']['forget']}, in {record['seconds']:.1f} s")
    if search:
        found = record["search"]
        besides = "".join(f", {name} {value}" for name, value in found["besides"].items())
        _print(f"  strength: {found['field']} {found['chosen']:g}{besides}, of {len(found['trials'])} settings tried")
    for part, what in (("forget", "to forget"), ("retain", "to keep")):
        before, after = effect[f"{part}_accuracy_before"], effect[f"{part}_accuracy_after"]
        _print(f"  training images {what}: accuracy {before:.1%} → {after:.1%}")
    _print("Zero accuracy does not show that a class is gone. Audit the model: rasura audit --help")
    return 0


def _audit(arguments: list[str]) -> int:
    from rasura.audits import judged_again, recompute
    from rasura.progress import terminal
    from rasura.runs import audit_runs

    if any(word.partition("=")[0] == "--recompute" for word in arguments):
        again = parsed(Recompute, arguments, "audit")
        return _report_finding(recompute(again.recompute), again.recompute, again.require, again.json)
    options = parsed(Audit, arguments, "audit")
    data = prepared_data(options)
    request = requested(data, options) if options.forget or options.forget_samples is not None else None
    model, original = (loaded(path, options, data) for path in (options.model, options.original))
    model = adapted(model, options.adapter)
    request = request or rasura.methods.forgotten_classes(model)
    references, *shadows = (
        all_loaded(option, options, data) for option in ("reference", "shadow_original", "shadow_unlearned")
    )
    with terminal() as progress:
        shown = options.adapter[-1].resolve().parent if options.adapter else options.model.resolve()
        name = shown.name
        place = {name: (model, options.out)}
        rest = options.seed, progress, options.goal, options.also, Shadows(*shadows)
        found = audit_runs(place, data, request, original, references, *rest)[name]
    if options.require:
        found = judged_again(options.out)
    return _report_finding(found, options.out, options.require, options.json)


def _report_finding(found: dict[str, Any], folder: Path, require: str | None, json: bool) -> int:
    say(*found.get("notes", ()))
    if json:
        _print_json(_brief(found))
    else:
        print_findings([found])
        said = f"{found['verdict']}{qualified(found)}: {found['reason']}"
        _print("", said, f"The page: {folder / 'report.html'}")
    wanted = (require or "").replace("-", " ").upper()
    met = found["verdict"].replace("-", " ") == wanted and not (wanted == "ERASED" and found["qualifiers"])
    return NOT_MET if wanted and not met else 0


def _compare(arguments: list[str]) -> int:
    from rasura.compare import PAGE, compare
    from rasura.methods import method_class, names
    from rasura.progress import terminal
    from rasura.recipes import nearest_for

    options = parsed(Compare, arguments, "compare")
    chosen = each_once("methods", options.methods) or names()
    methods = {name: nearest_for(name, options.recipe) if options.recipe else method_class(name)() for name in chosen}
    data = prepared_data(options)
    request, search = rasura.ForgetClasses(chosen_classes(data, "forget", options.forget)), search_of(data, options)
    model = loaded(options.model, options, data)
    references = all_loaded("reference", options, data)
    say(*ordered(model, data, request).warnings)
    with terminal() as progress:
        rows, failed = compare(model, data, request, methods, references, options.out, progress, options.seed, search)
    for name, reason in failed.items():
        say(f"{name}: no model ({reason})")
    if options.json:
        _print_json({"page": str(options.out / PAGE), "rows": [row.to_json() for row in rows], "failed": failed})
    else:
        print_comparison([row.to_json() for row in rows])
        _print("", f"The page: {options.out / PAGE}")
    if failed.keys() >= methods.keys():
        return refused("methods: every one failed, only controls are on the page; allowed: methods that give a model")
    return 0


def _bench(arguments: list[str]) -> int:
    from rasura.bench import read_grid, run_grid, write_summary
    from rasura.progress import terminal

    options = parsed(Bench, arguments, "bench")
    grid = read_grid(options.grid, options.trust)
    with terminal() as progress:
        found = run_grid(grid, options.out, options.engine, progress)
    summary = write_summary(found, options.out)
    for one in summary["failed"]:
        where = f"{one['model']}, seed {one['seed']}, {', '.join(one['forget'])}"
        say(f"{one['method']} ({where}): no finding ({one['reason']})")
    if options.json:
        _print_json({"out": str(options.out), "rows": summary["rows"], "failed": summary["failed"]})
    else:
        print_summary(summary["rows"])
    return 0


def _report(arguments: list[str]) -> int:
    from rasura.audits import write_report

    options = parsed(Report, arguments, "report")
    page = write_report(options.folder)
    if options.json:
        _print_json({"report": str(page)})
    else:
        _print(str(page))
    return 0


def _list(arguments: list[str]) -> int:
    from rasura.listing import LISTS

    if not arguments:
        raise InputError(f"list: none; allowed: {', '.join(LISTS)}")
    if arguments[0] in ("-h", "--help"):
        print(f"usage: rasura list {'|'.join(LISTS)} [--json]")
        return 0
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
        _print(f"{name:<{width}}  {meaning}")
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


# ------------------------------------------------------------------------------------------------ results


def _print(*lines: str) -> None:
    for line in lines:
        print(printable(line))


def _print_json(content: Any) -> None:
    print(json.dumps(content, allow_nan=False))  # in ASCII: no name of a class can hold an escape of the terminal


def _brief(content: dict[str, Any]) -> dict[str, Any]:
    """A finding without its pictures."""
    return {key: value for key, value in content.items() if key != "pictures"}
