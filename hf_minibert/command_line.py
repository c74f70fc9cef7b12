"""From a command line to a dataclass: flags, a YAML or JSON file in their place, help from field docstrings.

Every script is ``main(arguments) -> int`` and ends with ``run(Arguments, main)``.
"""

import ast
import difflib
import inspect
import json
import logging
import shlex
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml
from transformers.hf_argparser import HfArgumentParser, string_to_bool

from hf_minibert.errors import UserError

Arguments = TypeVar("Arguments")


def field_docstrings(arguments_class: type[Any]) -> dict[str, str]:
    """The string literal under each field of a dataclass (PEP 257's attribute docstrings), by field name."""
    docstrings: dict[str, str] = {}
    for parent in reversed(arguments_class.__mro__[:-1]):
        tree = ast.parse(textwrap.dedent(inspect.getsource(parent)))
        assert isinstance(tree.body[0], ast.ClassDef)
        body = tree.body[0].body
        for field, text in zip(body, body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
            ):
                docstrings[field.target.id] = " ".join(str(text.value.value).split())
    return docstrings


class _Parser(HfArgumentParser):
    """HfArgumentParser whose help comes from docstrings and whose errors are one line with a suggestion."""

    def __init__(self, arguments_class: Any) -> None:
        self._help = field_docstrings(arguments_class)
        description = (inspect.getdoc(arguments_class) or "") + (
            "\n\nA YAML or JSON file with the same names may stand first; flags override it."
        )
        super().__init__([arguments_class], description=description, allow_abbrev=False)

    def add_argument(self, *names: str, **options: Any) -> Any:
        docstring = self._help.get(names[0].removeprefix("--").removeprefix("no_"))
        if docstring is not None and "help" not in options:
            options["help"] = docstring.replace("%", "%%")
        if options.get("type") is string_to_bool:  # also where the default is neither yes nor no
            options |= {"nargs": "?", "const": True}
        return super().add_argument(*names, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")

    def reject(self, argument: str) -> NoReturn:
        flag = argument.split("=")[0]
        close = difflib.get_close_matches(flag, self._option_string_actions, n=1)
        self.error(f"unknown argument {flag}" + (f"; did you mean {close[0]}?" if close else "; see --help"))


def _read_settings(path: Path) -> dict[str, Any]:
    """A YAML or JSON mapping."""
    try:
        text = path.read_text(encoding="utf-8")
        settings = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, yaml.YAMLError) as error:
        raise UserError(f"cannot read the settings file {path}: {' '.join(str(error).split())}") from error
    if not isinstance(settings, dict):
        raise UserError(f"the settings file {path} must hold a mapping of names to values")
    return settings


def _flags(settings: Mapping[str, Any], names: set[str], where: str) -> list[str]:
    """Settings as the flags that they stand for."""
    flags: list[str] = []
    for name, value in settings.items():
        if name not in names:
            close = difflib.get_close_matches(str(name), names, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else "; see --help for the names"
            raise UserError(f"unknown key {name!r} in {where}{hint}")
        if value is None:
            continue
        values = value if isinstance(value, list) else [value]
        flags += [f"--{name}", *(str(item) for item in values)]
    return flags


def parse(
    arguments_class: type[Arguments],
    argv: Sequence[str] | None = None,
    *,
    defaults: Mapping[str, Any] | None = None,
) -> Arguments:
    """Read ``argv`` (default, the process's own) into one instance of a dataclass; ``defaults`` for what it leaves out.

    Raises:
        UserError: the settings file or a value is not acceptable.
        SystemExit: status 2 for an unknown or malformed flag, 0 after ``--help``.
    """
    parser = _Parser(arguments_class)
    flags = list(sys.argv[1:] if argv is None else argv)
    names = set(field_docstrings(arguments_class))
    if flags and flags[0].endswith((".yaml", ".yml", ".json")):
        flags = _flags(_read_settings(Path(flags[0])), names, flags[0]) + flags[1:]
    flags = _flags(defaults or {}, names, "the saved arguments") + flags
    arguments, unknown = parser.parse_args_into_dataclasses(
        flags, look_for_args_file=False, return_remaining_strings=True
    )
    if unknown:
        parser.reject(unknown[0])
    assert isinstance(arguments, arguments_class)
    return arguments


def invocation() -> str:
    """The command of this process as others would type it: of paths to other places of this machine, the end."""
    script = Path(sys.argv[0])
    words = [
        "/".join(Path(word).parts[-2:]) if Path(word).is_absolute() or ".." in Path(word).parts else word
        for word in sys.argv[1:]
    ]
    return f"python {script.parent.name}/{script.name} {shlex.join(words)}".strip()


def run(arguments_class: type[Arguments], main: Callable[[Arguments], int]) -> NoReturn:
    """Parse, call ``main`` and exit with its status; a user's mistake ends in one line and status 2."""
    logger = logging.getLogger("hf_minibert")
    if not logger.handlers:
        logger.addHandler(logging.StreamHandler())
        logger.setLevel(logging.INFO)
    try:
        sys.exit(main(parse(arguments_class)))
    except (UserError, OSError) as error:
        message = " ".join(str(error).split())
        sys.stderr.write(f"{Path(sys.argv[0]).name}: error: {message}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
