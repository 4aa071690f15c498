"""One self-contained HTML page from the findings of an audit."""

from rasura.report.page import page

__all__ = ["page"]
