"""A folder that shows a model in a browser tab: a page, the model as an ONNX graph, its tokenizer and transformers.js.

Any server of files shows it; nothing is computed on the server, and the page fetches nothing from elsewhere.
"""

import json
import shutil
import subprocess
import tarfile
from importlib import resources
from pathlib import Path
from typing import Any

from huggingface_hub import constants
from transformers.utils.logging import disable_progress_bar

from hf_minibert.errors import UserError
from hf_minibert.export import onnx
from hf_minibert.files import temporary_path, write_json
from hf_minibert.output_folder import replaced_folder

LIBRARY = "@huggingface/transformers"
LIBRARY_VERSION = "4.3.2"
RUNTIME = "onnxruntime-web"
FILES = {
    LIBRARY: ("dist/transformers.min.js", "LICENSE"),
    RUNTIME: ("dist/ort-wasm-simd-threaded.mjs", "dist/ort-wasm-simd-threaded.wasm"),
}
"""What a page needs of each package of npm."""
PAGE = ("index.html", "page.css", "page.js")
EXAMPLES = {
    "fill-mask": "He opened the {mask} and went into the house.",
    "text-generation": "The history of",
    "text-classification": "This is the best film that I have seen in years.",
}
CLASSES = (
    *("BertForMaskedLM", "EuroBertForMaskedLM", "BertForSequenceClassification", "EuroBertForSequenceClassification"),
    *("GPT2LMHeadModel", "LlamaForCausalLM", "Qwen3ForCausalLM", "ArceeForCausalLM"),
)
"""The stock classes that the page and transformers.js both know."""


def write(name_or_path: str, static: str, *, library: str | None = None, quantize: str | None = None) -> dict[str, Any]:
    """Fill a folder with a page that shows a model. Unchanged files of an earlier page there are replaced.

    Args:
        name_or_path: the checkpoint.
        static: the folder to write.
        library: a folder with transformers.js, such as `node_modules`; default, npm downloads it once.
        quantize: `int8`: the page computes with 8-bit numbers, and loads a third to a half as much.

    Returns:
        What the export says of the model.

    Raises:
        UserError: the model has no page, something cannot be had, or the folder holds something else.
    """
    disable_progress_bar()  # of saving and loading, which are short
    with replaced_folder(static, "demo", "an earlier page", inputs=[name_or_path], last="index.html") as folder:
        (folder / "library").mkdir()
        copy_library(Path(library) if library else downloaded_library(), folder / "library")
        (folder / "model").mkdir()
        record = onnx.fill(folder / "model", name_or_path, quantize=quantize, classes=CLASSES)
        page = resources.files("hf_minibert.export") / "page"
        for name in PAGE:
            (folder / name).write_bytes((page / name).read_bytes())
        write_json(
            folder / "settings.json",
            {
                "name": record["model"],
                "about": f"A {record['from']}, as {record['to']}, {'8-bit' if quantize else '32-bit'} numbers.",
                "pipeline": record["pipeline"],
                "reads_pairs": record["reads_pairs"],
                "max_length": json.loads((folder / "model" / "config.json").read_text())["max_position_embeddings"],
                "dtype": "q8" if quantize else "fp32",
                "mask_token": record["mask_token"],
                "example": EXAMPLES[record["pipeline"]].format(mask=record["mask_token"]),
            },
        )
    return record


def copy_library(source: Path, target: Path) -> None:
    """Copy what a page needs of transformers.js.

    Args:
        source: a `node_modules`, or a folder that holds the files themselves.
        target: the folder to copy into.

    Raises:
        UserError: a file is missing.
    """
    for package, names in FILES.items():
        for name in names:
            places = [source / package / name, source / Path(name).name]
            found = next((place for place in places if place.is_file()), None)
            if found is None:
                raise UserError(
                    f"library {source} lacks {package}/{name}; give a node_modules with {LIBRARY}@{LIBRARY_VERSION}, "
                    "or leave --library out, and npm downloads it"
                )
            shutil.copyfile(found, target / found.name)


def downloaded_library() -> Path:
    """The folder in the cache with the files of transformers.js, which npm downloads if they are not there.

    Only files are taken out of the packages; no code of theirs runs here.

    Raises:
        UserError: npm is not there, or it fails.
    """
    home = Path(constants.HF_HOME) / "hf_minibert"
    folder = home / f"transformers.js-{LIBRARY_VERSION}"
    if folder.is_dir():
        return folder
    if shutil.which("npm") is None:
        raise UserError(
            f"npm is not installed, and downloads {LIBRARY}; install Node.js, or give --library FOLDER with its files"
        )
    home.mkdir(parents=True, exist_ok=True)
    staged = temporary_path(home)
    staged.mkdir()
    try:
        unpack(npm_pack(f"{LIBRARY}@{LIBRARY_VERSION}", staged), (*FILES[LIBRARY], "package.json"), staged)
        version = json.loads((staged / "package.json").read_text(encoding="utf-8"))["dependencies"][RUNTIME]
        unpack(npm_pack(f"{RUNTIME}@{version}", staged), FILES[RUNTIME], staged)
        try:
            staged.replace(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster
                raise
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return folder


def npm_pack(package: str, folder: Path) -> Path:
    """The archive of a package, which npm downloads into a folder and whose checksum it compares."""
    words = ["npm", "pack", package, "--json", "--ignore-scripts", "--pack-destination", str(folder)]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    archives = sorted(folder.glob("*.tgz"), key=lambda path: path.stat().st_mtime)
    if done.returncode or not archives:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise UserError(f"npm cannot download {package} ({lines[-1] if lines else 'no reason given'}); see --library")
    return archives[-1]


def unpack(archive: Path, names: tuple[str, ...], folder: Path) -> None:
    """Take single files out of a package, and delete it."""
    with tarfile.open(archive) as package:
        for name in names:
            member = package.extractfile(f"package/{name}")
            assert member is not None, name
            (folder / Path(name).name).write_bytes(member.read())
    archive.unlink()
