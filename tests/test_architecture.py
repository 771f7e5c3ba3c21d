"""The gates of the architecture: wing order, private names, frameworks, class sizes, and the names of each package.

A gate reads sources by path, `{"really/data/x.py": "..."}`, and returns its violations as sentences. Every import
counts: at module level, in a function, under `if TYPE_CHECKING`, in a stub, and the Python imports of a `.pyx` file.
`from m import x` reaches the module `m.x` if there is one, and otherwise `m` itself. So `from really.replay import
ReplayBuffer` reaches `really/replay/__init__.py`: a module of that wing that does so closes an import circle. The
`__init__` that Python runs by itself before it imports a module of a package does not count.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.test_style import code_line_numbers

ROOT = Path(__file__).parents[1]
# A wing imports only wings of the lines before its own.
STEPS = (
    ("errors",),
    ("_utils", "_ray"),
    ("data", "metrics"),
    ("replay", "envs", "policies"),
    ("checkpoints",),
    ("agents", "collectors", "service", "evaluation"),
    ("manager",),
    ("learners", "models", "utils", "__init__"),
    ("cli",),
    ("__main__",),
)
STEP_OF = {wing: step for step, wings in enumerate(STEPS) for wing in wings}
# The folders of the compiled modules, which are in the wing `replay` unless they are named here.
EXTENSION_FOLDERS = {"_step": "really/_utils", "_locks": "really/_utils", "_layers": "really/policies"}
RAY = ("really/_ray/", "really/collectors/ray_fleet.py", "really/service/")
FRAMEWORKS = {"tensorflow", "keras", "tf_keras", "torch", "jax", "jaxlib", "flax"}
FRAMEWORK_WINGS = ("really/agents/", "really/learners/")
ARROW_WINGS = ("really/data/", "really/replay/")
CLASS = 250
# The methods of a NamedTuple: public, and with an underscore only to keep clear of field names.
PUBLIC_UNDERSCORE = {"_asdict", "_fields", "_make", "_replace"}
# Private names on objects of other packages, where their public API has no way to the same thing.
FOREIGN = {
    ("really/agents/frameworks/keras_copies.py", "_var_key"): "how a Keras optimizer tells variables apart",
    ("really/checkpoints/variables.py", "_trainable_variables"): "the variables that a Keras optimizer was built for",
    ("really/metrics/aggregator.py", "_resource"): "the handle of a TensorFlow summary writer",
    ("really/replay/tf_datasets.py", "_really"): "strong references that live as long as a TensorFlow dataset",
}
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)

Sources = Mapping[str, str]


class Import(NamedTuple):
    """One imported name: `from module import name`, or `import module` with no name."""

    module: str
    name: str | None
    in_function: bool


def module_of(path: str) -> str:
    """Dotted name of the module that a file holds."""
    stem, _, suffix = path.rpartition(".")
    if suffix == "pyx":
        name = stem.rpartition("/")[2]
        stem = f"{EXTENSION_FOLDERS.get(name, 'really/replay')}/{name}"
    return stem.removesuffix("/__init__").replace("/", ".")


def wing_of(module: str) -> str:
    """Name of the wing, or of the top-level module, that holds a module of `really`."""
    return [*module.split("."), "__init__"][1]


def package_of(path: str) -> str:
    """Dotted name of the package from which the relative imports of a file start."""
    return module_of(path) if path.endswith("/__init__.py") else module_of(path).rpartition(".")[0]


def tree_of(path: str, source: str) -> ast.Module:
    """Syntax tree of a file; of a Cython file, only its Python imports, each as deep in a function as it stands."""
    if not path.endswith(".pyx"):
        return ast.parse(source)
    statements = re.findall(r"^([ \t]*)((?:from\s+[\w.]+\s+)?import\s+(?:\([^)]*\)|[^\n(]+)$)", source, re.MULTILINE)
    lines = [f"def f():\n{textwrap.indent(text, ' ')}" if indent else text for indent, text in statements]
    return ast.parse("\n".join(line for line in lines if parses(line)))


def parses(source: str) -> bool:
    """Whether the text is Python; a docstring's line that begins with "import" is not."""
    try:
        ast.parse(source)
    except SyntaxError:
        return False
    return True


def imports(path: str, source: str) -> Iterator[Import]:
    """Every import of a file, relative ones made absolute."""

    def visit(node: ast.AST, in_function: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, None, in_function) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                parts = package_of(path).split(".")
                module = ".".join([*parts[: len(parts) - node.level + 1], *module.split(".")]).rstrip(".")
            yield from (Import(module, alias.name, in_function) for alias in node.names)
        within = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, within)

    return visit(tree_of(path, source), False)


def reached(sources: Sources) -> dict[str, set[tuple[str, str]]]:
    """For each module of `really`, the modules that it imports, each with the file that holds the import."""
    modules = {module_of(path) for path in sources}
    found: dict[str, set[tuple[str, str]]] = {module: set() for module in modules}
    for path, source in sources.items():
        for module, name, _ in imports(path, source):
            if module.split(".")[0] == "really":
                submodule = f"{module}.{name}"
                found[module_of(path)].add((submodule if submodule in modules else module, path))
    return found


def order_violations(sources: Sources) -> list[str]:
    """Imports of a wing that is not before the importing one, and modules that are in no wing."""
    found = [f"{path}: is in no wing" for path in sources if wing_of(module_of(path)) not in STEP_OF]
    for module, targets in reached(sources).items():
        wing = wing_of(module)
        for target, path in sorted(targets):
            other = wing_of(target)
            if other not in STEP_OF:
                found.append(f"{path}: imports {target}, which is in no wing")
            elif wing in STEP_OF and other != wing and STEP_OF[other] >= STEP_OF[wing]:
                place = "a later wing" if STEP_OF[other] > STEP_OF[wing] else "a wing on the same step"
                found.append(f"{path}: imports {target}, {place}")
    return found


def circle_violations(sources: Sources) -> list[str]:
    """Import circles: for each module that is in no circle found before, the shortest through it."""
    targets = {module: {target for target, _ in found} for module, found in reached(sources).items()}
    found, done = [], set()
    for module in sorted(targets):
        circle = [] if module in done else shortest_circle(module, targets)
        if circle:
            done |= set(circle)
            found.append(f"import circle: {' -> '.join(circle)}")
    return found


def shortest_circle(start: str, targets: Mapping[str, Collection[str]]) -> list[str]:
    """The shortest way from a module along its imports back to it; empty if there is none."""
    ways, seen = [[start]], set()
    for way in ways:
        for target in sorted(targets.get(way[-1], ())):
            if target == start:
                return [*way, start]
            if target not in seen:
                seen.add(target)
                ways.append([*way, target])
    return []


def is_private(name: str) -> bool:
    """Whether the name is private to a module or class; `__dunder__` names are not."""
    return name.startswith("_") and not name.endswith("__") and name not in PUBLIC_UNDERSCORE


def is_self(node: ast.expr) -> bool:
    """Whether the expression is `self`, `cls` or `super()`."""
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id == "super"
    return isinstance(node, ast.Name) and node.id in {"self", "cls"}


def defined_names(tree: ast.Module) -> set[str]:
    """Names that a module defines: functions, classes, variables, fields, attributes of `self`."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, DEFINITIONS):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_self(node.value):
            found.add(node.attr)
    return found


def foreign_names(tree: ast.Module) -> set[str]:
    """Names under which a module imports packages other than `really`: their private parts are no matter of ours."""
    aliases = [alias for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    return {(alias.asname or alias.name).split(".")[0] for alias in aliases if alias.name.split(".")[0] != "really"}


def private_violations(sources: Sources) -> list[str]:
    """Private names of one module that another uses: `x._name`, `getattr(x, "_name")`, `from m import _name`."""
    found = []
    modules = {module_of(path) for path in sources}
    for path, source in sources.items():
        tree = tree_of(path, source)
        own, foreign = defined_names(tree), foreign_names(tree)
        for node in ast.walk(tree):
            name = private_attribute(node, foreign)
            if name and name not in own and (path, name) not in FOREIGN:
                found.append(f"{path}:{node.lineno}: reaches the private name {name} of another module")
        for module, name, _ in imports(path, source):
            if module.split(".")[0] == "really" and name and is_private(name) and f"{module}.{name}" not in modules:
                found.append(f"{path}: imports the private name {name} of {module}")
    return found


def private_attribute(node: ast.AST, foreign: Collection[str]) -> str | None:
    """The private attribute that an expression takes of something other than `self`, or None."""
    name, owner = None, None
    if isinstance(node, ast.Attribute):
        name, owner = node.attr, node.value
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"getattr", "setattr"}:
        owner, text = node.args[0], node.args[1] if len(node.args) > 1 else None
        name = text.value if isinstance(text, ast.Constant) and isinstance(text.value, str) else None
    if name is None or owner is None or not is_private(name) or is_self(owner):
        return None
    return None if isinstance(owner, ast.Name) and owner.id in foreign else name


def framework_violations(sources: Sources) -> list[str]:
    """Ray, Arrow and the learning frameworks imported where they must not be."""
    found = []
    for path, source in sources.items():
        for module, _, in_function in imports(path, source):
            package = module.split(".")[0]
            if package == "ray" and not path.startswith(RAY):
                found.append(f"{path}: imports {module}; Ray belongs to _ray, collectors/ray_fleet and service")
            if package == "pyarrow" and not path.startswith(ARROW_WINGS) and not path.endswith(".pyx"):
                found.append(f"{path}: imports {module}; Arrow belongs to data and replay")
            if package in FRAMEWORKS and not in_function and not path.startswith(FRAMEWORK_WINGS):
                found.append(f"{path}: imports {module} at module level; only agents and learners do that")
    return sorted(set(found))


def class_violations(sources: Sources) -> list[str]:
    """Classes with too many lines of code."""
    found = []
    for path, source in sources.items():
        if not path.endswith(".py"):
            continue
        lines = code_line_numbers(source)
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ClassDef):
                size = len(lines & set(range(node.lineno, node.end_lineno + 1)))
                if size > CLASS:
                    found.append(f"{path}: class {node.name} has {size} lines of code, the limit is {CLASS}")
    return found


def statements(node: ast.Module | ast.If | ast.With) -> Iterator[ast.stmt]:
    """The statements of a module, those within its `if` and `with` statements included."""
    for part in [*node.body, *getattr(node, "orelse", ())]:
        yield part
        if isinstance(part, ast.If | ast.With):
            yield from statements(part)


def bound_names(source: str) -> set[str]:
    """Public names that a module binds: imports, assignments, functions, classes, also under `if` and `with`."""
    found: set[str] = set()
    for node in statements(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom) and getattr(node, "module", None) != "__future__":
            found |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, DEFINITIONS):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            stores = (part for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store))
            found |= {name.id for name in stores if name.id != "__all__"}
    return {name for name in found if not name.startswith("_")}


def listed_names(source: str) -> list[str]:
    """Names in `__all__`; empty if a module has none."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return list(ast.literal_eval(node.value))
    return []


def door_violations(sources: Sources) -> list[str]:
    """Packages whose `__all__` is not what they bind publicly, and private packages that bind anything."""
    found = []
    for path, source in sources.items():
        if not path.endswith("/__init__.py") and path != "really/utils.py":
            continue
        listed, bound = listed_names(source), bound_names(source)
        if any(part.startswith("_") for part in module_of(path).split(".")):
            found += [f"{path}: binds {name}, but the package is private" for name in sorted(bound)]
            continue
        found += [f"{path}: binds {name}, which __all__ does not list" for name in sorted(bound - set(listed))]
        found += [f"{path}: __all__ lists {name}, which it does not bind" for name in sorted(set(listed) - bound)]
        if len(listed) > len(set(listed)):
            found.append(f"{path}: __all__ lists a name twice")
    return found


GATES = {
    "order": order_violations,
    "circles": circle_violations,
    "private": private_violations,
    "frameworks": framework_violations,
    "classes": class_violations,
    "doors": door_violations,
}


def sources_of(root: Path) -> dict[str, str]:
    """Sources of the package by path: its Python files, its stubs, and the Cython modules."""
    paths = [*root.glob("really/**/*.py"), *root.glob("really/**/*.pyi"), *root.glob("csrc/*.pyx")]
    return {path.relative_to(root).as_posix(): path.read_text() for path in sorted(paths)}


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    found = sources_of(ROOT)
    assert {"csrc/_ring.pyx", "csrc/_step.pyx", "really/replay/_ring.pyi", "really/replay/buffer.py"} <= set(found)
    return found


@pytest.mark.parametrize("gate", GATES)
def test_really_keeps_the_architecture(gate: str, sources: dict[str, str]) -> None:
    assert GATES[gate](sources) == []


LATER = "really/data/x.py: imports really.replay.y, a later wing"
METHODS = "".join(f"    def f{number}(self):\n        return {number}\n" for number in range(125))


@pytest.mark.parametrize(
    ("gate", "broken", "message"),
    [
        ("order", {"really/data/x.py": "import really.replay.y"}, LATER),
        ("order", {"really/data/x.py": "def f():\n    from really.replay.y import z\n"}, LATER),
        ("order", {"really/data/x.py": "if TYPE_CHECKING:\n    from really.replay.y import Z\n"}, LATER),
        ("order", {"really/data/x.py": "from ..replay import y"}, LATER),
        ("order", {"really/data/x.py": "from really import f"}, "really/data/x.py: imports really, a later wing"),
        (
            "order",
            {"csrc/_ring.pyx": "cdef class R:\n    def f(self):\n        from really.agents.y import (\n    z)\n"},
            "csrc/_ring.pyx: imports really.agents.y, a later wing",
        ),
        (
            "order",
            {"really/replay/_ring.pyi": "from really.agents import y"},
            "really/replay/_ring.pyi: imports really.agents, a later wing",
        ),
        (
            "order",
            {"really/metrics/x.py": "from really.data.z import f"},
            "really/metrics/x.py: imports really.data.z, a wing on the same step",
        ),
        ("order", {"really/attic.py": ""}, "really/attic.py: is in no wing"),
        (
            "circles",
            {"really/data/x.py": "from .z import f", "really/data/z.py": "def g():\n    from really.data import x\n"},
            "import circle: really.data.x -> really.data.z -> really.data.x",
        ),
        (
            "circles",
            {"csrc/_ring.pyx": "def f():\n    import really.replay.y\n", "really/replay/y.py": "from . import _ring"},
            "import circle: really.replay._ring -> really.replay.y -> really.replay._ring",
        ),
        (
            "circles",
            {
                "really/replay/__init__.py": "from really.replay.y import Y\n__all__ = ['Y']",
                "really/replay/y.py": "from . import Y",
            },
            "import circle: really.replay -> really.replay.y -> really.replay",
        ),
        (
            "private",
            {"really/data/x.py": "def f(buffer):\n    return buffer._ring"},
            "really/data/x.py:2: reaches the private name _ring of another module",
        ),
        (
            "private",
            {"really/data/x.py": 'def f(buffer):\n    return getattr(buffer, "_ring")'},
            "really/data/x.py:2: reaches the private name _ring of another module",
        ),
        (
            "private",
            {"really/data/x.py": "from really.data.z import _f"},
            "really/data/x.py: imports the private name _f of really.data.z",
        ),
        (
            "frameworks",
            {"really/collectors/fleet.py": "def f():\n    import ray.util\n"},
            "really/collectors/fleet.py: imports ray.util; Ray belongs to _ray, collectors/ray_fleet and service",
        ),
        (
            "frameworks",
            {"really/policies/x.py": "import keras"},
            "really/policies/x.py: imports keras at module level; only agents and learners do that",
        ),
        (
            "frameworks",
            {"really/manager/x.py": "def f():\n    from pyarrow import ipc\n"},
            "really/manager/x.py: imports pyarrow; Arrow belongs to data and replay",
        ),
        (
            "classes",
            {"really/data/x.py": f"class Big:\n{METHODS}"},
            "really/data/x.py: class Big has 251 lines of code, the limit is 250",
        ),
        (
            "doors",
            {"really/data/__init__.py": "from really.data.z import f\n__all__ = []"},
            "really/data/__init__.py: binds f, which __all__ does not list",
        ),
        (
            "doors",
            {"really/data/__init__.py": '__all__ = ["f"]'},
            "really/data/__init__.py: __all__ lists f, which it does not bind",
        ),
        (
            "doors",
            {"really/_utils/__init__.py": "from really._utils.z import f"},
            "really/_utils/__init__.py: binds f, but the package is private",
        ),
    ],
)
def test_the_gate_is_seen_red(gate: str, broken: dict[str, str], message: str) -> None:
    sources = {"really/replay/y.py": "", "really/data/z.py": "", **broken}
    assert GATES[gate](sources) == [message]
    assert [name for name, other in GATES.items() if name != gate and other(sources)] == []


def test_what_is_allowed_passes() -> None:
    sources = {
        "really/__init__.py": "from really.replay.buffer import Buffer\n__all__ = ['Buffer']",
        "really/errors.py": "",
        "really/data/schema.py": "import pyarrow\nfrom really.errors import Error\nfrom really import errors",
        "really/replay/buffer.py": (
            "import os\n"
            "from really.data.schema import Spec\n"
            "class Buffer:\n"
            "    def __init__(self, other):\n"
            "        self._rows = other._rows\n"
            "        super()._begin(os._exit, other._replace(rows=0), other.__class__)\n"
        ),
        "really/collectors/ray_fleet.py": "import ray",
        "really/checkpoints/x.py": "def f():\n    import keras\n",
        "really/learners/x.py": "import tensorflow",
        "csrc/_ring.pyx": '"""\nimport it with care\n"""\nfrom really.x cimport y\nimport really.data.schema\n',
    }
    assert {name: gate(sources) for name, gate in GATES.items()} == {name: [] for name in GATES}


def test_foreign_private_names_are_listed_only_while_used(sources: dict[str, str]) -> None:
    assert [(path, name) for path, name in FOREIGN if name not in sources[path]] == []
