"""The certificate of a checkpoint: a table of measurements on it, each of which holds, fails or does not apply.

Several causal classes have been published whose tokens saw later ones, and scored well until somebody measured it. A
line here is one function: it returns what was measured, or raises `Failed` or `NotApplicable` with the reason.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

from hf_minibert.certificate import attention, storage, text
from hf_minibert.certificate.attention import Failed
from hf_minibert.certificate.checkpoint import Checkpoint, NotApplicable, open_folder
from hf_minibert.errors import UserError
from hf_minibert.files import DECODER, weights_digest, write_json
from hf_minibert.runs.results import environment

CERTIFICATE = "certificate.json"
Status = Literal["ok", "failed", "not applicable"]

LINES: dict[str, tuple[str, Callable[[Checkpoint], str]]] = {
    "causal": ("no token of the decoder sees a later one", attention.no_later_token),
    "bidirectional": ("every token of the encoder sees every other", attention.every_other_token),
    "packed": ("no packed document sees its neighbour", attention.strangers),
    "cache": ("cached and uncached generation agree", attention.cached_generation),
    "padding": ("batch and padding sides do not matter", attention.batch_and_sides),
    "tokenizer": ("the tokenizer restores hard strings", text.restores_strings),
    "offsets": ("the tokenizer's offsets point at the words", text.offsets_point_at_words),
    "saving": ("saving and loading changes no bit", storage.survives_saving),
    "export": ("the stock export gives equal outputs", storage.exports_alike),
    "files": ("safetensors only, and no unknown code", storage.safe_files),
    "finite": ("all weights are finite", storage.finite_weights),
    "checksum": ("the weights are as they were written", storage.unchanged),
}
"""The lines by name: what each promises, and the function that measures it."""


def certify(folder: Path, *, name: str | None = None) -> dict[str, Any]:
    """Measure a checkpoint. Takes seconds on a CPU, and changes nothing.

    Args:
        folder: the checkpoint's, ours or a stock one's.
        name: what to call it; default, the folder's name.

    Returns:
        The content of `certificate.json`: the model, its checksum, and for each line of `LINES` its words, its
        `status` and what was `measured`.

    Raises:
        UserError: the folder holds no whole model of text with its tokenizer.
    """
    checkpoint = open_folder(folder)
    generator = torch.get_rng_state()
    lines = []
    with tqdm(LINES.items(), desc="checking", delay=2.0, leave=False) as bar, torch.no_grad():
        for line, (words, measure) in bar:
            status, measured = _status(measure, checkpoint)
            lines.append({"name": line, "words": words, "status": status, "measured": measured})
    torch.set_rng_state(generator)
    return {
        "kind": "certificate",
        "model": name or folder.resolve().name,
        "class": checkpoint.name,
        "num_parameters": checkpoint.model.num_parameters(),
        "sha256": weights_digest(folder),
        "holds": all(line["status"] != "failed" for line in lines),
        "lines": lines,
        "environment": environment(),
    }


def checkpoints_in(folder: Path) -> list[Path]:
    """The folder of a checkpoint, and that of the decoder which a hybrid run writes into it."""
    decoder = folder / DECODER
    return [folder, decoder] if (decoder / "config.json").is_file() else [folder]


def _status(measure: Callable[[Checkpoint], str], checkpoint: Checkpoint) -> tuple[Status, str]:
    try:
        return "ok", measure(checkpoint)
    except NotApplicable as reason:
        return "not applicable", str(reason)
    except Failed as reason:
        return "failed", str(reason)
    except (RuntimeError, ValueError, TypeError, IndexError, LookupError, AttributeError, OSError) as error:
        # A model that cannot even be asked: the error is the measurement.
        return "failed", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def table(certificate: dict[str, Any]) -> str:
    """The certificate for a terminal, a line for each measurement."""
    lines = [f"{certificate['model']}, a {certificate['class']} of {certificate['num_parameters']:,} parameters"]
    width = max(len(line["words"]) for line in certificate["lines"])
    for line in certificate["lines"]:
        sign = {"ok": "ok", "failed": "FAILED", "not applicable": "-"}[line["status"]]
        lines.append(f"  {sign:6}  {line['words']:{width}}  {line['measured']}")
    return "\n".join(lines)


def write_certificate(certificate: dict[str, Any], path: Path) -> None:
    """Write a certificate, in the place of an earlier one.

    Raises:
        UserError: a file of that name is no certificate.
    """
    require_place(path)
    write_json(path, certificate)


def require_place(path: Path) -> None:
    """Check that a certificate may be written to a path.

    Raises:
        UserError: there is no such folder, it cannot be written, or the file is no certificate.
    """
    if not path.parent.is_dir():
        raise UserError(f"there is no folder {path.parent} for {path.name}; make it, or give another --output_file")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise UserError(f"{path.name} cannot be written: {path.parent} is read-only; give another --output_file")
    if path.exists():
        try:
            kind = json.loads(path.read_text(encoding="utf-8"))["kind"]
        except (OSError, ValueError, LookupError, TypeError):
            kind = None
        if kind != "certificate":
            raise UserError(f"{path} is no certificate, and is not replaced; give another --output_file")
