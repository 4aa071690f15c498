"""Methods side by side: a grid of models, seeds, classes and methods, run cell by cell, summarised with intervals."""

from rasura.bench.engine import run_grid
from rasura.bench.grid import Cell, Grid, read_grid
from rasura.bench.summary import summarise, write_summary

__all__ = ["Cell", "Grid", "read_grid", "run_grid", "summarise", "write_summary"]
