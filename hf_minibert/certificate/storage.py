"""Whether the files of a checkpoint are whole, safe and unchanged, and become what they say elsewhere."""

import json
import re
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from hf_minibert.certificate.attention import TOLERANCE, Failed
from hf_minibert.certificate.checkpoint import Checkpoint, NotApplicable
from hf_minibert.errors import UserError
from hf_minibert.export.convert import convert, encode_sample, is_ours, largest_relative, outputs
from hf_minibert.files import DECODER, TARGET_TOKENIZER, Manifest, shown, weight_files, weights_digest
from hf_minibert.hub.card import code_files

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz", ".h5", ".keras")
"""Endings of files that can run code when they are opened, or do so with common settings."""
_NOT_PUBLISHED = re.compile(r"checkpoint-\d+/|logs/|\.")  # what a run goes on from, which nothing opens by name
OWN_CODE = Path(__file__).parents[1] / "models"


def survives_saving(checkpoint: Checkpoint) -> str:
    """Saving and loading changes no bit of the weights, nor a setting."""
    first = checkpoint.model_class.from_pretrained(checkpoint.folder, dtype="auto", trust_remote_code=False)
    with tempfile.TemporaryDirectory() as folder:
        first.save_pretrained(folder)
        second = checkpoint.model_class.from_pretrained(folder, dtype="auto", trust_remote_code=False)
        before, after = first.state_dict(), second.state_dict()
    stored = dict(tensors(checkpoint.folder))
    changed = [name for name in before if name not in after or not same_bits(before[name], after[name])]
    changed += [name for name in stored if name in before and not same_bits(before[name], stored[name])]
    if changed:
        raise Failed(f"{len(changed)} weights are others after loading and saving, such as {changed[0]}")
    settings = [_settings(model) for model in (first, second)]
    names = [name for name in settings[0] if settings[0][name] != settings[1].get(name)]
    if names:
        raise Failed(f"the setting {names[0]} of the configuration is another after saving")
    return f"{len(before)} tensors in {str(first.dtype).removeprefix('torch.')}"


def _settings(model: Any) -> dict[str, Any]:
    unimportant = ("_name_or_path", "transformers_version", "architectures")
    return {name: value for name, value in model.config.to_dict().items() if name not in unimportant}


def exports_alike(checkpoint: Checkpoint) -> str:
    """The stock class that the checkpoint can become computes the same."""
    model = checkpoint.model
    if not is_ours(model):
        raise NotApplicable(f"a {checkpoint.name} is exported to no stock class")
    try:
        stock = convert(model, None, mask_token_id=checkpoint.tokenizer.mask_token_id)
    except UserError as error:
        raise NotApplicable(str(error)) from error
    inputs = encode_sample(model, checkpoint.tokenizer)
    found = largest_relative(zip(outputs(stock, inputs), outputs(model, inputs), strict=True))
    if found > TOLERANCE:
        raise Failed(f"the {type(stock).__name__} differs by {found:.1e}")
    return f"the {type(stock).__name__} differs by {found:.1e}"


def safe_files(checkpoint: Checkpoint) -> str:
    """Weights are safetensors only, and the code that `trust_remote_code=True` would run is this package's."""
    folder = checkpoint.folder
    files = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())  # a cache has links only
    names = sorted(path.relative_to(folder).as_posix() for path in files)
    published = [name for name in names if not _NOT_PUBLISHED.match(f"{name}/")]
    if pickles := [name for name in published if Path(name).suffix.lower() in PICKLES]:
        raise Failed(f"{shown(pickles[0])} can run code when it is opened; delete it")
    if linked := [name for name in published if (folder / name).is_dir()]:
        raise Failed(f"{shown(linked[0])} is a link to a folder, which is not followed; put the folder itself there")
    foreign = sorted(_foreign_code(folder))
    if foreign:
        raise Failed(
            f"trust_remote_code=True would run {', '.join(map(shown, foreign))}, which is not this package's code"
        )
    try:
        code = [path.name for path in code_files(folder, may_be_links=True)]
    except UserError as error:
        raise Failed(str(error)) from error
    # Also below the folder: transformers runs custom_generate/generate.py, which no auto_map names.
    for name in (name for name in published if name.lower().endswith(".py")):
        own = OWN_CODE / Path(name).name
        if own.is_file() and (folder / name).read_bytes() == own.read_bytes():
            continue
        raise Failed(
            f"{shown(name)} is not this package's code"
            + (
                " of this version: it is of another version, or was changed. To have this version's, open the model "
                "and save it into a new folder; before you trust the one that is here, read it"
                if own.is_file()
                else "; read it before you trust it"
            )
        )
    return f"trust_remote_code=True would run this package's {', '.join(code)}" if code else "no code would run"


def _foreign_code(folder: Path) -> set[str]:
    """What names code of another repository: of the model, of its parts and tokenizers, or of a pipeline."""
    found = set()
    for place, name in product(("", DECODER, TARGET_TOKENIZER), ("config.json", "tokenizer_config.json")):
        path = folder / place / name
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        entries = (content.get("auto_map") or {}).values()
        names = [one for entry in entries for one in (entry if isinstance(entry, list) else [entry]) if one]
        found |= {str(one) for one in names if "--" in str(one) or name == "tokenizer_config.json"}
        found |= {f"the pipeline {task}" for task in content.get("custom_pipelines") or ()}
    return found


def finite_weights(checkpoint: Checkpoint) -> str:
    """Every weight is a number."""
    count = 0
    for name, tensor in tensors(checkpoint.folder):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor.float()).all()):
            raise Failed(f"{name} has a weight that is not finite")
        count += tensor.numel()
    return f"{count:,} numbers"


def unchanged(checkpoint: Checkpoint) -> str:
    """The weights are those that were written, where the folder has a list of that; their checksum."""
    folder = checkpoint.folder.absolute()
    manifest, before = Manifest.read(folder), ""
    if manifest is None and folder.name == DECODER:  # of a hybrid run, whose list is in its own folder
        manifest, before = Manifest.read(folder.parent), f"{DECODER}/"
    listed = manifest.files if manifest is not None else {}
    names = [path.name for path in weight_files(folder)]
    for name in names:
        if manifest is not None and before + name in listed and not manifest.fitting(before + name):
            raise Failed(f"{name} is not as it was written")
    is_listed = all(before + name in listed for name in names)
    return f"sha256 {weights_digest(folder)}" + (", as it was written" if is_listed else "")


def tensors(folder: Path) -> Any:
    """(name, tensor) of all weights in a folder, one at a time."""
    for path in weight_files(folder):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  # it is no mapping
                yield name, file.get_tensor(name)


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same type, shape and bits, whatever they stand for."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    views = (tensor.detach().contiguous().flatten().view(torch.uint8) for tensor in (one, other))
    return torch.equal(*views)
