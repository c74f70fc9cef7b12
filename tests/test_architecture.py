"""The rules that the folders follow, read from the source."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import hf_minibert
from hf_minibert.cli import VERBS
from hf_minibert.evaluation.suites import SUITES
from hf_minibert.export.targets import TARGETS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "hf_minibert"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
# What each part may import, besides itself. Parts that are files have no dot below them.
ALLOWED = {
    "errors": set(),
    "signals": set(),
    "assets": {"output_folder", "errors"},
    "files": {"errors"},
    "exchange": {"files", "errors"},
    "markdown": set(),
    "card_parts": {"files"},
    "output_folder": {"card_parts", "exchange", "files", "signals", "errors"},
    "command_line": {"signals", "errors"},
    "verbs": {
        "command_line",
        "certificate",
        "data",
        "pretraining",
        "finetuning",
        "evaluation",
        "export",
        "hub",
        "tokenization",
    }
    | {"demo", "document_encoder", "runs", "assets", "files", "output_folder", "markdown", "errors"},
    "demo": {"models", "assets", "files", "output_folder", "errors"},
    "cli": {"command_line", "verbs"},
    "__main__": {"cli"},
    "tokenization": {"assets", "errors"},
    "document_encoder": {"tokenization"},
    "models": set(),
    # of the models, which label is not predicted
    "data": {"models", "tokenization", "document_encoder", "files", "signals", "errors"},
    "presets": {"models", "assets", "errors"},
    "export": {
        "data",
        "models",
        "tokenization",
        "assets",
        "files",
        "output_folder",
        "card_parts",
        "markdown",
        "errors",
    },
    "hub": {"models", "runs", "card_parts", "assets", "exchange", "files", "markdown", "errors"},
    "evaluation": {"data", "models", "presets", "tokenization", "runs", "assets", "files", "output_folder", "errors"},
    "runs": {"files", "signals", "errors"},
    "certificate": {"export", "hub", "models", "presets", "runs", "tokenization", "files", "errors"},
    "pretraining": {
        "certificate",
        "command_line",
        "data",
        "models",
        "tokenization",
        "presets",
        "evaluation",
        "hub",
        "runs",
    }
    | {"card_parts", "files", "output_folder", "errors"},
    "finetuning": {
        "data",
        "models",
        "tokenization",
        "document_encoder",
        "presets",
        "evaluation",
        "export",
        "hub",
        "runs",
    }
    | {"assets", "files", "output_folder", "errors"},
}


@cache
def imports(path: Path, *, in_functions: bool = True) -> list[tuple[str, int, list[str]]]:
    """Module, level of dots, and names of every import in a file, also of those inside functions unless told."""
    found, tree = [], ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    later = set() if in_functions else {node for function in functions for node in ast.walk(function)}
    for node in ast.walk(tree):
        if node in later:
            continue
        if isinstance(node, ast.Import):
            found += [(name.name, 0, []) for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.module or "", node.level, [name.name for name in node.names]))
    return found


def own_imports(path: Path) -> set[str]:
    """The modules of this package that a file imports."""
    found = set()
    for module, level, names in imports(path):
        if level:
            folder = ".".join(path.relative_to(ROOT).parts[:-1])
            module = f"{folder}.{module}".rstrip(".")
        if module.split(".")[0] == "hf_minibert":
            inside = {f"{module}.{name}" for name in names} & set(MODULES)
            found |= inside or {module}
    return found


def part(module: str) -> str:
    return (module.split(".") + [""])[1]


def stands_on(module: str) -> set[str]:
    """The parts that a file imports; the package itself is a name for the models, which are all that it has."""
    return {part(imported) or "models" for imported in own_imports(MODULES[module])}


def test_every_part_has_a_rule():
    assert {part(module) for module in MODULES} - {""} == set(ALLOWED)


@pytest.mark.parametrize("module", [module for module in MODULES if part(module)])
def test_imports_point_one_way(module):
    assert stands_on(module) <= ALLOWED[part(module)] | {part(module)}


def test_the_package_itself_has_models_and_functions_that_are_loaded_when_asked_for():
    assert stands_on("hf_minibert") == {"models"} | {part(module) for module in hf_minibert.FUNCTIONS.values()}
    for name, module in hf_minibert.FUNCTIONS.items():
        assert getattr(hf_minibert, name) is vars(importlib.import_module(module))[name]
    code = f"import sys, hf_minibert; print({set(hf_minibert.FUNCTIONS.values())} & set(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout == "set()\n"


def test_rules_point_one_way():
    """No circle: each part can be put behind all that it may import."""
    remaining = dict(ALLOWED)
    while remaining:
        free = [name for name, needs in remaining.items() if not needs & set(remaining)]
        assert free, f"a circle among {sorted(remaining)}"
        for name in free:
            del remaining[name]


def test_files_within_a_part_import_in_no_circle():
    edges = {module: own_imports(path) - {module} for module, path in MODULES.items() if part(module)}
    while edges:
        free = [module for module, needs in edges.items() if not needs & set(edges)]
        assert free, f"a circle among {sorted(edges)}"
        for module in free:
            del edges[module]


@pytest.mark.parametrize("path", sorted((PACKAGE / "models").glob("[a-z]*.py")), ids=lambda path: path.name)
def test_models_import_siblings_only_with_one_dot_and_one_name(path):
    """The Hub's copier reads them with a regular expression."""
    for module, level, _ in imports(path):
        assert level <= 1
        assert module.split(".")[0] != "hf_minibert"
        if level:
            assert re.fullmatch(r"\w+", module)
            assert (path.parent / f"{module}.py").exists()
    docstrings = [
        ast.get_docstring(node) or ""
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
    ]
    assert not any(re.search(r"^\s*(from|import)\s+\.", text, flags=re.MULTILINE) for text in docstrings)


def test_models_are_flat():
    assert not [path for path in (PACKAGE / "models").rglob("*.py") if path.parent != PACKAGE / "models"]


@pytest.mark.parametrize("module", [module for module in MODULES if not module.startswith("hf_minibert.models.")])
def test_imports_are_absolute_outside_models(module):
    assert all(level == 0 for _, level, _ in imports(MODULES[module]))


def test_nobody_imports_scripts():
    """`evaluate` is the library of that name: a script takes its own folder off the path."""
    scripts = {path.stem for path in (ROOT / "scripts").glob("*.py")} - {"evaluate"}
    assert scripts
    for path in [*MODULES.values(), *(ROOT / "scripts").glob("*.py")]:
        for module, level, _ in imports(path):
            assert level or module.split(".")[0] not in {"scripts", "benchmarks", "tests", *scripts}, path


def test_every_file_is_used():
    """By another file, a script or a benchmark, as a verb or as a target: what only tests import is not needed."""
    users = [*MODULES.values(), *(ROOT / "scripts").glob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
    used = {module for path in users for module in own_imports(path)}
    used |= {f"hf_minibert.verbs.{verb.replace('-', '_')}" for verb in VERBS} | {"hf_minibert.__main__"}
    used |= {"hf_minibert.evaluation.lm_eval_model"}  # a command of its own
    used |= {target.module for target in TARGETS.values()} | {suite.module for suite in SUITES.values()}
    modules = {module for module, path in MODULES.items() if path.name != "__init__.py"}
    assert not modules - used


def test_every_public_name_is_there():
    assert hf_minibert.__all__ == sorted(hf_minibert.__all__)
    for name in hf_minibert.__all__:
        assert vars(hf_minibert)[name].__name__ == name


@pytest.mark.parametrize("module", MODULES)
def test_every_file_imports_and_says_what_it_is(module):
    documentation = importlib.import_module(module).__doc__ or ""
    assert documentation.strip().splitlines()[0].endswith((".", ":"))


def test_the_version_is_one():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert metadata.version("hf_minibert") == project["version"]


def test_what_is_imported_is_required():
    """By the package itself; by an extra, if functions alone import it. But for what only a launcher asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]

    def required(lines):
        return {re.match(r"[\w-]+", line)[0].lower().replace("-", "_") for line in lines}

    def imported(*, in_functions):
        names = {"yaml": "pyyaml", "sklearn": "scikit_learn"}
        return {
            names.get(top, top)
            for path in [*MODULES.values(), *(ROOT / "scripts").glob("*.py")]
            for module, level, _ in imports(path, in_functions=in_functions)
            if not level and (top := module.split(".")[0]) not in {"hf_minibert", *sys.stdlib_module_names}
        }

    base = required(project["dependencies"])
    users = required(line for name in extras.keys() - {"test", "check", "clients"} for line in extras[name])
    assert imported(in_functions=False) <= base
    assert imported(in_functions=True) - base - users == {"deepspeed"}


def test_an_extra_names_another_in_place_of_its_packages():
    """So that each bound stands once; `all` is what users may want, and leaves out what only developers do."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {name: [Requirement(line) for line in lines] for name, lines in project["optional-dependencies"].items()}
    packages = [each.name for lines in extras.values() for each in lines if each.name != "hf_minibert"]
    assert len(packages) == len(set(packages))
    (everything,) = extras["all"]
    assert everything.extras == extras.keys() - {"all", "test", "clients", "check"}
    assert all(each.extras <= extras.keys() for lines in extras.values() for each in lines if each.extras)
