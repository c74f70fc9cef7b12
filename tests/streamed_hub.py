"""A Hub that is a folder of `.jsonl` files, streamed; as a script, `pretrain.py` with it, small parts and slow reading.

Every row that is read is noted in the folder's `read.log`. Where the folder holds a file `broken`, reading stops at the
row that it names.
"""

import json
import os
import runpy
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import huggingface_hub

from hf_minibert.data import streamed

SCRIPT = Path(__file__).parents[1] / "scripts" / os.environ.get("HUB_SCRIPT", "pretrain.py")


def rows(files: list[Path], delay: float) -> Iterator[dict[str, Any]]:
    for file in files:
        broken = file.parent / "broken"
        for number, line in enumerate(file.read_text().splitlines()):
            if broken.exists() and broken.read_text() == f"{file.name}:{number}":
                raise ConnectionError("the line is dead")
            time.sleep(delay)
            with (file.parent / "read.log").open("a") as log:
                log.write(f"{file.name}:{number}\n")
            yield json.loads(line)


def stream(folder: Path, delay: float = 0.0) -> datasets.IterableDataset:
    files = sorted(folder.glob("*.jsonl"))
    features = datasets.Features({"text": datasets.Value("string"), "number": datasets.Value("int64")})
    return datasets.IterableDataset.from_generator(rows, gen_kwargs={"files": files, "delay": delay}, features=features)


def rows_read(folder: Path) -> list[str]:
    return (folder / "read.log").read_text().split()


if __name__ == "__main__":
    import streamed_hub  # the functions that are sent to another process must have a name there

    folder, delay = Path(os.environ["HUB_FOLDER"]), float(os.environ["HUB_DELAY"])
    datasets.load_dataset = lambda *_arguments, **_options: streamed_hub.stream(folder, delay)
    newest = (folder / "revision").read_text() if (folder / "revision").exists() else "first"
    huggingface_hub.HfApi.dataset_info = lambda _self, _name, revision: SimpleNamespace(sha=revision or newest)
    streamed.PART_BYTES = int(os.environ["PART_BYTES"])
    sys.argv[0] = str(SCRIPT)
    runpy.run_path(str(SCRIPT), run_name="__main__")
