"""Where the command line starts: it prepares the process before torch and other libraries are imported."""

import io
import os
import signal
import sys
import warnings

from rasura.exits import failed, stop

ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while they wait keep each other from working on a busy machine
    "TRANSFORMERS_VERBOSITY": "error",
    "DATASETS_VERBOSITY": "error",
    "HF_HUB_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}
"""What libraries read when they are imported: progress and complaints are ours to show. What the user has set stays."""

SIGNALS = [signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def entry() -> None:
    """The console script."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup sets it
            signal.signal(number, stop)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a console without “→” shows “?”, and the work is not lost
    sys.exit(_status())


def _status() -> int:
    try:
        from rasura.cli import main

        status = main()
        sys.stdout.flush()
        return status
    except (Exception, KeyboardInterrupt) as error:  # while something was imported, or stdout was written
        return failed(error)


if __name__ == "__main__":
    entry()
