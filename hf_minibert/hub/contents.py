"""What of a run goes up to the Hugging Face Hub: a list of what is allowed, so that nothing else leaves the machine."""

import json
import logging
import re
from collections.abc import Collection
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined] # exported, though not by __all__

from hf_minibert.card_parts import assembled, is_generated, merged, metadata_of, own_words
from hf_minibert.errors import UserError
from hf_minibert.exchange import NEXT
from hf_minibert.files import CARD, DECODER, TARGET_TOKENIZER, damage, shown, weights_digest
from hf_minibert.hub.arguments import require_license
from hf_minibert.hub.card import (
    CERTIFICATE,
    code_files,
    read_object,
    refuse_link,
    render_card,
    shareable_adapter,
    shareable_arguments,
)
from hf_minibert.hub.evaluations import evaluation_files

logger = logging.getLogger(__name__)

TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
REQUIRED = ("config.json", *TOKENIZER)
RESULTS = "results.json"
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
"""What PEFT opens on the pre-trained model, in place of weights."""
# What a run folder may share, by name. A list of what is allowed, so that nothing unforeseen ever leaves the machine.
OPTIONAL = (
    "generation_config.json",
    "special_tokens_map.json",
    "arguments.json",
    "metrics.jsonl",
    RESULTS,
    CERTIFICATE,
    "curves.png",
    "predictions.png",
    "attention.png",
)
_WEIGHTS = re.compile(rf"({DECODER}/)?model(-\d{{5}}-of-\d{{5}})?\.safetensors(\.index\.json)?")
PICKLES = (".bin", ".pt", ".pth", ".pkl")


def _weights(folder: Path) -> list[Path]:
    """``model.safetensors``, or the shards that its index names with the index itself, or adapters."""
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    adapter = [folder / name for name in ADAPTER]
    for path in (whole, index, *adapter):
        refuse_link(path)
    if whole.is_file():
        return [whole]
    if not index.is_file():
        return adapter if all(path.is_file() for path in adapter) else []
    with damage(f"{index}, the index of the weights,", "save the model again"):
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        strange = [name for name in names if not re.fullmatch(r"[\w.-]+\.safetensors", name, re.ASCII)]
    if strange:
        raise UserError(
            f"{index} names {shown(strange[0])}, which is no .safetensors file in that folder; save the model again"
        )
    shards = [folder / name for name in names]
    for shard in shards:
        refuse_link(shard)
    missing = ", ".join(shard.name for shard in shards if not shard.is_file())
    if missing:
        raise UserError(f"{folder} is not a complete checkpoint: {index.name} names {missing}, which is missing")
    return [index, *shards]


def files_to_publish(folder: Path) -> list[Path]:
    """The files of a run that belong on the Hub, without the card: model, code, tokenizer, and the record of the run.

    A hybrid run's decoder belongs there too, as does the tokenizer that a translator writes with.

    Checkpoints to resume from, optimizer states, logs, pickles and hidden files stay behind. A file that
    another one names must lie in that folder, too, and be no link.

    Raises:
        UserError: the folder does not exist or is not a checkpoint, or a file is a link or named outside the folder.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; give the --output_dir of a finished run")
    if (folder / NEXT).exists():  # only where it could not be ended
        raise UserError(f"an exchange of files in {folder} is half done; push from where the folder can be written")
    decoder, target = folder / DECODER, folder / TARGET_TOKENIZER
    for place in (folder, *(place for place in (decoder, target) if place.is_symlink() or place.is_dir())):
        for name in (*REQUIRED, *OPTIONAL, CARD):
            refuse_link(place / name)
    weights = _weights(folder)
    missing = [name for name in REQUIRED if not (folder / name).is_file()] + ([] if weights else ["model.safetensors"])
    if missing:
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
        hint = (
            f"; {pickles[0]} is a pickle, which can run code when it is opened and is not published" if pickles else ""
        )
        raise UserError(f"{folder} is not a finished checkpoint: {' and '.join(missing)} missing{hint}")
    for place in (folder, decoder, target):
        refuse_code_of_tokenizer(place / "tokenizer_config.json")
    found = [folder / name for name in (*REQUIRED, *OPTIONAL) if (folder / name).is_file()]
    found += [*weights, *code_files(folder)]
    if decoder.is_dir():
        found += [decoder / name for name in (*REQUIRED, *OPTIONAL) if (decoder / name).is_file()]
        found += [*_weights(decoder), *code_files(decoder), *(folder / file.name for file in code_files(decoder))]
    found += [target / name for name in TOKENIZER if (target / name).is_file()]
    return sorted({path for path in found if path.name != CERTIFICATE or _is_of_weights(path)})


def _is_of_weights(certificate: Path) -> bool:
    """Whether a certificate was made of the weights that lie beside it."""
    return bool(read_object(certificate.parent, CERTIFICATE).get("sha256") == weights_digest(certificate.parent))


def refuse_code_of_tokenizer(path: Path) -> None:
    """Check that nobody who trusts a model's code gets a tokenizer's with it, which the card does not name.

    Raises:
        UserError: the settings of the tokenizer name code.
    """
    with damage(f"{path}, the tokenizer's settings,", "save the tokenizer again"):
        names = json.loads(path.read_text(encoding="utf-8")).get("auto_map") if path.is_file() else None
    if names:
        raise UserError(
            f"{path} has the auto_map {shown(json.dumps(names))}: code that would run on the machine of whoever trusts "
            "the model's; take auto_map out"
        )


def check_repo_id(repo_id: str) -> None:
    """Check that a repository could be called so, as OWNER/NAME.

    Raises:
        UserError: it could not.
    """
    if repo_id.count("/") > 1:
        raise UserError(f"{repo_id!r} cannot name a repository: give OWNER/NAME")
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(f"{repo_id!r} cannot name a repository: {error}") from error
    if "/" not in repo_id:
        raise UserError(
            f"the repository {repo_id} lacks its owner: give OWNER/{repo_id}, with your user or organization name"
        )


def prepare_upload(folder: Path, repo_id: str, license_id: str | None = None) -> dict[str, Path | bytes]:
    """The files that :func:`publish` uploads, by their names in the repository.

    The card's snippets name the repository, and local paths lose their folders; what a person wrote into
    ``README.md`` goes up as it is.

    Args:
        folder: the run's output folder.
        repo_id: the repository, as OWNER/NAME.
        license_id: the weights' licence, as the Hub names it; default, see :func:`render_card`.

    Raises:
        UserError: the repository's name is not valid, the folder is not that of a finished run, or a licence is given
            for a card that a person has edited.
    """
    if license_id is not None:
        require_license(license_id, "license")
    check_repo_id(repo_id)
    content: dict[str, Path | bytes] = {path.relative_to(folder).as_posix(): path for path in files_to_publish(folder)}
    for name, shareable in (("arguments.json", shareable_arguments), (ADAPTER[0], shareable_adapter)):
        if name in content:
            content[name] = f"{json.dumps(shareable(folder), indent=2, ensure_ascii=False)}\n".encode()
    if RESULTS in content:
        content |= evaluation_files(read_object(folder, RESULTS))
    content[CARD] = _card(folder, repo_id, license_id)
    return dict(sorted(content.items()))


def _card(folder: Path, repo_id: str, license_id: str | None) -> Path | bytes:
    """The card that goes up: the run's, whose generated part names the repository; or one that is all a person's."""
    path = folder / CARD
    if not path.is_file():
        return render_card(folder, repo_id, license_id).encode()
    require_card_for(license_id, folder)
    earlier, card = path.read_text(encoding="utf-8", errors="replace"), None
    if is_generated(earlier) or own_words(earlier) is not None:
        overriding = ("license",) if license_id is not None else ()
        stated = license_id or (metadata_of(earlier) or {}).get("license")
        card = merged(
            earlier,
            render_card(folder, repo_id, stated if isinstance(stated, str) else license_id),
            overriding=overriding,
        )
    text = card or earlier
    if f'"{folder.as_posix()}"' in text or str(folder.resolve()) in text:
        logger.warning("%s was edited by hand and is uploaded as it is: it names the local folder %s", path, folder)
    return path if card is None else card.encode()


def require_card_for(license_id: str | None, folder: Path) -> None:
    """Check that a licence can be put into a folder's card, if one is to be.

    Raises:
        UserError: a person has rewritten the card.
    """
    path = folder / CARD
    if license_id is None or not path.is_file():
        return
    card = path.read_text(encoding="utf-8", errors="replace")
    if not is_generated(card) and own_words(card) is None:
        raise UserError(f"{path} was edited by hand and is kept; write the licence there, and give none here")


def left_of_a_run(results: bytes, there: Collection[str], coming: Collection[str]) -> list[str]:
    """What a repository has of an earlier run only, and what would be taken for a part of the new one.

    Args:
        results: the `results.json` that the repository has.
        there: the names of its files.
        coming: the names of the files of the new run.

    Returns:
        The names, in order; none if the results are not those of a run of this package.
    """
    try:
        earlier = json.loads(results)
        figures = evaluation_files(earlier) if "hf_minibert" in earlier["environment"] else None
    except (ValueError, LookupError, TypeError, AttributeError):
        figures = None
    if figures is None:
        return []
    code = {path.name for path in (Path(__file__).parents[1] / "models").glob("*.py")}
    own = {*OPTIONAL, *ADAPTER, *figures, *(f"{TARGET_TOKENIZER}/{name}" for name in TOKENIZER)}
    own |= {f"{DECODER}/{name}" for name in (*REQUIRED, *OPTIONAL, *code)}
    return sorted(name for name in {*there} - {*coming} if name in own or _WEIGHTS.fullmatch(name))


def prepare_checkpoint(checkpoint: Path, repo_id: str, revision: str | None) -> dict[str, Path | bytes]:
    """The files of a checkpoint of a run, with a short card; what resumes the run stays behind.

    `revision` is the branch of the run itself; default, the main one.

    Raises:
        UserError: it is not a checkpoint that `from_pretrained` opens.
    """
    content: dict[str, Path | bytes] = {
        path.relative_to(checkpoint).as_posix(): path
        for path in files_to_publish(checkpoint)
        if path.name != "arguments.json"
    }
    state = json.loads((checkpoint / "train_state.json").read_text(encoding="utf-8"))
    content[CARD] = assembled(
        "library_name: transformers\ntags:\n- hf_minibert",
        f"# {repo_id.split('/')[-1]}, step {state['step']:,}\n\nA checkpoint from within the run, after "
        f"{state['step']:,} steps and {state['tokens']:,} tokens. The card of the run is on the branch "
        f"`{revision or 'main'}`.",
    ).encode()
    return content
