import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from commands import write_corpus

from hf_minibert.data.token_store import cached_store
from hf_minibert.errors import UserError
from hf_minibert.pretraining import data as data_module
from hf_minibert.pretraining import plan as plan_module
from hf_minibert.pretraining.arguments import PretrainArguments
from hf_minibert.pretraining.data import check_same_data, check_same_everywhere, find_corpus, read_data
from hf_minibert.pretraining.plan import make_plan, refuse_idle
from hf_minibert.pretraining.saved_arguments import of_run
from hf_minibert.runs import hardware


def arguments(folder: Path, documents: int, **others: object) -> PretrainArguments:
    corpus = write_corpus(folder / f"{documents}.jsonl", documents)
    return PretrainArguments(output_dir="x", model="minibert-tiny", corpus=[str(corpus)], max_seq_length=32, **others)


def test_the_default_tokenizer_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = make_plan(PretrainArguments(output_dir="x", model="minibert-tiny"))
    assert len(plan.tokenizer) == plan.config.vocab_size == 8192


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        ("minigpt-tiny", {"mlm_probability": 0.15}, r"mlm_probability is for mlm, mlm\+nsp, mlm\+sop, hybrid, .* clm"),
        ("minibert-tiny", {"masked_share": 0.9}, "masked_share is for hybrid, and this run learns mlm; leave it out"),
    ],
)
def test_settings_of_other_objectives_are_refused(model: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        refuse_idle(make_plan(PretrainArguments(output_dir="x", model=model, **settings)))


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
        ({"budget": "20m", "max_seq_length": 512}, True, False),
        ({"budget": "20m", "max_seq_length": 1024}, False, False),
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
    ("has_gpu", "has_bfloat16", "length", "is_compiled", "fastest"),
    [
        (False, True, 128, False, "eager"),
        (False, True, 512, False, "sdpa"),
        (False, True, 512, True, "eager"),
        (False, True, 1024, True, "sdpa"),
        (False, False, 128, True, "sdpa"),
        (True, True, 128, True, "sdpa"),
    ],
)
def test_attention_is_the_fastest_unless_told(
    monkeypatch: pytest.MonkeyPatch, has_gpu: bool, has_bfloat16: bool, length: int, is_compiled: bool, fastest: str
) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: has_gpu)
    monkeypatch.setattr(hardware, "computes_in_bfloat16", lambda: has_bfloat16)
    monkeypatch.setattr(plan_module, "has_compiler", lambda: True)
    settings = {"output_dir": "x", "model": "minibert-tiny", "max_seq_length": length, "compile": is_compiled}
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


def test_nodes_with_copies_agree_and_with_different_text_are_told(tmp_path: Path) -> None:
    def store(name: str, count: int = 20) -> Any:
        return read_data(make_plan(arguments(tmp_path / name, count)), Accelerator(cpu=True)).store

    def gather_with(other: Any) -> Any:
        def gather(mine: torch.Tensor) -> torch.Tensor:
            return torch.cat([torch.tensor([list(bytes.fromhex(other.identity))]), mine])

        return SimpleNamespace(device="cpu", gather=gather)

    for folder in ("here", "there", "other"):
        (tmp_path / folder).mkdir()
    check_same_everywhere(store("here"), gather_with(store("there")))
    with pytest.raises(UserError, match="different text, this one 20 documents"):
        check_same_everywhere(store("here"), gather_with(store("other", 21)))


def test_a_run_of_an_earlier_version_goes_on_if_its_tokens_show_the_same_text(tmp_path: Path) -> None:
    """Then a run noted a place, a size and a time, which another text can have too."""
    before, (here, there) = "0123456789abcdef", (tmp_path / "here", tmp_path / "there")
    here.mkdir()
    there.mkdir()
    data = read_data(make_plan(arguments(here, 20)), Accelerator(cpu=True))
    with pytest.raises(UserError, match="begun by an earlier version"):
        check_same_data(before, data)
    shutil.copytree(data.store.folder, cached_store(before))
    check_same_data(before, data)
    other = read_data(make_plan(arguments(there, 21)), Accelerator(cpu=True))
    with pytest.raises(UserError, match="not what the run began with"):
        check_same_data(before, other)
    check_same_data(other.fingerprint, other)


def test_a_builtin_that_is_not_the_builtin_corpus_is_named_as_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of tokens of that name, in the working directory, is not read in its place either."""
    monkeypatch.chdir(tmp_path)
    data = read_data(make_plan(arguments(tmp_path, 20)), Accelerator(cpu=True))
    shutil.copytree(data.store.folder, tmp_path / "builtin")
    assert find_corpus(PretrainArguments(output_dir="x", corpus=["./builtin"])) == Path("builtin")
    monkeypatch.setattr(data_module, "open_corpus", lambda sources, **_: sources)
    assert find_corpus(PretrainArguments(output_dir="x")) == ["builtin"]
    for name, value in (("document", "line"), ("text_column", "body")):
        with pytest.raises(UserError, match=f"tokenised already; --{name}"):
            find_corpus(PretrainArguments(output_dir="x", corpus=["./builtin"], **{name: value}))  # type: ignore[arg-type]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_corpus(PretrainArguments(output_dir="x", corpus=["~/builtin"])) == tmp_path / "builtin"


def test_the_folder_of_a_fine_tuning_has_no_step_to_replay(tmp_path: Path) -> None:
    (tmp_path / "arguments.json").write_text('{"dataset": "reviews.csv", "seed": 1}')
    with pytest.raises(UserError, match="holds a fine-tuning, not a pre-training; only pre-training can be replayed"):
        of_run(str(tmp_path))
