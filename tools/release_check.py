"""Check that the tree is ready for a release of the version in npdl/_version.py.

python tools/release_check.py          what has to hold at every commit
python tools/release_check.py --final  also: no .dev version, a dated changelog, a new tag, and
                                       nothing that is not committed
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VERSION = r"\d+\.\d+\.\d+(\.dev\d+|(a|b|rc)\d+)?"
HEADING = re.compile(rf"^## \[?(Unreleased|{VERSION})\]?(?: - (\d{{4}}-\d\d-\d\d))?$", re.MULTILINE)
SECTIONS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def git(*command: str) -> str:
    """The output of a git command."""
    return subprocess.run(
        ["git", *command], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()


def version_of(text: str) -> str:
    """The version in npdl/_version.py."""
    found = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    return found[1] if found else ""


def problems(final: bool) -> list[str]:
    """The problems that prevent a release."""
    version = version_of((ROOT / "npdl" / "_version.py").read_text())
    changelog = (ROOT / "CHANGELOG.md").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    headings = HEADING.findall(changelog)
    found = []
    if not re.fullmatch(VERSION, version):
        found.append(f"npdl/_version.py: {version!r} is not like 1.2.3, 1.2.3.dev0 or 1.2.3rc1")
    if "version" in project:
        found.append("pyproject.toml: the version is written a second time")
    if not headings:
        found.append("CHANGELOG.md: no heading like '## [1.2.3] - 2026-01-31' or '## [Unreleased]'")
    for line in re.findall(r"^##.*$", changelog, re.MULTILINE):
        section = line.removeprefix("### ").partition(",")[0]
        if not HEADING.match(line) and section not in SECTIONS:
            found.append(f"CHANGELOG.md: {line!r} is no version, nor one of {sorted(SECTIONS)}")
    if final:
        if "dev" in version:
            found.append(f"npdl/_version.py: {version} is a version under development")
        if not headings or headings[0][0] != version or not headings[0][-1]:
            found.append(f"CHANGELOG.md: its first heading is not '## [{version}] - <date>'")
        if f"v{version}" in git("tag").split():
            found.append(f"the tag v{version} exists")
        if git("status", "--porcelain"):
            found.append("the tree has changes that are not committed")
    return found


def main() -> None:
    """Print the problems."""
    found = problems("--final" in sys.argv[1:])
    if found:
        sys.exit("\n".join(found))
    print(f"npdl {version_of((ROOT / 'npdl' / '_version.py').read_text())}: ready")


if __name__ == "__main__":
    main()
