"""The layers of the package: arrows point downwards only, and no import hides inside a function."""

import ast
import pathlib

import advjax

PACKAGE = pathlib.Path(advjax.__file__).parent
# From the ground up; a module may import from its own floor and from those below it.
FLOORS = [
    ["errors", "version"],
    ["numbers", "files", "seeds"],
    ["fields", "plugins"],
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
HEAVY |= {"array_record", "orbax", "grain", "etils", "equinox", "haiku"}


def floor(module):
    """The height of `advjax.NAME...`."""
    name = module.split(".")[1]
    return next(height for height, names in enumerate(FLOORS) if name in names)


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
    hidden = [
        f"{name_of(p)}: {n}"
        for p in files()
        for n, inside in imports(p)
        if inside
        and n.split(".")[0] == "advjax"
        and "advjax.cli" not in name_of(p)  # a wrong flag need not wait for JAX
    ]
    assert hidden == []
    light = {n.split(".")[0] for p in files() for n, inside in imports(p) if inside} - HEAVY
    assert light <= {"importlib"}, light


def test_no_circle_within_a_floor():
    """Modules of one package import each other in one direction."""
    graph = {name_of(p): {n for n, _ in imports(p) if n.startswith("advjax.")} for p in files()}
    known = set(graph)

    def resolve(name):
        return name if name in known else name.rpartition(".")[0]

    edges = {a: {resolve(b) for b in bs if resolve(b) in known and resolve(b) != a} for a, bs in graph.items()}
    # A package's __init__ imports its members; they import each other, not it.
    packages = {p for p in known if any(q.startswith(p + ".") for q in known)}
    edges = {a: {b for b in bs if not (b in packages and a.startswith(b + "."))} for a, bs in edges.items()}
    done, path = set(), []

    def visit(node):
        assert node not in path, " -> ".join([*path[path.index(node) :], node])
        if node not in done:
            path.append(node)
            for other in sorted(edges[node]):
                visit(other)
            path.pop()
            done.add(node)

    for node in sorted(known):
        visit(node)
