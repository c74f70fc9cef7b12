"""Tiny models, built the same way in every test, the repository's tokenizer, and caches away from the user's."""

import gc
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import evaluate
import pytest
import torch
from commands import COLLECTED
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import hf_minibert
from hf_minibert.data import token_store
from hf_minibert.tokenization import load_tokenizer

torch.set_num_threads(1)
if sys.platform == "linux" and "PYTEST_XDIST_WORKER" in os.environ:
    # One core for each worker and the commands that it runs: threads that share cores wait for each other.
    cores = sorted(os.sched_getaffinity(0))
    worker = int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw"))
    os.sched_setaffinity(0, {cores[worker % len(cores)]})

TINY: dict[str, Any] = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "initializer_range": 0.1,  # so that differences show
}


@pytest.hookimpl(tryfirst=True)  # before any is left out
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the names of all tests, for the table of promises."""
    config.stash[COLLECTED] = "\n".join(item.nodeid for item in items)


def pytest_collection_finish() -> None:
    """What was imported stays: libraries collect garbage after every training, and need not look through it again."""
    gc.freeze()


@pytest.fixture(scope="session")
def cache_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Takes the place of the user's Hugging Face cache."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session", autouse=True)  # before the fixtures of modules, which train, too
def _caches(cache_home: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(token_store, "HF_CACHE_HOME", str(cache_home))
        monkeypatch.setattr(datasets.config, "HF_CACHE_HOME", str(cache_home))
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache_home / "datasets")
        monkeypatch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", cache_home / "datasets" / "downloads")
        monkeypatch.setattr(datasets.config, "EXTRACTED_DATASETS_PATH", cache_home / "datasets" / "extracted")
        monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", cache_home / "metrics")
        yield


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """The repository's own. Not to be changed."""
    return load_tokenizer(Path(__file__).parents[1] / "tokenizer")


@pytest.fixture(params=["classic", "modern"])
def architecture(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=["eager", "sdpa"])
def attention(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def make_config(architecture: str) -> Callable[..., Any]:
    """A tiny configuration of the class so named, of this test's architecture."""

    def make(name: str, **fields: Any) -> Any:
        config_class = vars(hf_minibert)[name]
        return {"classic": config_class.classic, "modern": config_class.modern}[architecture](**TINY | fields)

    return make


@pytest.fixture
def make_model(make_config: Callable[..., Any]) -> Callable[..., PreTrainedModel]:
    """A tiny model of the class so named, of this test's architecture, in evaluation mode; biases are not zero."""

    def make(name: str, attention: str = "sdpa", **fields: Any) -> PreTrainedModel:
        torch.manual_seed(0)
        config = make_config("MiniBertConfig" if name.startswith("MiniBert") else "MiniGPTConfig", **fields)
        config._attn_implementation = attention
        model = vars(hf_minibert)[name](config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter += torch.randn_like(parameter) * 0.1
        return model

    return make


@pytest.fixture
def tokens() -> torch.Tensor:
    """Three rows of 12 tokens, none of them special."""
    return torch.randint(5, 99, (3, 12), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def model_folder(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a language model of `language_models.MAKERS`, made when it is first asked for."""
    folders: dict[str, Path] = {}

    def make(name: str) -> Path:
        from language_models import MAKERS
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # of saving: tests read what the commands print
        if name not in folders:
            torch.manual_seed(0)
            model, own = MAKERS[name](tokenizer)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter += torch.randn_like(parameter) * 0.1
            folders[name] = tmp_path_factory.mktemp("models") / name
            model.save_pretrained(folders[name])
            own.save_pretrained(folders[name])
        return folders[name]

    return make
