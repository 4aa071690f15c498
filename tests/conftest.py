"""What every test needs: nothing fetched from the network, one thread per worker, a torchvision that imports."""

import importlib
import os
import sys

if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores: threads that wait for each other take minutes
    os.environ["OMP_NUM_THREADS"] = "1"

from rasura.__main__ import ENVIRONMENT

os.environ.update(ENVIRONMENT | dict(os.environ))  # as the command line sets it, and as early

import hypothesis
import torch

hypothesis.settings.register_profile("no-clock", deadline=None)  # a slow machine is no failure
hypothesis.settings.load_profile("no-clock")

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"


def _mend_torchvision() -> None:
    """Declare the two operators that torchvision's registry wheel cannot bring beside a CPU-only torch.

    Without them neither torchvision nor timm nor the image models of transformers can be imported.
    """
    try:
        importlib.import_module("torchvision")
    except ImportError:
        return
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        for operator in ("nms", "qnms"):
            torch.library.define(f"torchvision::{operator}", "(Tensor boxes, Tensor scores, float threshold) -> Tensor")


_mend_torchvision()
