"""The layers of the package: arrows point downwards only, and no import hides inside a function."""

import ast
import pathlib

import advjax

PACKAGE = pathlib.Path(advjax.__file__).parent
# From the ground up; a module may import from its own floor and from those below it.
FLOORS = [
    ["errors", "version"],
    ["numbers", "files", "seeds", "arithmetic"],
    ["fields", "plugins", "hosts", "remote"],
    ["compiling"],
    ["parallel"],
    ["losses", "threat"],
    ["distill"],
    ["attacks", "models", "data"],
    ["methods", "evaluate"],
    ["training"],
    ["runs"],
    ["aot", "configs"],
    ["cli"],
]
# Heavy or optional libraries, which most users of a module do without.
HEAVY = {"torch", "tensorflow", "tensorflow_datasets", "matplotlib", "PIL", "tensorboardX", "safetensors", "sklearn"}
HEAVY |= {"array_record", "orbax", "grain", "etils", "fsspec", "equinox", "haiku", "wandb", "mlflow"}


def floor(module):
    """The height of `advjax.NAME...`."""
    name = module.split(".")[1]
    found = [height for height, names in enumerate(FLOORS) if name in names]
    return found[0] if found else len(FLOORS) - 3  # what `advjax` itself exports is that of runs/


def imports(path):
    """(module imported, whether inside a function) of every import of advjax's own modules, and of everything inside."""
    tree = ast.parse(path.read_text())
    inside = {id(n) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for n in ast.walk(f)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] if node.module != "advjax" else [f"advjax.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from ((name, id(node) in inside) for name in names)


def files():
    return [path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"]


def name_of(path):
    return ".".join(["advjax", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__")


def test_every_module_has_a_floor():
    assert {name_of(path).split(".")[1] for path in files()} <= {name for names in FLOORS for name in names}


def test_no_arrow_points_upwards():
    upwards = [
        f"{name_of(path)} -> {name}"
        for path in files()
        for name, _ in imports(path)
        if name.startswith("advjax.") and floor(name) > floor(name_of(path))
    ]
    assert upwards == []


def test_nothing_in_the_package_knows_the_command_lines():
    assert [p.name for p in files() for name, _ in imports(p) if name.split(".")[0] == "experiments"] == []


def test_no_import_hides_in_a_function_unless_it_is_heavy():
    found = [(p, n.split(".")[0]) for p in files() for n, inside in imports(p) if inside]
    # A wrong flag need not wait for JAX: command lines and configs import what they need of the package late.
    hidden = [f"{name_of(p)}: {n}" for p, n in found if n == "advjax" and floor(name_of(p)) < len(FLOORS) - 2]
    assert hidden == []
    light = {n for p, n in found} - HEAVY - {"advjax"}
    assert light <= {"importlib"}, light
