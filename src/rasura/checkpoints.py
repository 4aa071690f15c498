"""The state of an unfinished training, in a file that shows whether it is whole."""

import hashlib
import io
import sys
from pathlib import Path

import torch
from torch import nn

from rasura.files import write_whole

DIGEST = 32
"""Bytes at the beginning of the file: SHA-256 of all that follows."""


def write_checkpoint(
    path: Path, run: str, epoch: int, model: nn.Module, optimiser: torch.optim.Optimizer, generator: torch.Generator
) -> None:
    """Write all that the epochs from `epoch` on depend on.

    Args:
        path: the file; folders above it that do not exist are made.
        run: a hash of all that decides the training's result.
        epoch: how many are done.
        model: as it is after them, and so are the optimiser and the generator; torch's global one is kept, too.
        optimiser: of the model's parameters.
        generator: what the order of the examples is drawn from.
    """
    state = {"model": model.state_dict(), "optimiser": optimiser.state_dict()}
    randomness = {"own": generator.get_state(), "global": torch.get_rng_state()}
    content = io.BytesIO()
    torch.save({"run": run, "epoch": epoch, **state, **randomness}, content)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, hashlib.sha256(content.getbuffer()).digest() + content.getbuffer())


def resume(path: Path, run: str, model: nn.Module, optimiser: torch.optim.Optimizer, generator: torch.Generator) -> int:
    """Go back to the checkpoint of this very run, if there is one; the number of epochs that are done.

    One that is damaged is dropped with a word on stderr.
    """
    if not path.exists():
        return 0
    written = path.read_bytes()
    digest, content = written[:DIGEST], written[DIGEST:]
    if hashlib.sha256(content).digest() != digest:
        print(f"rasura: the checkpoint {path} is damaged; training starts from the beginning", file=sys.stderr)
        return 0
    saved = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    if saved["run"] != run:
        return 0
    model.load_state_dict(saved["model"])
    optimiser.load_state_dict(saved["optimiser"])
    generator.set_state(saved["own"])
    torch.set_rng_state(saved["global"])
    return saved["epoch"]
