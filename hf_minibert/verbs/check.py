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
    """File to write. Default: certificate.json in the folder; for a checkpoint of this package, none. A hybrid run has
    two checkpoints, the second in its folder decoder, and so two certificates."""


def main(arguments: Arguments) -> int:
    """Measure, print, write."""
    place = model_folder(arguments.model_name_or_path)
    folder = Path(place)
    if not folder.is_dir():
        raise UserError(
            f"{folder} is no folder; fetch it first: hf download {folder} --local-dir {folder.name}, then check that"
        )
    is_own = place != arguments.model_name_or_path
    from hf_minibert.certificate import certificate as measuring

    folders = measuring.checkpoints_in(folder)
    if arguments.output_file and len(folders) > 1:
        raise UserError(
            f"output_file takes one certificate, but {folder} holds two checkpoints, the other in {folders[1]}; leave "
            "it out, and each gets its own"
        )
    paths = [] if is_own else [each / measuring.CERTIFICATE for each in folders]
    paths = [Path(arguments.output_file)] if arguments.output_file else paths
    for path in paths:
        measuring.require_place(path)
    found = [measuring.certify(each) for each in folders]
    print("\n\n".join(map(measuring.table, found)))
    for each, path in zip(found, paths, strict=False):
        measuring.write_certificate(each, path)
        print(f"\nwrote {path}")
    return 0 if all(each["holds"] for each in found) else 1
