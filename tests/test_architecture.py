"""The walls of the house, read off the source: who may import whom, and who may compute.

Each rule is a generator of complaints about one module. It is run over every module of the project,
and over a breach written for it, so that a rule which no longer sees anything fails as well.
"""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import minicnn_kernels as kernels

ROOT = Path(__file__).parent.parent

# From the foundation up. A module imports from its own package and from the lines above its own; the core
# is one piece. What is not named here fails: a new package is given its place when it is made.
CORE = ("minicnn.scope", "minicnn.grad_mode", "minicnn.tensor", "minicnn.function", "minicnn.random")
LAYERS = (
    ("minicnn_kernels",),
    CORE,
    ("minicnn.functions", "minicnn.creation"),
    ("minicnn.testing",),
    ("minicnn.nn", "minicnn.data", "minicnn.serialization"),
    ("minicnn.optim", "minicnn.models", "minicnn.graph"),
    ("minicnn.viz",),
    ("minicnn",),  # the public names
    ("minicnn.training",),
    ("minicnn.compress",),
    ("minicnn.deploy",),
    ("minicnn.cli",),
    ("minicnn.__main__",),
)
NUMBA_HOMES = ("minicnn_kernels.cpu", "minicnn_kernels.cuda", "minicnn_kernels.ladder")
DEPENDENCIES = {"numpy", "numba", "llvmlite", "scipy"}
OPTIONAL = {"matplotlib", "tqdm", "PIL", "joblib"}
IMPORTED_WHERE_USED = OPTIONAL | {"numba", "llvmlite", "scipy"}
UNSAFE_MODULES = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle"}
UNSAFE_FUNCTIONS = {"joblib.load", "joblib.dump", "joblib.Memory"}  # they write and read pickles
UNSAFE_CALLS = {"eval", "exec"}

# What may be asked of an array without computing with it.
ARRAY_QUERIES = {"astype", "item", "tolist", "tobytes", "view"}
NUMPY_QUERIES = {"asarray", "array", "may_share_memory", "shares_memory", "shape", "ndim", "isscalar"}


class Module(NamedTuple):
    """A module's dotted name and its syntax tree."""

    name: str
    tree: ast.Module
    is_package: bool = False

    def imports(self) -> Iterator[tuple[str, ast.stmt]]:
        """Dotted names that are imported anywhere in the module, and where."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((alias.name, node) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = node.module or ""
                if node.level:
                    parents = self.name.split(".")
                    parents = parents[: len(parents) - node.level + self.is_package]
                    base = ".".join([*parents, base]).rstrip(".")
                yield from ((f"{base}.{alias.name}", node) for alias in node.names)

    def top_level(self) -> Iterator[ast.AST]:
        """Every node that runs when the module is imported."""
        waiting: list[ast.AST] = [self.tree]
        while waiting:
            node = waiting.pop()
            yield node
            if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
                waiting.extend(node.orelse)
            elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                waiting.extend(ast.iter_child_nodes(node))


def inside(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def place(name: str) -> tuple[int, str] | None:
    """The line of LAYERS and the package in it that `name` belongs to; None for what is not ours."""
    if not inside(name, "minicnn") and not inside(name, "minicnn_kernels"):
        return None
    places = {package: (rank, package) for rank, packages in enumerate(LAYERS) for package in packages}
    while name not in places:
        name = name.rpartition(".")[0]
    return places[name]


def kernels_stand_alone(module: Module) -> Iterator[str]:
    if inside(module.name, "minicnn_kernels"):
        for name, node in module.imports():
            if inside(name, "minicnn"):
                yield f"line {node.lineno}: a kernel knows nothing of the engine, but imports {name}"


def numba_stays_at_home(module: Module) -> Iterator[str]:
    if not any(inside(module.name, home) for home in NUMBA_HOMES):
        for name, node in module.imports():
            if name.split(".")[0] in ("numba", "llvmlite"):
                yield f"line {node.lineno}: {name} is imported outside of {', '.join(NUMBA_HOMES)}"


def imports_point_downward(module: Module) -> Iterator[str]:
    own = place(module.name)
    for name, node in module.imports():
        other = place(name)
        if own is None or other is None or other == own or {own[1], other[1]} <= set(CORE):
            continue
        if other[0] >= own[0]:
            yield f"line {node.lineno}: {module.name} imports {name}, which is not below it"


def every_package_has_its_place(module: Module) -> Iterator[str]:
    known = {package for packages in LAYERS for package in packages}
    if inside(module.name, "minicnn") and ".".join(module.name.split(".")[:2]) not in known:
        yield f"{module.name} stands in no line of LAYERS"


def only_known_dependencies(module: Module) -> Iterator[str]:
    allowed = DEPENDENCIES | OPTIONAL | {"minicnn", "minicnn_kernels"} | sys.stdlib_module_names
    for name, node in module.imports():
        if name.split(".")[0] not in allowed:
            yield f"line {node.lineno}: {name} is no dependency of this project"


def slow_imports_wait_until_used(module: Module) -> Iterator[str]:
    if any(inside(module.name, home) for home in NUMBA_HOMES):
        return
    for node in module.top_level():
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        for name in names:
            if name.split(".")[0] in IMPORTED_WHERE_USED:
                yield f"line {node.lineno}: {name} is imported with the module, not where it is used"


def nothing_unsafe(module: Module) -> Iterator[str]:
    for name, node in module.imports():
        if name.split(".")[0] in UNSAFE_MODULES or name in UNSAFE_FUNCTIONS:
            yield f"line {node.lineno}: {name} runs code that a file brings along"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in UNSAFE_FUNCTIONS:
            yield f"line {node.lineno}: {ast.unparse(node)} runs code that a file brings along"
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name) and node.func.id in UNSAFE_CALLS:
            yield f"line {node.lineno}: {node.func.id}()"
        for keyword in node.keywords:
            if keyword.arg == "allow_pickle" and ast.unparse(keyword.value) != "False":
                yield f"line {node.lineno}: allow_pickle"


def no_arithmetic_on_data(module: Module) -> Iterator[str]:
    """`tensor.data` may live on a device whose arrays know no `+`: kernels compute, minicnn does not."""
    if not inside(module.name, "minicnn"):
        return
    for node in ast.walk(module.tree):
        operands: list[ast.expr] = []
        match node:
            case ast.BinOp(left=left, right=right):
                operands = [left, right]
            case ast.UnaryOp(op=ast.USub() | ast.UAdd() | ast.Invert(), operand=operand):
                operands = [operand]
            case ast.AugAssign(target=target, value=value):
                operands = [target, value]
            case ast.Compare(left=left, ops=ops, comparators=comparators):
                if not all(isinstance(op, (ast.Is, ast.IsNot)) for op in ops):
                    operands = [left, *comparators]
            case ast.Call(func=ast.Attribute(value=ast.Name(id="np"), attr=name), args=arguments):
                operands = [] if name in NUMPY_QUERIES else arguments
            case ast.Call(func=ast.Attribute(value=array, attr=name)):
                operands = [] if name in ARRAY_QUERIES else [array]
        if any(_is_data(operand) for operand in operands):
            yield f"line {node.lineno}: arithmetic on .data outside of the kernels: {ast.unparse(node)}"


def _is_data(node: ast.expr) -> bool:
    """`x.data`, or a piece of it."""
    while isinstance(node, ast.Subscript):
        node = node.value
    return isinstance(node, ast.Attribute) and node.attr in ("data", "_data")


RULES: tuple[Callable[[Module], Iterator[str]], ...] = (
    kernels_stand_alone,
    numba_stays_at_home,
    imports_point_downward,
    every_package_has_its_place,
    only_known_dependencies,
    slow_imports_wait_until_used,
    nothing_unsafe,
    no_arithmetic_on_data,
)


@pytest.fixture(scope="module")
def modules() -> list[Module]:
    found = []
    for base in (ROOT, ROOT / "kernels"):
        package = "minicnn" if base == ROOT else "minicnn_kernels"
        for path in sorted((base / package).rglob("*.py")):
            parts = path.relative_to(base).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            name = ".".join(parts[:-1] if is_package else parts)
            found.append(Module(name, ast.parse(path.read_text(encoding="utf-8"), str(path)), is_package))
    return found


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_module_keeps(rule, modules):
    complaints = [f"{module.name}, {complaint}" for module in modules for complaint in rule(module)]
    assert not complaints, "\n".join(complaints)


@pytest.mark.parametrize(
    ("rule", "name", "source"),
    [
        (kernels_stand_alone, "minicnn_kernels.cpu.conv", "def f():\n    from minicnn.tensor import Tensor"),
        (kernels_stand_alone, "minicnn_kernels.memory", "import minicnn"),
        (numba_stays_at_home, "minicnn.functions.conv", "from numba import njit"),
        (numba_stays_at_home, "minicnn_kernels.reference.conv", "def f():\n    import numba.typed"),
        (imports_point_downward, "minicnn.nn.conv", "from minicnn.training import fit"),
        (imports_point_downward, "minicnn.tensor", "def f():\n    import minicnn.functions.shape"),
        (imports_point_downward, "minicnn.functions.conv", "from ..nn import functional"),
        (imports_point_downward, "minicnn.nn.module", "from minicnn import Tensor"),
        (imports_point_downward, "minicnn.data.loader", "from minicnn import nn"),
        (every_package_has_its_place, "minicnn.utils.misc", ""),
        (only_known_dependencies, "minicnn.nn.conv", "from torch.nn import functional as F"),
        (only_known_dependencies, "minicnn_kernels.cpu.conv", "def f():\n    import jax"),
        (slow_imports_wait_until_used, "minicnn.training.pictures", "import matplotlib.pyplot as plt"),
        (slow_imports_wait_until_used, "minicnn.x", "try:\n    from tqdm import tqdm\nexcept E:\n    pass"),
        (slow_imports_wait_until_used, "minicnn_kernels.reference.x", "class A:\n    import scipy.special"),
        (nothing_unsafe, "minicnn.training.checkpoint", "import pickle"),
        (nothing_unsafe, "minicnn.training.checkpoint", "np.load(path, allow_pickle=True)"),
        (nothing_unsafe, "minicnn.compress.search", "def f():\n    from joblib import load"),
        (nothing_unsafe, "minicnn.compress.search", "joblib.load(path)"),
        (nothing_unsafe, "minicnn.cli.parser", "eval(text)"),
        (nothing_unsafe, "minicnn_kernels.cpu.conv", "def f(text):\n    exec(text)"),
        (no_arithmetic_on_data, "minicnn.optim.sgd", "p.data - 0.1 * p.grad.data"),
        (no_arithmetic_on_data, "minicnn.optim.sgd", "p.data -= step"),
        (no_arithmetic_on_data, "minicnn.optim.sgd", "p.data[0] *= 2"),
        (no_arithmetic_on_data, "minicnn.tensor", "-self._data"),
        (no_arithmetic_on_data, "minicnn.tensor", "x.data > 0"),
        (no_arithmetic_on_data, "minicnn.nn.activation", "np.exp(x.data)"),
        (no_arithmetic_on_data, "minicnn.nn.activation", "x.data.sum()"),
    ],
)
def test_a_breach_is_seen(rule, name, source):
    assert list(rule(Module(name, ast.parse(source))))


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("minicnn.nn.conv", "from minicnn.functions import conv2d\nx.data is None\nnp.asarray(x.data)"),
        (
            "minicnn.tensor",
            "def f():\n    from minicnn.function import backward\nk.add(x.data, 2)\nx.data.shape",
        ),
        ("minicnn.training.pictures", "def f():\n    import matplotlib.pyplot as plt\nmodel.eval()"),
        ("minicnn.training.checkpoint", "np.load(path, allow_pickle=False)"),
        ("minicnn_kernels.cpu.conv", "from numba import prange\nx.data + 1"),
        ("minicnn.__main__", "from minicnn.cli import main"),
    ],
)
def test_what_is_allowed_is_not_complained_about(name, source):
    module = Module(name, ast.parse(source))
    assert not [complaint for rule in RULES for complaint in rule(module)]


def test_import_minicnn_loads_nothing_slow():
    program = (
        "import sys, minicnn\n"
        f"print(*sorted({IMPORTED_WHERE_USED!r} & {{name.split('.')[0] for name in sys.modules}}))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60
    )
    assert loaded.stdout.split() == []


def test_no_package_called_kernels_can_reach_site_packages():
    """It would merge with, and on uninstall destroy, another project's package of that name."""
    assert not (ROOT / "kernels" / "__init__.py").exists()
    hatch = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    assert hatch["targets"]["wheel"]["packages"] == ["minicnn", "kernels/minicnn_kernels"]


def _public_functions(backend: str) -> dict[str, Callable]:
    return {
        name: value
        for name, value in vars(kernels.backend(backend)).items()
        if inspect.isfunction(value) and not name.startswith("_")
    }


def test_both_back_ends_speak_the_same_names_with_the_same_arguments():
    reference, cpu = _public_functions("reference"), _public_functions("cpu")
    assert reference
    assert not sorted(reference.keys() - cpu.keys()), "the cpu back end lacks these kernels"
    for name, function in reference.items():
        ours = [(p.name, p.default) for p in inspect.signature(cpu[name]).parameters.values()]
        theirs = [(p.name, p.default) for p in inspect.signature(function).parameters.values()]
        assert ours == theirs, f"{name}: cpu {ours}, reference {theirs}"
