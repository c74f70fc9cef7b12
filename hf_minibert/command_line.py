"""Read a command line into a dataclass: its fields are the flags, their docstrings the help.

Every verb is ``main(arguments) -> int``, called by ``run(Arguments, main)``.
"""

import argparse
import ast
import dataclasses
import difflib
import errno
import inspect
import io
import json
import logging
import math
import os
import shlex
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, TextIO, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from hf_minibert.errors import UserError
from hf_minibert.signals import EndedBySignals

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


def headings(arguments_class: type[Any]) -> dict[str, str]:
    """The heading of each field in the help, by field name: the docstring of the parent class that it comes from."""
    parents = [parent for parent in arguments_class.__mro__[1:-1] if parent.__doc__]
    return {name: str(parent.__doc__).rstrip(".") for parent in parents for name in parent.__annotations__}


class _Parser(argparse.ArgumentParser):
    """Flags from the fields of a dataclass, help from their docstrings, and errors of one line with a suggestion.

    (transformers' HfArgumentParser does the first, but takes most of a second to import.)
    """

    def __init__(self, arguments_class: Any) -> None:
        description = (inspect.getdoc(arguments_class) or "") + (
            "\n\nA YAML or JSON file with the same names may stand first; flags override it."
        )
        fields = dataclasses.fields(arguments_class)
        required = [field.name for field in fields if _default(field) is dataclasses.MISSING]
        words = [
            name.upper() if name == first_field(arguments_class) else f"--{name} {name.upper()}" for name in required
        ]
        usage = " ".join(["%(prog)s", *words, "[flags]"])
        super().__init__(
            usage=usage,
            description=description,
            formatter_class=_HelpFormatter,
            allow_abbrev=False,
        )
        kinds, docstrings = get_type_hints(arguments_class), field_docstrings(arguments_class)
        heading_of = headings(arguments_class)
        groups: dict[str, Any] = {}
        for field in fields:
            if (heading := heading_of.get(field.name)) and heading not in groups:
                groups[heading] = self.add_argument_group(heading)
        for field in fields:
            options = _options(kinds[field.name])
            default = _default(field)
            if options.get("type") is str:
                options["type"] = utf8 if default == "" else word
            options |= {"required": True} if default is dataclasses.MISSING else {"default": default}
            group = groups.get(heading_of.get(field.name, ""), self)
            group.add_argument(f"--{field.name}", help=docstrings[field.name].replace("%", "%%"), **options)

    def error(self, message: str) -> NoReturn:
        _end_with(self.prog, message)

    def refuse_twice(self, flags: Sequence[str]) -> None:
        """End with status 2 if a flag that takes several values stands twice: the second would replace the first."""
        names = [word.split("=")[0] for word in flags]
        for name, action in self._option_string_actions.items():
            if action.nargs == "+" and names.count(name) > 1:
                self.error(f"argument {name}: given twice; give it once, with all its values one after the other")

    def reject(self, argument: str) -> NoReturn:
        flag = argument.split("=")[0]
        close = difflib.get_close_matches(flag, self._option_string_actions, n=1)
        self.error(f"unknown argument {flag}" + (f"; did you mean {close[0]}?" if close else "; see --help"))


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, but for None, whose meaning the help says, and False, which is what a flag is without."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def _underscored(word: str) -> str:
    """Spell a flag as the field: ``--max-steps`` becomes ``--max_steps``."""
    if not word.startswith("--"):
        return word
    flag, equals, value = word.partition("=")
    return f"--{flag[2:].replace('-', '_')}{equals}{value}"


def first_field(arguments_class: Any) -> str | None:
    """The field whose value may stand first, without its flag: that with `is_first` in its metadata."""
    names = (field.name for field in dataclasses.fields(arguments_class) if field.metadata.get("is_first"))
    return next(names, None)


def _default(field: dataclasses.Field[Any]) -> Any:
    """A field's default; `MISSING` if the command line must set it."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _options(kind: Any) -> dict[str, Any]:
    """What argparse must know of a type: str, int, float, bool, a Literal, a list of one of them, or one or None."""
    if isinstance(kind, UnionType) or get_origin(kind) is Union:
        (kind,) = (each for each in get_args(kind) if each is not NoneType)
    if get_origin(kind) is list:
        return {"nargs": "+"} | _options(get_args(kind)[0])
    if get_origin(kind) is Literal:
        return {"choices": get_args(kind)}
    if kind is bool:
        return {"type": yes_or_no, "nargs": "?", "const": True}
    return {"type": finite if kind is float else kind}


def word(text: str) -> str:
    """A text that is not empty, as that of a variable that the shell does not know: as a path, it would be ``.``."""
    if not text:
        raise argparse.ArgumentTypeError("must not be empty; give a value, or leave the flag out")
    return utf8(text)


def utf8(text: str) -> str:
    """A text that files can hold: what a run was told is written into some, and read by others."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"must be UTF-8, got {text!a}; rename the file or folder") from None
    return text


def finite(text: str) -> float:
    """A number that is neither infinite nor NaN."""
    try:
        number = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"invalid float value: {text!r}") from None
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"must be a finite number, got {text!r}")
    return number


def yes_or_no(text: str) -> bool:
    """``yes``, ``true`` or ``1``, and their opposites, in any case."""
    answers = {"yes": True, "true": True, "y": True, "t": True, "1": True}
    answers |= {"no": False, "false": False, "n": False, "f": False, "0": False}
    if text.lower() not in answers:
        raise argparse.ArgumentTypeError(f"must be yes or no, got {text!r}")
    return answers[text.lower()]


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
        if not isinstance(value, list):
            flags.append(f"--{name}={value}")  # in one word, since a value may begin with a dash
        elif value:
            flags += [f"--{name}", *(str(item) for item in value)]
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
    flags = [_underscored(word) for word in (sys.argv[1:] if argv is None else argv)]
    parser.refuse_twice(flags)
    names = set(field_docstrings(arguments_class))
    if flags and flags[0].endswith((".yaml", ".yml", ".json")):
        ignored = getattr(arguments_class, "not_flags", ())
        settings = {name: value for name, value in _read_settings(Path(flags[0])).items() if name not in ignored}
        flags = _flags(settings, names, flags[0]) + flags[1:]
    elif flags and not flags[0].startswith("-") and (first := first_field(arguments_class)) is not None:
        flags = [f"--{first}={flags[0]}", *flags[1:]]
    flags = _flags(defaults or {}, names, "the saved arguments") + flags
    found, unknown = parser.parse_known_args(flags)
    if unknown:
        parser.reject(unknown[0])
    return arguments_class(**vars(found))


def invocation() -> str:
    """This process's command as others would type it; paths out of the working directory keep only their end."""
    program = sys.argv[0]
    words = [
        "/".join(Path(word).parts[-2:]) if Path(word).is_absolute() or ".." in Path(word).parts else word
        for word in sys.argv[1:]
    ]
    if program.endswith(".py"):
        program = "/".join(["python " + Path(program).parent.name, Path(program).name])
    return f"{program} {shlex.join(words)}".strip()


def _says_out_of_memory(error: Exception) -> bool:
    """Whether an error is that of an allocation; PyTorch's on a CPU has no class of its own."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text


class _LastingStream(io.TextIOBase):
    """Standard output or error that never ends the work, even if its reader goes or its disk is full.

    Output that cannot be written is dropped. Characters that its encoding lacks are written as escapes.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding or "utf-8"

    def write(self, text: str) -> int:
        try:
            self._stream.write(text.encode(self.encoding, "backslashreplace").decode(self.encoding))
        except OSError:
            self._give_up()
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._give_up()

    def _give_up(self) -> None:
        """Write to nowhere from here on, also what is still in buffers."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def close(self) -> None:
        self.flush()


@contextmanager
def lasting_output() -> Iterator[None]:
    """Keep the block running whatever happens to the terminal, or to another reader of the output."""
    for descriptor in range(3):  # a file that were opened in the place of a closed one would get what is printed
        with suppress(OSError):
            os.fstat(descriptor)
            continue
        os.open(os.devnull, os.O_RDWR)
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (
        _LastingStream(stream or open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  # for as long as it is used
        for stream in before
    )
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


def _of_the_system(error: OSError) -> str:
    """What the system says of a path, which it may have found too long, and what to do."""
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    if error.strerror is None or error.filename is None:
        return f"{error.strerror}; make room on the disk" if is_full else str(error)
    path = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else str(error.filename)
    remedy = "make room on the disk" if is_full else "check this path and its permissions"
    return f"{error.strerror}: {path if len(path) <= 200 else path[:60] + '...'}; {remedy}"


def _end_with(program: str, message: str) -> NoReturn:
    """End with status 2 and one line.

    torchrun ends with status 1 whatever its processes end with, and a report of its own; from the file that it names
    for that, it quotes the line there (torch.distributed.elastic.multiprocessing.errors.ProcessFailure).
    """
    line = f"{program}: error: {''.join(mark if mark.isprintable() else repr(mark)[1:-1] for mark in message)}"
    sys.stderr.write(line + "\n")
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        reply = {"message": {"message": line, "extraInfo": {"timestamp": str(int(time.time()))}}}
        with suppress(OSError):  # then the line above is all that is said
            Path(path).write_text(json.dumps(reply), encoding="utf-8")
    sys.exit(2)


def run(arguments_class: type[Arguments], main: Callable[[Arguments], int]) -> NoReturn:
    """Parse, call ``main`` and exit with its status; a mistake of the user and a signal end in one line each."""
    logger = logging.getLogger("hf_minibert")
    if not logger.handlers:
        logger.addHandler(logging.StreamHandler())
        logger.setLevel(logging.INFO)
    program = Path(sys.argv[0]).name
    with lasting_output(), EndedBySignals(program):
        try:
            sys.exit(main(parse(arguments_class)))
        except (UserError, OSError) as error:
            message = _of_the_system(error) if isinstance(error, OSError) else str(error)
            _end_with(program, " ".join(message.split()))
        except (MemoryError, RuntimeError) as error:
            if not _says_out_of_memory(error):
                raise
            reason = " ".join(str(error).split())[:200]
            _end_with(
                program,
                f"memory does not suffice ({reason}); make the batch or the model smaller, and add batches up with "
                "--gradient_accumulation_steps",
            )
        except KeyboardInterrupt:
            sys.exit(130)
