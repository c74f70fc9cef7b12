"""Run a client's job on our checkpoints in a process of its own, in one of three ways.

*native*: with this package imported; *remote*: by the code beside the weights, where the package cannot be imported;
*exported*: on the stock classes that `export` writes, also without the package.
"""

import functools
import importlib
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

MODES = ("native", "remote", "exported")
LABELS = ["entailment", "neutral", "contradiction"]
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
SEED = 3


@dataclass(frozen=True)
class Place:
    """What a job works with: folders of checkpoints, whether they need their code, and a folder of its own."""

    mode: str
    encoder: str
    decoder: str
    classifier: str
    tagger: str
    out: str

    @property
    def trust(self) -> bool:
        return self.mode == "remote"


Job = Callable[[Place], Any]


def run(job: Job, mode: str) -> Any:
    """What a job returns, as JSON has it; each job is done once a mode."""
    return _run(job.__module__, job.__qualname__, mode)


@functools.cache
def _run(module: str, name: str, mode: str) -> Any:
    out = Path(tempfile.mkdtemp(prefix=f"{module}-{mode}-", dir=work_folder()))
    place = Place(mode, **folders(mode), out=str(out))
    settings = {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(out / "cache"),
        "PYTHONPATH": os.pathsep.join(map(str, Path(__file__).parents[:2])),
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "CUDA_VISIBLE_DEVICES": "",
        "WANDB_MODE": "offline",
    }
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "PYTHON"))} | settings
    command = [sys.executable, "-P", __file__, module, name, json.dumps(asdict(place))]
    done = subprocess.run(command, cwd=out, env=environment, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr[-6000:]
    return json.loads((out / "result.json").read_text(encoding="utf-8"))


@functools.cache
def work_folder() -> str:
    return tempfile.mkdtemp(prefix="clients-")


@functools.cache
def folders(mode: str) -> dict[str, str]:
    """The checkpoints, opened once with fixed weights for their heads and saved with their code; or their exports."""
    import torch

    import hf_minibert
    from hf_minibert.assets import model_folder
    from hf_minibert.export.convert import export
    from hf_minibert.tokenization import load_tokenizer

    place = Path(work_folder(), "exported" if mode == "exported" else "saved")
    if mode == "exported":
        ours = folders("native")
        for name, folder in ours.items():
            export(folder, str(place / name))
        return {name: str(place / name) for name in ours}
    labels = {"id2label": dict(enumerate(LABELS)), "label2id": {label: number for number, label in enumerate(LABELS)}}
    heads = {
        "encoder": ("minibert-tiny", "MiniBertForMaskedLM", {}),
        "decoder": ("minigpt-tiny", "MiniGPTForCausalLM", {}),
        "classifier": ("minibert-tiny", "MiniBertForSequenceClassification", labels | {"classifier_pooling": "mean"}),
        "tagger": ("minibert-tiny", "MiniBertForTokenClassification", labels),
    }
    for name, (checkpoint, head, fields) in heads.items():
        torch.manual_seed(SEED)
        model = vars(hf_minibert)[head].from_pretrained(model_folder(checkpoint), dtype=torch.float32, **fields)
        if fields:
            with torch.no_grad():  # so that the labels of a head that learned nothing are told apart
                model.get_submodule("token_classifier" if name == "tagger" else "classifier").weight.normal_(std=1.0)
        model.save_pretrained(place / name)
        tokenizer = load_tokenizer(model_folder(checkpoint))
        if name == "decoder":
            tokenizer.chat_template = CHAT_TEMPLATE
        tokenizer.save_pretrained(place / name)
    return {name: str(place / name) for name in heads}


class Blocker:
    """Keeps the package from being imported, whether or not it is installed."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:  # noqa: ARG002
        if name.split(".")[0] == "hf_minibert":
            raise ImportError("hf_minibert is not to be had here")


def main() -> None:
    """One job, in this process."""
    module, name, words = sys.argv[1:]
    place = Place(**json.loads(words))
    if place.mode == "native":
        importlib.import_module("hf_minibert")
    else:
        sys.meta_path.insert(0, Blocker())
    warnings.simplefilter("ignore")  # of the clients themselves
    import torch

    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    result = functools.reduce(getattr, name.split("."), importlib.import_module(module))(place)
    assert place.mode == "native" or "hf_minibert" not in sys.modules
    Path(place.out, "result.json").write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
