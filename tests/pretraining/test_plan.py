import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from commands import write_corpus

from hf_minibert.data.token_store import StoreInfo
from hf_minibert.errors import UserError
from hf_minibert.pretraining import plan as plan_module
from hf_minibert.pretraining.arguments import PretrainArguments
from hf_minibert.pretraining.data import read_data, shared_fingerprint
from hf_minibert.pretraining.plan import make_plan
from hf_minibert.runs import hardware


def arguments(folder: Path, documents: int, **others: object) -> PretrainArguments:
    corpus = write_corpus(folder / f"{documents}.jsonl", documents)
    return PretrainArguments(output_dir="x", model="minibert-tiny", corpus=[str(corpus)], max_seq_length=32, **others)


def test_the_default_tokenizer_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = make_plan(PretrainArguments(output_dir="x", model="minibert-tiny"))
    assert len(plan.tokenizer) == plan.config.vocab_size == 8192


@pytest.mark.parametrize(
    ("model", "settings", "rows"),
    [
        ("minibert-tiny", {}, 384),
        ("minibert-tiny", {"objective": "hybrid"}, 384),
        ("minigpt-tiny", {}, 96),
        ("minigpt-tiny", {"max_seq_length": 512}, 48),
        ("minigpt-tiny", {"max_eval_samples": 7}, 7),
    ],
)
def test_an_evaluation_has_enough_predictions_and_no_more(model: str, settings: dict[str, Any], rows: int) -> None:
    plan = make_plan(PretrainArguments(output_dir="x", model=model, **settings))
    assert plan.arguments.max_eval_samples == rows


@pytest.mark.parametrize(
    ("settings", "in_bfloat16", "in_float32"),
    [
        ({"budget": "20m"}, True, True),
        ({"budget": "10m"}, True, False),
        ({}, True, False),  # five minutes
        ({"budget": "2m"}, False, False),
        ({"budget": "20m", "max_seq_length": 512}, False, False),
        ({"max_steps": 1_000_000}, False, False),
        ({"max_steps": 5, "compile": True}, True, True),
        ({"budget": "20m", "compile": False}, False, False),
    ],
)
def test_a_model_is_compiled_where_it_pays(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, object], in_bfloat16: bool, in_float32: bool
) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(Path, "exists", lambda _: True)  # Python.h
    for has_bfloat16, is_compiled in ((True, in_bfloat16), (False, in_float32)):
        monkeypatch.setattr(hardware, "computes_in_bfloat16", lambda answer=has_bfloat16: answer)
        planned = make_plan(PretrainArguments(output_dir="x", model="minibert-tiny", **settings)).arguments
        assert planned.compile is is_compiled
    monkeypatch.setattr(shutil, "which", lambda _: None)
    if settings.get("compile"):
        with pytest.raises(UserError, match=r"compile needs a C\+\+ compiler .* or say --compile no"):
            make_plan(PretrainArguments(output_dir="x", model="minibert-tiny", **settings))
    else:
        planned = make_plan(PretrainArguments(output_dir="x", model="minibert-tiny", **settings)).arguments
        assert planned.compile is False


@pytest.mark.parametrize(
    ("has_gpu", "has_bfloat16", "length", "fastest"),
    [
        (False, True, 128, "eager"),
        (False, True, 512, "sdpa"),
        (False, False, 128, "sdpa"),
        (True, True, 128, "sdpa"),
    ],
)
def test_attention_is_the_fastest_unless_told(
    monkeypatch: pytest.MonkeyPatch, has_gpu: bool, has_bfloat16: bool, length: int, fastest: str
) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: has_gpu)
    monkeypatch.setattr(hardware, "computes_in_bfloat16", lambda: has_bfloat16)
    settings = {"output_dir": "x", "model": "minibert-tiny", "max_seq_length": length}
    assert make_plan(PretrainArguments(**settings)).arguments.attn_implementation == fastest
    told = make_plan(PretrainArguments(**settings, attn_implementation="eager")).arguments
    assert told.attn_implementation == "eager"


@pytest.mark.parametrize(("has_gpu", "tokens"), [(False, 2_048), (True, 16_384)])
def test_a_gpu_gets_more_tokens_unless_told(monkeypatch: pytest.MonkeyPatch, has_gpu: bool, tokens: int) -> None:
    for module in (hardware, plan_module):
        monkeypatch.setattr(module, "computes_in_bfloat16", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    for model, length in (("minibert-mini", 128), ("minigpt-mini", 256)):
        plan = make_plan(PretrainArguments(output_dir="x", model=model))
        assert plan.arguments.per_device_train_batch_size == tokens // length
    told = make_plan(PretrainArguments(output_dir="x", per_device_train_batch_size=3)).arguments
    assert told.per_device_train_batch_size == 3


@pytest.mark.parametrize(("documents", "is_few"), [(20, True), (300, False)])
def test_a_loss_that_rests_on_one_or_two_documents_is_pointed_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], documents: int, is_few: bool
) -> None:
    data = read_data(make_plan(arguments(tmp_path, documents)), Accelerator(cpu=True))
    assert (len(data.store.held_out) <= 2) == is_few
    assert ("the held-out loss rests on" in capsys.readouterr().out) == is_few


def test_the_part_that_is_too_small_is_named(tmp_path: Path) -> None:
    plan = make_plan(arguments(tmp_path, 20, objective="mlm+nsp"))
    with pytest.raises(UserError, match="the held-out part of the corpus is too small: next-sentence .* 1 document"):
        read_data(plan, Accelerator(cpu=True))


def test_nodes_with_copies_agree_and_with_different_text_are_told() -> None:
    info = StoreInfo(
        corpus="texts",
        fingerprint="0123456789abcdef",
        tokenizer="fedcba9876543210",
        vocab_size=3,
        documents=9,
        tokens=6,
        bytes=8,
        token_counts=[1, 2, 3],
    )

    def store(about: StoreInfo, lengths: list[int]) -> Any:
        part = SimpleNamespace(lengths=np.array(lengths))
        return SimpleNamespace(info=about, train=part, held_out=part)

    def gather_after(first: Any, second: Any) -> str:
        """What the second of two processes gets."""
        sent: list[torch.Tensor] = []

        def gather(mine: torch.Tensor) -> torch.Tensor:
            sent.append(mine)
            return torch.cat(sent)

        accelerator: Any = SimpleNamespace(device="cpu", gather=gather)
        shared_fingerprint(first, accelerator)
        return shared_fingerprint(second, accelerator)

    whole = store(info, [3, 1, 2])
    assert gather_after(whole, store(replace(info, fingerprint="f" * 16), [3, 1, 2])) == info.fingerprint
    for other in (store(replace(info, token_counts=[1, 3, 2]), [3, 1, 2]), store(info, [3, 2, 1])):
        with pytest.raises(UserError, match="different text"):
            gather_after(whole, other)
