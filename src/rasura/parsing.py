"""Arguments become a command's dataclass of options, read by tyro; what is wrong with them becomes one line."""

import contextlib
import io
from dataclasses import field, make_dataclass
from typing import Any

import tyro

from rasura.errors import InputError, shortened

WORD = 60
"""Letters of a value that a complaint shows at most."""


class HelpShownError(SystemExit):
    """A command's help was asked for and is printed."""


def parsed(kind: Any, arguments: list[str], name: str, description: str | None = None) -> Any:
    """The options of a command.

    Args:
        kind: their dataclass.
        arguments: what the user typed behind the command's name.
        name: the command, for help and messages.
        description: for the help; by default the dataclass says what it is.

    Raises:
        InputError: an option that is unknown, missing, empty, given twice, or of another type.
        HelpShownError: help was asked for.
    """
    _check_each(arguments)
    options = (tyro.conf.FlagCreatePairsOff,)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(kind, args=arguments, prog=f"rasura {name}", description=description, config=options)
    except SystemExit as stop:
        if not stop.code:
            raise HelpShownError(0) from None
    if (short := [shortened(one, WORD) for one in arguments]) != arguments:
        parsed(kind, short, name)  # long values are as wrong when they are short, and no line breaks inside them
    raise InputError(f"options: {_one_line(complaint.getvalue())}; allowed: see rasura {name} --help")


def with_settings(name: str, options: type, settings: Any, arguments: list[str]) -> tuple[Any, Any]:
    """A command's own options beside the fields of a dataclass of settings, which begin as in `settings`."""
    flat = tyro.conf.OmitArgPrefixes
    parts: Any = [("options", flat[options]), ("settings", flat[type(settings)], field(default=settings))]
    both = make_dataclass("Both", parts, frozen=True)
    found = parsed(both, arguments, name, (options.__doc__ or "").split("\n")[0])
    return found.options, found.settings


def _check_each(arguments: list[str]) -> None:
    """Refuse what tyro would take: an empty word, as an unset variable of a shell leaves it, or an option twice."""
    seen: set[str] = set()
    for place, word in enumerate(arguments):
        option, equals, value = word.partition("=")
        if not word.strip() or (option.startswith("--") and equals and not value.strip()):
            where = option if equals else arguments[place - 1] if place else "options"
            raise InputError(f"{where}: an empty value; allowed: a value, or leaving the option out")
        option = option.replace("_", "-")
        if option in seen:
            raise InputError(f"{option}: given twice; allowed: once, with all of its values behind it")
        if option.startswith("--"):
            seen.add(option)


def _one_line(box: str) -> str:
    """What tyro says in a box of many lines, without the frame and the help texts (indented by eight or more)."""
    lines = [line.strip("│╰╯\n").rstrip() for line in box.splitlines()[1:]]  # without the title
    short = [line for line in lines if not line.startswith(" " * 8)]
    words = " ".join(line.strip() if line.strip(" ─-") else ";" for line in short)
    reason = words.partition("For full helptext")[0].partition("Argument helptext")[0]
    return " ".join(reason.split()).replace(" ;", ";").strip("; .").removeprefix("Error parsing settings: ")
