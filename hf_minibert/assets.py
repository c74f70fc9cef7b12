"""The files that travel with the package: the tokenizer and two small reference checkpoints."""

from pathlib import Path

from hf_minibert.errors import UserError, is_nowhere
from hf_minibert.output_folder import settle


def asset(name: str) -> Path:
    """The path of a folder of assets: a wheel holds it inside the package, a clone beside it."""
    package = Path(__file__).parent
    return package / name if (package / name).is_dir() else package.parent / name


def references() -> list[str]:
    """The names of the reference checkpoints."""
    checkpoints = asset("checkpoints")
    return sorted(path.name for path in checkpoints.iterdir() if path.is_dir()) if checkpoints.is_dir() else []


def model_folder(name_or_path: str) -> str:
    """The folder or Hub name of a model. A reference checkpoint's name, such as `minibert-tiny`, gives its folder.

    A folder of that name in the working directory comes first. Nothing is loaded, so that a mistake shows at once. An
    exchange of the folder's files that a killed process has left half done is ended.

    Raises:
        UserError: it is no folder, no reference checkpoint, and could be no name on the Hub.
    """
    if not is_nowhere(name_or_path):
        settle(Path(name_or_path))
        return name_or_path
    known = references()
    if name_or_path in known:
        return str(asset("checkpoints") / name_or_path)
    named = f", or one of {', '.join(known)}" if known else ""
    raise UserError(
        f"there is no folder {name_or_path}; model_name_or_path is that of a run, or OWNER/NAME on the Hub{named}"
    )


def without_model(place: str) -> str:
    """What to say of a place that `model_folder` gave and that cannot be opened."""
    return "holds no model" if Path(place).exists() else "is no folder here, and no model on the Hub"


def require_tokenizer(path: str | Path) -> None:
    """Check that a path could be that of a tokenizer, before anything is loaded.

    Raises:
        UserError: it is no folder, and could be no name on the Hub.
    """
    if is_nowhere(path):
        raise UserError(f"no tokenizer folder at {path}; train one with hf-minibert train-tokenizer")
    settle(Path(path))
