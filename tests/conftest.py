"""What every test needs: nothing is fetched from the network, and a torchvision that can be imported."""

import importlib
import os
import sys

import torch

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
