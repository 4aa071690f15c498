"""How the page writes numbers and JSON values: shares as percentages, differences as points, hashes cut."""

from typing import Any

from rasura.auditing import MODEL


def percent(share: float | None) -> str:
    """A share 0..1; a dash for None.

    >>> percent(0.1234), percent(None), percent(-0.02)
    ('12.3%', '–', '−2.0%')
    """
    return "–" if share is None else _minus(f"{100 * share:.1f}") + "%"


def points(share: float | None, sign: str = "+") -> str:
    """A difference of shares in points, with a minus sign that is as wide as the plus.

    >>> points(-0.0512), points(0.0512, ""), points(0.0)
    ('−5.1', '5.1', '0.0')
    """
    return "–" if share is None else _minus(f"{100 * share:{sign}.1f}")


def plain(value: float | None) -> str:
    """A number that is no share: three decimals, one from ten on, none if it is whole; thousands apart.

    >>> plain(0.12345), plain(-12.34), plain(1234567), plain(None)
    ('0.123', '−12.3', '1,234,567', '–')
    """
    if value is None:
        return "–"
    return _minus(f"{value:,.{0 if value == round(value) else 3 if abs(value) < 10 else 1}f}")


def position(share: float) -> str:
    """A share as a length for a style attribute; what lies outside 0..1 is drawn at the edge."""
    return f"{100 * min(max(share, 0.0), 1.0):.1f}%"


def words(value: Any) -> str:
    """JSON values as a line of text."""
    if isinstance(value, dict):
        return ", ".join(
            f"{key} ({words(one)})" if isinstance(one, dict) and one else f"{key} {words(one)}"
            for key, one in value.items()
        )
    if isinstance(value, list):
        return ", ".join(words(one) for one in value)
    return "none" if value is None else str(value)


def role(name: str) -> str:
    """What the page calls a model: "this model", "original", "retrained 1"."""
    return "this model" if name == MODEL else name.replace("reference", "retrained")


def span(values: list[float]) -> dict[str, float] | None:
    """Mean, low and high; None of nothing."""
    return {"mean": sum(values) / len(values), "low": min(values), "high": max(values)} if values else None


def shortened(name: str, most: int) -> str:
    """A name on one line, cut in the middle if it is long: both ends tell modules and classes apart."""
    name = " ".join(name.split())
    return name if len(name) <= most else f"{name[: most // 2]}…{name[-(most // 2 - 1) :]}"


def _minus(text: str) -> str:
    return ("0.0" if text in ("+0.0", "-0.0") else text).replace("-", "−")
