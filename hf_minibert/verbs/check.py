"""Measure on a checkpoint whether it keeps what a model of its kind promises."""

from dataclasses import dataclass, field
from pathlib import Path

from hf_minibert.assets import model_folder
from hf_minibert.errors import UserError


@dataclass(kw_only=True)
class Arguments:
    """Measure on a checkpoint, ours or a stock one, whether it keeps what a model of its kind promises.

    Prints a table and writes certificate.json. Exits with 1 if a line fails.
    """

    model_name_or_path: str = field(metadata={"is_first": True})
    """Folder of a checkpoint, or `minibert-tiny` or `minigpt-tiny`, which travel with this package. Runs no code of
    it."""
    output_file: str | None = None
    """File to write. Default: certificate.json in the folder; for a checkpoint of this package, none."""


def main(arguments: Arguments) -> int:
    """Measure, print, write."""
    folder = Path(model_folder(arguments.model_name_or_path))
    if not folder.is_dir():
        raise UserError(
            f"{folder} is no folder; fetch it first: hf download {folder} --local-dir {folder.name}, then check that"
        )
    is_own = str(folder) != arguments.model_name_or_path
    from hf_minibert.certificate.certificate import CERTIFICATE, certify, require_place, table, write_certificate

    path = Path(arguments.output_file) if arguments.output_file else None if is_own else folder / CERTIFICATE
    if path is not None:
        require_place(path)
    certificate = certify(folder)
    print(table(certificate))
    if path is not None:
        write_certificate(certificate, path)
        print(f"\nwrote {path}")
    return 0 if certificate["holds"] else 1
