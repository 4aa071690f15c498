"""What a file of weights declares, read and checked before memory is taken."""

import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from rasura.errors import InputError, first_line
from rasura.memory import machine_memory


def shapes_in(path: Path) -> dict[str, torch.Size]:
    """The shape of every tensor in a safetensors file, by name; from its header alone.

    The library refuses a header of more than 100 MB, and one whose shapes do not fill the file exactly.

    Raises:
        InputError: a missing file, or one that is truncated or no safetensors file.
    """
    check_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: torch.Size(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise unreadable(path, error) from None


def check_file(path: Path) -> None:
    """Refuse a file of weights that is missing, or larger than the machine's memory."""
    if not path.is_file():
        raise InputError(f"model: {path} does not exist; allowed: an existing file of weights")
    if path.stat().st_size > machine_memory():
        size = f"{path.stat().st_size / 2**30:,.0f} GiB"
        raise InputError(f"model: {path} has {size}; allowed: at most the machine's memory")


def check_archive(path: Path) -> None:
    """Refuse a PyTorch file that holds more than it takes on the disk: `torch.save` compresses nothing.

    The older form, no archive, cannot: each tensor takes its own bytes of it.

    Raises:
        InputError: compressed or overlapping records, or a damaged archive.
    """
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except (zipfile.BadZipFile, ValueError, LookupError, NotImplementedError) as error:
        raise unreadable(path, error) from None
    declared = sum(record.file_size for record in records)
    if declared > path.stat().st_size or any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise InputError(
            f"model: {path} is compressed and declares {declared:,} bytes; allowed: a file as torch.save writes it"
        )


def unreadable(path: Path, error: Exception) -> InputError:
    """The error for a file that does not hold what it should."""
    return InputError(
        f"model: {path} is truncated or not a file of weights ({first_line(error)}); allowed: .safetensors, or a "
        "PyTorch state dict"
    )
