"""The notebooks as they lie in the repository; that they run is a step of CI of its own (`.ci/run`)."""

import json
import pathlib
import re

import advjax
from tests.commands import ROOT

FOLDER = ROOT / "experiments/notebooks"
COLAB = "https://colab.research.google.com/github/advjax/advjax/blob/main/experiments/notebooks"


def sources(notebook, kind):
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == kind]


def test_a_notebook_opens_in_colab_installs_itself_and_shows_its_pictures():
    paths = sorted(FOLDER.glob("*.ipynb"))
    assert [path.name[:2] for path in paths] == ["01", "02", "03", "04", "05"]
    index = (FOLDER / "README.md").read_text()
    for path in paths:
        text = path.read_text()
        notebook = json.loads(text)
        assert path.name in index and f"]({COLAB}/{path.name})" in sources(notebook, "markdown")[0], path.name
        code = sources(notebook, "code")
        assert code[0].startswith("# Installs the package") and 'find_spec("advjax") is None' in code[0], path.name
        assert "running on" in code[1] and "device_kind" in code[1], path.name
        outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
        assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
        assert sum("image/png" in output.get("data", {}) for output in outputs) >= 1, path.name
        assert len(text) < 1_000_000 and not re.search(r"/(root|home|work|tmp)/", text), path.name
        for target in re.findall(r"\]\((\w+\.ipynb)\)", text):
            assert (FOLDER / target).exists(), f"{path.name}: {target}"


def test_no_module_takes_the_notebooks_pictures_away():
    """`matplotlib.use` in a library would: a figure that a later cell shows would be drawn nowhere."""
    package = pathlib.Path(advjax.__file__).parent
    assert [path.name for path in package.rglob("*.py") if "matplotlib.use(" in path.read_text()] == []
