"""Pages that must not fall behind the code."""

import pathlib
import re
import tomllib

import advjax
from advjax.cli import config_files
from tests.test_layers import FLOORS, PACKAGE, files

ROOT = pathlib.Path(__file__).resolve().parents[1]


def test_contributing_has_every_room():
    """Every module of the ground floors and every package, every module of the packages but a family's or a method's own."""
    page = (ROOT / "CONTRIBUTING.md").read_text()
    missing = [name for names in FLOORS for name in names if f"{name}.py" not in page and f"{name}/" not in page]
    assert set(missing) <= {"version"}
    inside = [path for path in files() if path.parent.name in ("training", "runs", "evaluate", "data")]
    assert [path.name for path in inside if path.name != "__init__.py" and path.name not in page] == []


def test_pages_name_files_that_exist():
    docs = ("running", "evaluation", "evidence", "extending", "methods", "teachers", "adaptive-attacks", "coming-from")
    for page in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", *(f"docs/{d}.md" for d in docs), "examples/README.md"):
        folder = (ROOT / page).parent
        for target in re.findall(r"\]\((?!#)([^)#]+)", (ROOT / page).read_text()):
            assert (folder / target).exists(), f"{page}: {target}"
    for name in re.findall(r"`(\w+\.py)`", (ROOT / "docs/extending.md").read_text()):
        assert list(PACKAGE.rglob(name)) or list((ROOT / "examples").glob(name)), name


def test_pages_of_papers_show_lines_that_are_in_the_code():
    code = [" ".join(line.split()) for file in files() for line in file.read_text().splitlines()]
    for page in sorted((ROOT / "docs/papers").glob("*.md")):
        shown = "\n".join(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)).splitlines()
        assert shown and [line for line in shown if not any(line in known for known in code)] == [], page.name


def test_the_page_of_methods_has_every_config():
    page = (ROOT / "docs/methods.md").read_text()
    assert [file.stem for file in config_files() if f"`{file.stem}`" not in page] == ["quickstart"]


def test_the_citation_is_of_this_version_and_the_package_says_it_is_typed():
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"version: {advjax.__version__}\n" in citation
    for paper in ("2408.13102", "2403.09101", "2306.16170", "2112.05005"):
        assert f'"arXiv:{paper}"' in citation
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert (PACKAGE / "py.typed").is_file()
    shipped = project["tool"]["setuptools"]["package-data"]["advjax"]
    assert "py.typed" in shipped
    assert {*PACKAGE.glob("runs/templates/*")} == {path for pattern in shipped[1:] for path in PACKAGE.glob(pattern)}
