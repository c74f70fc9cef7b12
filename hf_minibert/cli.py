"""The commands: `hf-minibert VERB ...`, `python -m hf_minibert VERB ...` and `scripts/VERB.py ...` are the same.

A verb is a file of `hf_minibert/verbs/` with a dataclass `Arguments` and a function `main`, and a row of `VERBS`. The
file imports torch in `main` only, so that `--help` and mistakes on the command line answer at once.
"""

import difflib
import importlib
import sys
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

VERBS = {
    "train-tokenizer": "train a tokenizer on a corpus",
    "prepare-data": "tokenise a corpus once, for many runs",
    "pretrain": "pre-train a MiniBERT or MiniGPT on a corpus",
    "replay": "compute one step of a run again and show its rows",
    "generate": "continue a text with a MiniGPT",
    "evaluate": "measure how good models are, and compare them",
    "check": "measure on a checkpoint whether it keeps what its kind promises",
    "finetune": "fine-tune a model on labelled data",
    "export": "convert a checkpoint to the class or format that other tools open",
    "demo": "try a checkpoint on a page in the browser",
    "push": "publish a finished run on the Hugging Face Hub",
}


def main(verb: str | None = None) -> NoReturn:
    """Run a verb, by default the first word of the command line, and exit with its status."""
    if verb is None:
        program = Path(sys.argv[0]).name.replace("__main__.py", "python -m hf_minibert")
        first = sys.argv[1] if len(sys.argv) > 1 else "--help"
        if first in ("-h", "--help"):
            sys.stdout.write(_help(program))
            sys.exit(0)
        if first == "--version":
            sys.stdout.write(f"hf_minibert {version('hf_minibert')}\n")
            sys.exit(0)
        if first not in VERBS:
            close = difflib.get_close_matches(first, VERBS, n=1)
            hint = f"; did you mean {close[0]}?" if close else f"; the verbs are {', '.join(VERBS)}"
            sys.stderr.write(f"{program}: error: unknown verb {first}{hint}\n")
            sys.exit(2)
        verb = first
        sys.argv = [f"{program} {verb}", *sys.argv[2:]]
    elif Path(sys.path[0]).resolve() == Path(sys.argv[0]).resolve().parent:
        del sys.path[0]  # the folder of the scripts, where `evaluate` is not the library of that name
    from hf_minibert.command_line import run

    module = importlib.import_module(f"hf_minibert.verbs.{verb.replace('-', '_')}")
    run(module.Arguments, module.main)


def _help(program: str) -> str:
    width = max(map(len, VERBS))
    verbs = "".join(f"  {verb:{width}}  {words}\n" for verb, words in VERBS.items())
    return (
        f"usage: {program} VERB [flags]\n\nPre-train compact Transformers from scratch, fine-tune and share them.\n\n"
        f"{verbs}\n{program} VERB --help explains the flags of a verb.\n"
    )
