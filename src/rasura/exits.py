"""Exit codes: what a command that could not be done says on stderr, and what it returns."""

import contextlib
import os
import signal
import sys
import traceback

from rasura.errors import InputError, first_line, out_of_memory, printable, shortened

NOT_MET, REFUSED, BUG = 1, 2, 3
"""`--require` was not met; wrong input, or no room on the disk or in memory; what must never happen."""
STOPPED = 128
"""Added to the number of the signal that ended a command."""


def stop(number: int, frame: object) -> None:
    """A handler that lets a signal end the command as Ctrl-C does: what is half-written is removed."""
    raise KeyboardInterrupt(number)


def failed(error: BaseException) -> int:
    """Say in one line on stderr why a command ends (under the traceback, if it is a bug); its exit code."""
    if isinstance(error, BrokenPipeError):  # who reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if isinstance(error, KeyboardInterrupt):
        say("interrupted; nothing is left half-written, the same command resumes")
        return STOPPED + (error.args[0] if error.args else signal.SIGINT)
    if isinstance(error, InputError):
        return refused(str(error))
    if isinstance(error, OSError):
        reason = error.strerror or first_line(error)
        return refused(f"file: {error.filename or 'one'} cannot be used ({reason}); allowed: one that can, with room")
    if out_of_memory(error):
        return refused(f"memory: {first_line(error)}; allowed: what fits, such as smaller batches, data or models")
    with contextlib.suppress(OSError):
        traceback.print_exception(error)
    say(f"a bug ({type(error).__name__}: {first_line(error)}); please report it with the lines above")
    return BUG


def refused(reason: str) -> int:
    """Say why the input cannot be used; the exit code."""
    say(reason)
    return REFUSED


def say(*lines: str) -> None:
    """Lines on stderr, whatever control characters the names in them hold; nothing where stderr is gone."""
    with contextlib.suppress(OSError):
        for line in lines:
            print(f"rasura: {printable(shortened(' '.join(line.split())))}", file=sys.stderr)
