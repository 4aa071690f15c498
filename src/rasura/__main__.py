"""`python -m rasura`."""

from rasura.cli import entry

entry()
