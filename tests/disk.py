"""A disk of its own that can lose its power: a file system in a file, where the user is root."""

import fcntl
import os
import shutil
import struct
import subprocess
from pathlib import Path

SHUTDOWN, WITHOUT_ITS_LOG = 0x8004587D, 2
"""The ioctl of ext4 that stops a file system at once; with this flag, what was not synced is lost."""


class Disk:
    """An ext4 file system in a file.

    Attributes:
        folder: where it is mounted.
    """

    def __init__(self, place: Path):
        self.image, self.folder = place / "image", place / "disk"

    @staticmethod
    def why_not() -> str:
        """Why there can be none here; empty if there can."""
        if os.name != "posix" or os.geteuid() != 0:
            return "only root mounts a disk"
        missing = [tool for tool in ("mkfs.ext4", "mount", "umount") if shutil.which(tool) is None]
        return f"{missing[0]} is not installed" if missing else ""

    def make(self) -> bool:
        """Make it and mount it; whether the system lets us."""
        with open(self.image, "wb") as file:
            file.truncate(64 * 2**20)
        self.folder.mkdir()
        subprocess.run(["mkfs.ext4", "-q", str(self.image)], check=True, capture_output=True)
        return self._mount() == 0

    def lose_power(self) -> None:
        """Stop it as a power cut does, and mount what is on it."""
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, SHUTDOWN, struct.pack("I", WITHOUT_ITS_LOG))
        finally:
            os.close(descriptor)
        self.remove()
        assert self._mount() == 0

    def remove(self) -> None:
        """Unmount it."""
        subprocess.run(["umount", str(self.folder)], check=True, capture_output=True)

    def _mount(self) -> int:
        command = ["mount", "-o", "loop", str(self.image), str(self.folder)]
        return subprocess.run(command, capture_output=True).returncode
