"""What each ingredient of the default recipe gives: one thing changed at a time, on the same text for the same tokens.

::

    python benchmarks/recipe.py --family minibert --corpus 'texts/*.jsonl.xz' --seeds 42 43
    python benchmarks/recipe.py --family minigpt --budget 5m --variants baseline '1,024 tokens a step, lr 4e-3'

Each variant changes one thing of a baseline that is written down here, so that the table stays true when the defaults
change. Runs are equal in tokens, so that they may share a machine with other work and be repeated elsewhere. With
`--budget` they are equal in time, for variants that cost time or save it. Rows that the result file has are not run
again: delete one to repeat it. A negative result stays in the table. A machine that does not compute in bfloat16 has
files of its own (`-fp32`), and so has a GPU.
"""

import difflib
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import ingredients
from hf_minibert.command_line import run
from hf_minibert.errors import UserError
from hf_minibert.presets import FAMILIES, LEARNING_RATES, SIZES, START
from hf_minibert.pretraining import optimization
from hf_minibert.pretraining.arguments import PretrainArguments
from hf_minibert.runs.hardware import TOKENS_PER_BATCH, hardware
from runs import (
    Benchmark,
    curves,
    device,
    environment,
    last_two_parts,
    log_of,
    machine,
    pretrain_alone,
    results_of,
    results_so_far,
    unit,
    write_results,
)

# A variant that won an earlier round is part of the baseline, and a row of its own undoes it. The earlier rounds are in
# `*-first.json` to `*-fourth.json`.
BASELINE: dict[str, Any] = {
    "learning_rate": 6e-3,
    "EMBEDDINGS_RATE": 8.0,
    "mlm_probability": 0.3,
    "tokens_per_step": 2048,
    "optimizer": "muon",
    "lr_scheduler_type": "linear",
    "warmup_steps": 0.05,
    "adam_beta1": 0.9,
    "adam_beta2": 0.98,
    "max_grad_norm": 1.0,
}

EVALUATED_ROWS = 384  # the same for all rows of a table, whatever the default

BASELINES: dict[str, dict[str, Any]] = {
    "minibert": BASELINE | {"weight_decay": 0.1},
    "minigpt": BASELINE | {"weight_decay": 0.8},
}

# What a variant replaces: settings of pre-training; the constant EMBEDDINGS_RATE of `pretraining/optimization.py`; or a
# function of `ingredients`, here with its arguments, which changes the code.
BOTH: dict[str, dict[str, Any]] = {
    "baseline": {},
    "adamw, lr 7.5e-4": {"optimizer": "adamw", "learning_rate": 7.5e-4},
    "adamw, lr 1.5e-3": {"optimizer": "adamw", "learning_rate": 1.5e-3},
    "adamw, lr 3e-3": {"optimizer": "adamw", "learning_rate": 3e-3},
    "lr 1.5e-3": {"learning_rate": 1.5e-3},
    "lr 3e-3": {"learning_rate": 3e-3},
    "lr 1.2e-2": {"learning_rate": 1.2e-2},
    "Muon's steps half as long": {"learning_rate": 3e-3, "EMBEDDINGS_RATE": 16.0},
    "Muon's steps twice as long": {"learning_rate": 1.2e-2, "EMBEDDINGS_RATE": 4.0},
    "AdamW's steps half as long": {"EMBEDDINGS_RATE": 4.0},
    "AdamW's steps twice as long": {"EMBEDDINGS_RATE": 16.0},
    "directions of Muon kept for two steps": {"ingredients.directions_kept": (2,)},
    # They bring singular values from 0.05 on to between 0.6 and 1.5, and smaller ones less far than the three do.
    "Muon in two quintics": {"ingredients.quintics": ((6.4921, -18.3791, 13.4429), (3.5313, -3.4607, 0.9714))},
    # At the cost of the three: singular values from 0.01 on end between 0.8 and 1.4, and not between 0.2 and 1.9.
    "Muon in three fitted quintics": {
        "ingredients.quintics": ((6.546, -19.0884, 14.0915), (4.4142, -5.0197, 1.5061), (2.9485, -2.1895, 0.5))
    },
    "rows of Muon's steps normalised": {"ingredients.normalised_rows": (0.95,)},
    "rate falls over three quarters, to 5%": {
        "lr_scheduler_type": "warmup_stable_decay",
        "ingredients.rate_falls": (0.75, 0.05),
    },
    "rate falls to 5%": {
        "lr_scheduler_type": "warmup_stable_decay",
        "ingredients.rate_falls": (0.95, 0.05),
    },
    "norms without weights": {"ingredients.norms_without_weights": ()},
    "1,024 tokens a step": {"tokens_per_step": 1024},
    "1,024 tokens a step, lr 4e-3": {"tokens_per_step": 1024, "learning_rate": 4e-3},
    "4,096 tokens a step": {"tokens_per_step": 4096},
    "16,384 tokens a step": {"tokens_per_step": 16_384},
    "batch from 1,024 to 3,072": {"tokens_per_step": 1024, "ingredients.batch_grows": (1, 3)},
    "rows of half the length for the first half": {"ingredients.shorter_rows_first": (2, 0.5)},
    "rows of a quarter for the first half": {"ingredients.shorter_rows_first": (4, 0.5)},
    "cosine": {"lr_scheduler_type": "cosine"},
    "warmup-stable-decay": {"lr_scheduler_type": "warmup_stable_decay"},
    "warm-up of 1%": {"warmup_steps": 0.01},
    "warm-up of 15%": {"warmup_steps": 0.15},
    "beta1 0.95": {"adam_beta1": 0.95},
    "beta2 0.95": {"adam_beta2": 0.95},
    "beta2 0.999": {"adam_beta2": 0.999},
    "no weight decay": {"weight_decay": 0.0},
    "weight decay 0.3": {"weight_decay": 0.3},
    "clipping at 10": {"max_grad_norm": 10.0},
    "weights averaged over 50 steps": {"ingredients.averaged_weights": (0.98,)},
    "dropout 0.1": {"config_overrides": "hidden_dropout_prob=0.1,attention_probs_dropout_prob=0.1"},
    "initialisation 0.04": {"config_overrides": "initializer_range=0.04"},
    "initialisation 0.01": {"config_overrides": "initializer_range=0.01"},
    "residual ends as all else": {"config_overrides": "residual_init=normal"},
    "residual ends scaled": {"config_overrides": "residual_init=scaled"},
    "QK-norm": {"config_overrides": "qk_norm=true"},
    "z-loss": {"ingredients.z_loss": (1e-4,)},
    "untied head": {"config_overrides": "tie_word_embeddings=false"},
    "learned positions": {"config_overrides": "position_embedding_type=absolute"},
    "LayerNorm": {"config_overrides": "norm_type=layer_norm"},
    "norm behind": {"config_overrides": "norm_placement=post"},
    "GELU, no gate": {"config_overrides": "gated_mlp=false,hidden_act=gelu"},
    "squared ReLU, no gate": {"config_overrides": "gated_mlp=false,hidden_act=relu2"},
    "rope_theta 1,000": {"config_overrides": "rope_theta=1000"},
    "6 layers of 192": {"config_overrides": "num_hidden_layers=6,hidden_size=192,num_attention_heads=3"},
    "2 layers of 384": {"config_overrides": "num_hidden_layers=2,hidden_size=384,num_attention_heads=6"},
    "classic, lr 5e-4": {"architecture": "classic", "learning_rate": 5e-4},
    "classic, lr 1e-3": {"architecture": "classic", "learning_rate": 1e-3},
    "classic, lr 2e-3": {"architecture": "classic", "learning_rate": 2e-3},
    "classic, lr 4e-3": {"architecture": "classic", "learning_rate": 4e-3},
    "classic, adamw, lr 1e-3": {"architecture": "classic", "optimizer": "adamw", "learning_rate": 1e-3},
}
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "minibert": BOTH
    | {
        "weight decay 0.03": {"weight_decay": 0.03},
        "weight decay 0.8": {"weight_decay": 0.8},
        "masking 15%": {"mlm_probability": 0.15},
        "masking 20%": {"mlm_probability": 0.2},
        "masking 40%": {"mlm_probability": 0.4},
        "masking 50%": {"mlm_probability": 0.5},
        "masking from 40% to 15%": {"ingredients.masking_falls": (0.4, 0.15)},
        "masking from 50% to 20%": {"ingredients.masking_falls": (0.5, 0.2)},
        "hybrid, a sixteenth causal": {"objective": "hybrid", "masked_share": 15 / 16},
        "causal for the first quarter": {"objective": "hybrid", "ingredients.causal_first": (0.25,)},
        "causal for the first half": {"objective": "hybrid", "ingredients.causal_first": (0.5,)},
    },
    "minigpt": BOTH
    | {
        "weight decay 0.1": {"weight_decay": 0.1},
        "weight decay 1.6": {"weight_decay": 1.6},
    },
}


@dataclass(kw_only=True)
class Arguments(Benchmark):
    """Train variants of the default recipe, and write what each reached."""

    family: Literal["minibert", "minigpt"] = "minibert"
    """Which model."""
    size: str = "mini"
    """tiny, mini, small or medium."""
    variants: list[str] | None = None
    """Which of the variants; default, all."""
    corpus: list[str] = field(default_factory=lambda: ["builtin"])
    """Text, as in `scripts/pretrain.py`."""
    max_tokens: int = 1_000_000
    """Tokens that each run reads."""
    budget: str | None = None
    """Time for each run instead, as in `scripts/pretrain.py`; nothing else may run on the machine."""
    seeds: list[int] = field(default_factory=lambda: [42])
    """A run of each variant for each."""
    output_dir: str = "runs/recipe"
    """Folder for the runs."""
    one: bool = False
    """For a run's own process: train the one variant with the one seed."""


def train(arguments: Arguments, folder: Path) -> int:
    """A run's own process: replace what the variant does, and train."""
    assert arguments.variants is not None
    settings: dict[str, Any] = {}
    length = {"minibert": 128, "minigpt": 256}[arguments.family]
    for name, value in (BASELINES[arguments.family] | VARIANTS[arguments.family][arguments.variants[0]]).items():
        if name.startswith("ingredients."):
            getattr(ingredients, name.removeprefix("ingredients."))(*value)
        elif name == "EMBEDDINGS_RATE":
            optimization.EMBEDDINGS_RATE = value
        elif name == "tokens_per_step":
            settings["per_device_train_batch_size"] = value // length
        else:
            settings[name] = value
    return pretrain_alone(
        PretrainArguments(
            model=f"{arguments.family}-{arguments.size}",
            corpus=arguments.corpus,
            max_tokens=None if arguments.budget else arguments.max_tokens,
            budget=arguments.budget,
            max_seq_length=length,
            seed=arguments.seeds[0],
            max_eval_samples=EVALUATED_ROWS,
            dataloader_num_workers=0,  # a process that loads would keep the rows as they were before an ingredient
            output_dir=str(folder),
            overwrite_output_dir=True,
            **settings,
        )
    )


def table(figures: dict[str, Any]) -> list[str]:
    """The loss after changing one thing of the baseline, best first."""
    is_causal = figures["family"] == "minigpt"
    key = "eval_bits_per_byte" if is_causal else "eval_loss"
    rows = figures["rows"]
    baselines = {row["seed"]: row["metrics"][key] for row in rows if row["variant"] == "baseline"}
    end = figures["end"]
    length = f"{end['max_tokens'] / 1e6:g} million tokens" if "max_tokens" in end else end["budget"]
    length += f" on {end['hardware']}" if "hardware" in end else ""
    lines = [
        f"| `{figures['family']}-{figures['size']}`, {length} | seed | {unit(key)} | against the baseline |",
        "|---|---:|---:|---:|",
    ]
    losses = [(row["metrics"].get("eval_mlm_loss", row["metrics"][key]), row) for row in rows]
    for loss, row in sorted(losses, key=lambda pair: pair[0]):
        beside = f"{loss - baselines[row['seed']]:+.3f}" if row["seed"] in baselines else ""
        lines.append(f"| {row['variant']} | {row['seed']} | {loss:.3f} | {beside} |")
    return [*lines, "", f"(held-out text of {', '.join(figures['corpus'])})"]


def defaults() -> list[str]:
    """The default recipe, read from the code."""
    usual = PretrainArguments(output_dir="")
    rows = [
        (f"{optimizer}, {architecture}", by_size.values())
        for optimizer, rates in LEARNING_RATES.items()
        for architecture, by_size in rates.items()
    ]
    by_family: dict[str, dict[str, Any]] = {
        "--weight_decay": {name: family.weight_decay for name, family in FAMILIES.items()},
        "--max_seq_length": {name: family.max_seq_length for name, family in FAMILIES.items()},
    }
    shared = {
        "--optimizer": usual.optimizer,
        "AdamW beside Muon": f"{optimization.EMBEDDINGS_RATE:g} times its rate",
        "residual ends, modern": START["modern"]["residual_init"],
        "--lr_scheduler_type": usual.lr_scheduler_type,
        "--warmup_steps": usual.warmup_steps,
        "--adam_beta1": usual.adam_beta1,
        "--adam_beta2": usual.adam_beta2,
        "--max_grad_norm": usual.max_grad_norm,
        "--mlm_probability": usual.mlm_probability,
        "tokens a step on each device": f"{TOKENS_PER_BATCH['cpu']:,}, on a CUDA GPU {TOKENS_PER_BATCH['cuda']:,}",
    } | {flag: ", ".join(f"{value} for {name}" for name, value in values.items()) for flag, values in by_family.items()}
    return [
        f"| peak `--learning_rate` | {' | '.join(SIZES)} |",
        "|---|" + "---:|" * len(SIZES),
        *(f"| {name} | {' | '.join(f'{value:g}' for value in values)} |" for name, values in rows),
        "",
        f"At all sizes: {'; '.join(f'{name} {value}' for name, value in shared.items())}.",
    ]


def main(arguments: Arguments) -> int:
    """All runs that are not there yet, one after another.

    Raises:
        UserError: there is no such variant.
    """
    known = VARIANTS[arguments.family]
    for variant in arguments.variants or ():
        if variant not in known:
            close = difflib.get_close_matches(variant, known, n=1) or list(known)
            raise UserError(f"unknown variant {variant!r} of {arguments.family}; there is {', '.join(close)}")
    output = Path(arguments.output_dir).resolve() / f"{arguments.family}-{arguments.size}"
    if arguments.one:
        return train(arguments, output)
    tokens = f"{arguments.max_tokens // 1000}k" if arguments.max_tokens != Arguments.max_tokens else None
    parts = ("recipe", arguments.family, arguments.size, arguments.budget or tokens, *machine())
    file = arguments.results / f"{'-'.join(filter(None, parts))}.json"
    figures: dict[str, Any] = {
        "family": arguments.family,
        "size": arguments.size,
        "end": {"budget": arguments.budget, "hardware": hardware(device())}
        if arguments.budget
        else {"max_tokens": arguments.max_tokens},
        "corpus": [last_two_parts(name) for name in arguments.corpus],
        "baseline": BASELINES[arguments.family],
    }
    rows: list[dict[str, Any]] = results_so_far(file, figures, is_timed=arguments.budget is not None).get("rows", [])
    for seed in arguments.seeds:
        for variant in arguments.variants or list(known):
            if any((row["variant"], row["seed"]) == (variant, seed) for row in rows):
                continue
            command = [sys.executable, __file__, "--one", "--family", arguments.family, "--size", arguments.size]
            command += ["--variants", variant, "--seeds", str(seed), "--max_tokens", str(arguments.max_tokens)]
            command += ["--budget", arguments.budget] if arguments.budget else []
            command += ["--output_dir", arguments.output_dir, "--corpus", *arguments.corpus]
            subprocess.run(command, check=True)
            results = results_of(output)
            row = {"variant": variant, "settings": known[variant], "seed": seed, "metrics": results["metrics"]}
            if not arguments.budget:
                for key in ("seconds", "tokens_per_second"):  # of runs beside other work, they say nothing
                    del results["training"][key]
            row |= {key: results[key] for key in ("num_parameters", "training")} | {"curves": curves(log_of(output))}
            rows.append(row)
            write_results(file, figures | {"rows": rows, "environment": environment()})
    return 0


if __name__ == "__main__":
    run(Arguments, main)
