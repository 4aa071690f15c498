"""torch's global random state, which initialisation and dropout draw from: seeded for a while, and left as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

CPU = torch.device("cpu")


@contextmanager
def seeded(seed: int, device: torch.device = CPU) -> Iterator[None]:
    """The global generators of the CPU and of `device` are seeded inside the block, and put back; others stay.

    `torch.manual_seed` would seed those of all GPUs, and nothing would put them back. A device that is neither the CPU
    nor a CUDA one keeps the seed: torch puts back the state of these two alone.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        elif device.type != "cpu":
            torch.get_device_module(device).manual_seed(seed)
        yield
