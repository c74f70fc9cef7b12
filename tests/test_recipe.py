"""The recipe: its table starts from the defaults of the code, and what was tried can be tried again."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from commands import REPOSITORY, environment, write_corpus

from hf_minibert.errors import UserError
from hf_minibert.presets import FAMILIES, LEARNING_RATES, MODELS
from hf_minibert.pretraining.arguments import PretrainArguments
from hf_minibert.pretraining.optimization import EMBEDDINGS_RATE
from hf_minibert.pretraining.plan import make_plan

BENCHMARKS = REPOSITORY / "benchmarks"


@pytest.fixture(name="recipe")
def _recipe(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("recipe")


@pytest.mark.parametrize("model", MODELS)
def test_the_tables_baseline_is_the_default(
    recipe: ModuleType, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # where the batch is another
    plan = make_plan(PretrainArguments(model=model, output_dir=str(tmp_path)))
    arguments = plan.arguments
    tokens_per_step = arguments.per_device_train_batch_size * arguments.max_seq_length
    found = vars(arguments) | {"tokens_per_step": tokens_per_step}
    rates, (family, size) = LEARNING_RATES["muon"]["modern"], model.split("-")
    for name, value in (recipe.BASELINES[family] | {"learning_rate": rates[size]}).items():
        assert value == (EMBEDDINGS_RATE if name == "EMBEDDINGS_RATE" else found[name]), name
    assert recipe.BASELINE["learning_rate"] == rates["mini"]


@pytest.mark.parametrize("family", FAMILIES)
def test_each_variant_changes_something(recipe: ModuleType, family: str, tmp_path: Path) -> None:
    """What it sets makes another model or another run than the baseline, and than any other variant."""
    length = FAMILIES[family].max_seq_length

    def outcome(changed: dict[str, Any]) -> str:
        settings = recipe.BASELINES[family] | changed
        if "tokens_per_step" in settings:
            settings["per_device_train_batch_size"] = settings.pop("tokens_per_step") // length
        elsewhere = {"EMBEDDINGS_RATE": settings.pop("EMBEDDINGS_RATE")}
        for name in [name for name in settings if name.startswith("ingredients.")]:
            elsewhere[name] = settings.pop(name)
            assert callable(getattr(recipe.ingredients, name.removeprefix("ingredients.")))
        plan = make_plan(PretrainArguments(model=f"{family}-mini", output_dir=str(tmp_path), **settings))
        arguments = vars(plan.arguments) | {"config_overrides": None, "architecture": None}
        return json.dumps([plan.config.to_dict(), arguments, elsewhere], sort_keys=True)

    outcomes = {variant: outcome(changed) for variant, changed in recipe.VARIANTS[family].items()}
    assert len(set(outcomes.values())) == len(outcomes), outcomes


def test_an_unknown_variant_is_named(recipe: ModuleType) -> None:
    with pytest.raises(UserError, match="'droput 0.1' of minigpt; there is dropout 0.1"):
        recipe.main(recipe.Arguments(family="minigpt", variants=["droput 0.1"]))


@pytest.mark.slow
def test_the_ingredients_of_experiments(recipe: ModuleType, tmp_path: Path) -> None:
    """Each trains, and ends elsewhere than the baseline."""
    ingredients = {
        name: variant
        for variant, changed in recipe.VARIANTS["minibert"].items()
        for name in changed
        if name.startswith("ingredients.")
    }
    corpus = write_corpus(tmp_path / "corpus.jsonl")
    losses = {}
    for variant in ("baseline", *ingredients.values()):
        words = ["--one", "--size", "tiny", "--variants", variant, "--max_tokens", "30000", "--corpus", str(corpus)]
        done = subprocess.run(
            [sys.executable, str(BENCHMARKS / "recipe.py"), *words, "--output_dir", str(tmp_path)],
            env=environment(tmp_path / "cache"),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        metrics = json.loads((tmp_path / "minibert-tiny" / "results.json").read_text(encoding="utf-8"))["metrics"]
        losses[variant] = metrics.get("eval_mlm_loss", metrics["eval_loss"])
    assert len(set(losses.values())) == len(losses), losses
