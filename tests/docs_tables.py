"""Tables on the project's pages."""


def rows_between(page: str, mark: str) -> list[str]:
    """The lines of the table that a page holds between `<!-- mark -->` and `<!-- end -->`, without its head."""
    return page.partition(f"<!-- {mark} -->\n")[2].partition("<!-- end -->")[0].splitlines()[2:]
