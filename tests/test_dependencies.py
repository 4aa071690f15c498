"""What rasura depends on: no version below one with a known hole, and every package in the lock with its hashes."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ADVISORIES = tomllib.loads((Path(__file__).parent / "advisories.toml").read_text(encoding="utf-8"))
SAFE = {name: max(map(Version, holes)) for name, holes in ADVISORIES.items()}
"""Of each package, the first version without a hole that is known."""

BY_INDEX = {"torch", "torchvision"}
"""Each index has wheels of its own of these, for the CPU or a version of CUDA, so that no hash fits all."""


def direct() -> list[Requirement]:
    """What pyproject.toml asks for, to run, to build and in every extra."""
    project, build = PROJECT["project"], PROJECT["build-system"]["requires"]
    extras = [words for extra in project["optional-dependencies"].values() for words in extra]
    asked = [Requirement(words) for words in (*project["dependencies"], *extras, *build)]
    return [one for one in asked if one.name != project["name"]]


def pinned(file: str) -> dict[str, set[Version]]:
    """Versions by package; one that differs between versions of Python has two."""
    found: dict[str, set[Version]] = {}
    for name, number in re.findall(r"^([\w.-]+)==([^\s;\\]+)", (ROOT / file).read_text(encoding="utf-8"), re.M):
        found.setdefault(canonicalize_name(name), set()).add(Version(number))
    return found


@pytest.mark.parametrize("asked", direct(), ids=lambda asked: str(asked))
def test_a_lower_bound_is_stated_and_lets_in_no_known_hole(asked):
    bounds = [Version(one.version) for one in asked.specifier if one.operator == ">="]
    assert len(bounds) == 1, "every dependency has a lowest version"
    assert bounds[0] >= SAFE.get(canonicalize_name(asked.name), Version("0")), ADVISORIES[asked.name]


@pytest.mark.parametrize("file", ["constraints.txt", "requirements.lock"])
def test_no_version_that_is_installed_by_us_has_a_known_hole(file):
    versions = pinned(file)
    assert len(versions) > 20
    for name in versions.keys() & SAFE.keys():
        assert min(versions[name]) >= SAFE[name], (name, ADVISORIES[name])


@pytest.mark.parametrize("name", SAFE)
def test_no_version_that_is_here_has_a_known_hole(name):
    try:
        here = Version(version(name))
    except PackageNotFoundError:
        pytest.skip(f"{name} is not installed")
    assert here >= SAFE[name], ADVISORIES[name]


def test_the_lock_holds_what_is_asked_for_in_the_versions_of_the_constraints():
    locked, constraints = pinned("requirements.lock"), pinned("constraints.txt")
    extra = {canonicalize_name(Requirement(words).name) for words in PROJECT["project"]["optional-dependencies"]["ray"]}
    assert {canonicalize_name(one.name) for one in direct()} - extra - BY_INDEX <= locked.keys()
    assert locked.keys().isdisjoint(BY_INDEX)
    assert constraints.keys() >= BY_INDEX
    differing = {name for name in constraints.keys() & locked.keys() if constraints[name] != locked[name]}
    assert not differing, "run `make lock`"


def test_every_package_in_the_lock_has_hashes():
    entries = re.split(r"^(?=[\w.-]+==)", (ROOT / "requirements.lock").read_text(encoding="utf-8"), flags=re.M)[1:]
    assert len(entries) > 50
    assert all("--hash=sha256:" in entry for entry in entries)
