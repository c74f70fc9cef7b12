"""The recipe: its table starts from the defaults of the code, and what was tried can be tried again."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from commands import REPOSITORY, environment, write_corpus

from hf_minibert.presets import FAMILIES, LEARNING_RATES, MODELS
from hf_minibert.training.arguments import PretrainArguments
from hf_minibert.training.inputs import make_plan

BENCHMARKS = REPOSITORY / "benchmarks"
EXPERIMENTS = (
    "batch from 1,024 to 3,072",
    "causal for the first half",
    "masking from 40% to 15%",
    "QK-norm",
    "rows of half the length for the first half",
    "weights averaged over 50 steps",
    "z-loss",
)


@pytest.fixture(name="recipe")
def _recipe(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("recipe")


@pytest.mark.parametrize("model", MODELS)
def test_the_tables_baseline_is_the_default(recipe: ModuleType, model: str, tmp_path: Path) -> None:
    plan = make_plan(PretrainArguments(model=model, output_dir=str(tmp_path)))
    found = vars(plan.arguments) | {
        "learning_rate": plan.learning_rate,
        "tokens_per_step": plan.batch_size * plan.max_seq_length,
    }
    rates, (family, size) = LEARNING_RATES["muon"]["modern"], model.split("-")
    for name, value in (recipe.BASELINES[family] | {"learning_rate": rates[size]}).items():
        module, _, constant = name.rpartition(".")
        assert value == (vars(importlib.import_module(module))[constant] if module else found[name]), name
    assert recipe.BASELINE["learning_rate"] == rates["mini"]


def test_each_variant_changes_something(recipe: ModuleType) -> None:
    assert set(recipe.VARIANTS) == set(FAMILIES)
    for family, variants in recipe.VARIANTS.items():
        settings = [json.dumps(changed, sort_keys=True) for changed in variants.values()]
        assert len(set(settings)) == len(settings)
        for changed in variants.values():
            for name, value in changed.items():
                module, _, constant = name.rpartition(".")
                if module:
                    assert hasattr(importlib.import_module(module), constant)
                else:
                    assert recipe.BASELINES[family].get(name) != value


@pytest.mark.slow
def test_the_ingredients_of_experiments(tmp_path: Path) -> None:
    """Each trains, and ends elsewhere than the baseline."""
    corpus = write_corpus(tmp_path / "corpus.jsonl")
    losses = {}
    for variant in ("baseline", *EXPERIMENTS):
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
