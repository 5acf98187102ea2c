import importlib.metadata
import sys

import pytest

from advjax import plugins
from advjax.errors import InputError

SOURCE = """
class Net:
    class Inner:
        width = 3

def make(num_classes):
    return num_classes
"""


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A package in the current directory that nobody has put on the path."""
    before = set(sys.modules)
    folder = tmp_path / "their_package"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "nets.py").write_text(SOURCE)
    (folder / "broken.py").write_text("x = 1\nraise RuntimeError('two\\nlines')\n")
    (folder / "leaves.py").write_text("import sys\nsys.exit(3)\n")
    (folder / "wants.py").write_text("import absent_package_of_theirs\n")
    (folder / "syntax.py").write_text("def f(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    yield folder
    for name in set(sys.modules) - before:
        if name.startswith("their_package"):
            del sys.modules[name]


def test_objects_by_name(outside):
    path = list(sys.path)
    net = plugins.resolve("their_package.nets:Net", "network")
    assert net.__name__ == "Net"
    assert plugins.resolve("their_package.nets:Net.Inner", "network").width == 3
    assert sys.path == path
    assert plugins.reference(net.Inner) == "their_package.nets:Net.Inner"
    assert plugins.is_reference("a:b") and not plugins.is_reference("resnet18") and not plugins.is_reference(3)


@pytest.mark.parametrize(
    "name, message",
    [
        ("their_package.nets:Nett", "did you mean Net"),
        ("their_package.nets:Net.Outer", r"their_package\.nets\.Net .*Outer.*Inner"),
        ("their_package.net:Net", r"no module their_package\.net;.*current directory"),
        ("their_packag.nets:Net", "no module their_packag;"),
        ("their_package.nets.deeper:Net", r"no module their_package\.nets\.deeper"),
        ("their_package.broken:Net", r"broken\.py, line 2\): RuntimeError: two lines"),
        ("their_package.leaves:Net", "SystemExit: 3"),
        ("their_package.wants:Net", "absent_package_of_theirs, which is not installed"),
        ("their_package.syntax:Net", "SyntaxError"),
        *((name, r"package\.module:Object") for name in (":Net", "a:", "a:b:c", ".nets:Net", "a b:c", "../x:y", ":")),
        ("nett", "unknown network 'nett'; did you mean net1"),
        ("", "unknown network"),
    ],
)
def test_a_wrong_name_is_one_line(outside, name, message):
    with pytest.raises(InputError, match=message) as error:
        plugins.resolve(name, "network", ["net1"])
    assert "\n" not in str(error.value) and "network" in str(error.value)


def test_names_that_packages_register(outside, monkeypatch):
    entries = [
        importlib.metadata.EntryPoint(name, value, "advjax.networks")
        for name, value in [("theirs", "their_package.nets:Net"), ("gone", "their_package.gone:Net")]
    ]
    groups = {"advjax.networks": entries}
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: groups.get(group, []))
    assert plugins.resolve("theirs", "network").Inner.width == 3
    assert list(plugins.registered("network")) == ["gone", "theirs"] and plugins.registered("method") == {}
    with pytest.raises(InputError, match="theirs"):
        plugins.resolve("their", "network")
    with pytest.raises(InputError, match=r"network gone \(their_package.gone:Net\): there is no module"):
        plugins.resolve("gone", "network")


def test_what_no_import_finds_has_no_name():
    class Local:
        pass

    for target in (Local, lambda: None, 3):
        with pytest.raises(InputError, match="top of a module"):
            plugins.reference(target)
