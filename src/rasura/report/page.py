"""`page`: from what `verdict.json` holds to one HTML page that opens offline."""

from collections.abc import Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from rasura.auditing import VERDICTS
from rasura.errors import InputError
from rasura.report import numbers, wording
from rasura.report.evidence import LIGHT, evidence
from rasura.report.scores import SUMMARY, absent, headline, ladder, main_rows, reference_roles

if TYPE_CHECKING:
    from jinja2 import Environment

FORMAT = 2
_OPTIONAL = ("heads", "geometry", "membership", "maps", "on_request", "provenance", "seconds_per_block", "routing")


def page(findings: Sequence[dict[str, Any]]) -> str:
    """One self-contained HTML page for one finding, or for several of the same request.

    Args:
        findings: what `verdict.json` holds, one dict per audited model.

    Raises:
        InputError: no findings, findings of another format, or of different requests.
    """
    check_findings(findings)
    findings = [_completed(finding) for finding in findings]
    sections = [_section(finding, f"model-{number}", len(findings) > 1) for number, finding in enumerate(findings, 1)]
    summary = SUMMARY[findings[0]["request"]["kind"]]
    return (
        environment()
        .get_template("page.html")
        .render(
            style=style(),
            first=findings[0],
            sections=sections,
            summary=summary,
            anchors=_anchors(sections, summary),
            erased=[section for section in sections if section["finding"]["verdict"] == "ERASED"],
            seen=_seen(findings),
        )
    )


def check_findings(findings: Sequence[dict[str, Any]]) -> None:
    """Whether the findings can stand on one page.

    Raises:
        InputError: none, another format, an unknown verdict, or several requests.
    """
    if not findings:
        raise InputError("findings: none given; allowed: at least one")
    for finding in findings:
        if finding.get("format") != FORMAT:
            raise InputError(f"findings: format {finding.get('format')!r}; allowed: {FORMAT}. Audit the model again")
        if finding["verdict"] not in VERDICTS:
            raise InputError(f"findings: verdict {finding['verdict']!r}; allowed: {', '.join(VERDICTS)}")
    requests = list(dict.fromkeys(f"{one['request']['forget']} of {one['data']['name']}" for one in findings))
    if len(requests) > 1:
        raise InputError(f"findings: different requests ({'; '.join(requests)}); allowed: one request on a page")


def _completed(finding: dict[str, Any]) -> dict[str, Any]:
    """The finding with None for every block that was not measured."""
    routing = finding.get("routing")
    return (
        dict.fromkeys(_OPTIONAL)
        | {"goal": "retrain-equivalent"}
        | finding
        | {
            "request": {"kind": "classes", "classes": [], "samples": None} | finding["request"],
            "comparisons": [one | {"anchors": one.get("anchors") or {}} for one in finding["comparisons"]],
            "retain": [one | {"anchors": one.get("anchors") or {}} for one in finding["retain"]],
            "routing": routing and {"jensen_shannon": None, "jensen_shannon_band": None} | routing,
            "pictures": finding.get("pictures") or [],
        }
    )


def environment() -> "Environment":
    """The templates, with the filters that they use."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    templates = Environment(
        loader=PackageLoader("rasura.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {
        "percent": numbers.percent,
        "points": numbers.points,
        "plain": numbers.plain,
        "position": numbers.position,
        "words": numbers.words,
        "role": numbers.role,
        "shortened": numbers.shortened,
        "slug": lambda verdict: verdict.lower().replace(" ", "-"),
        "drawn": _drawn,
    }
    return templates


def _drawn(svg: str) -> Any:
    """A drawing of ours as markup."""
    from markupsafe import Markup

    return Markup(svg)


def style() -> Any:
    """The style sheet of every page."""
    return _drawn(files("rasura.report").joinpath("templates/style.css").read_text(encoding="utf-8"))


def _section(finding: dict[str, Any], anchor: str, several: bool) -> dict[str, Any]:
    rows, rungs, blocks = main_rows(finding), ladder(finding), evidence(finding, anchor)
    return {
        "finding": finding,
        "anchor": anchor,
        "meaning": wording.meaning(finding),
        "boxes": [
            ("What was asked", wording.asked(finding)),
            ("What was found", wording.found(finding, rows, _seen([finding]))),
            ("Where it hides", wording.hides(finding, rungs)),
            ("What this does not show", wording.not_shown(finding, _seen([finding]))),
        ],
        "next": wording.advice(finding),
        "headline": headline(finding, rows, rungs),
        "rows": rows,
        "blocks": [block for block in blocks if not block.empty],
        "missing": [block.title.lower() for block in blocks if block.empty],
        "absent": absent(finding, rows),
        "folded": [block.key for block in blocks if several and block.key not in LIGHT and block is not blocks[0]],
        "references": reference_roles(finding),
        "failed": [gate for gate in finding["gates"] if not gate["passed"]],
        "has_anchors": any(one["anchors"] for one in finding["comparisons"]),
    }


def _anchors(sections: list[dict[str, Any]], summary: dict[str, str]) -> dict[str, Any]:
    """Original and retrained models over all findings: one mean and one range, also if references differ."""
    original, retrained = {}, {}
    for key in summary:
        rows = [section["rows"][key] for section in sections if key in section["rows"]]
        original[key] = numbers.span([row.original["point"] for row in rows if row.original])
        given = [row.references for row in rows if row.references]
        ends = numbers.span([end for one in given for end in (one["low"], one["high"])])
        retrained[key] = ends and ends | {"mean": sum(one["mean"] for one in given) / len(given)}
    count = sorted({len(section["references"]) for section in sections})
    return {"original": original, "retrained": retrained, "count": count}


def _seen(findings: Sequence[dict[str, Any]]) -> str:
    return "images" if any(finding["pictures"] for finding in findings) else "examples"
