"""What each ingredient of the default recipe gives: one thing changed at a time, on the same text for the same tokens.

::

    python benchmarks/recipe.py --family minibert --corpus 'texts/*.jsonl.xz' --seeds 42 43
    python benchmarks/recipe.py --family minigpt --variants baseline adamw 'lr 6e-3'

Each variant changes one thing of a baseline that is written down here, so that the table stays what it is when the
defaults follow it. Runs are equal in tokens, not in time, so that they may share a machine with other work and be
repeated elsewhere; what a variant costs in speed is in `step_speed.py`. What is there already is not run again: delete
a row of the results to repeat it. A negative result stays in the table.
"""

import importlib
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hf_minibert.command_line import run
from hf_minibert.files import write_json
from hf_minibert.training.arguments import PretrainArguments
from hf_minibert.training.pretrain import pretrain
from hf_minibert.training.report import environment

RESULTS = Path(__file__).parent / "results"

JORDAN = ((3.4445, -4.7750, 2.0315),) * 5  # Jordan et al. 2024
# The best three steps for singular values from 0.001 to 1 (Amsel et al. 2025, arXiv:2505.16932).
POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
)

BASELINE: dict[str, Any] = {
    "learning_rate": 3e-3,
    "mlm_probability": 0.15,
    "tokens_per_step": 2048,
    "optimizer": "muon",
    "hf_minibert.training.muon.COEFFICIENTS": JORDAN,
    "lr_scheduler_type": "linear",
    "warmup_steps": 0.05,
    "weight_decay": 0.1,
    "adam_beta1": 0.9,
    "adam_beta2": 0.98,
    "max_grad_norm": 1.0,
}

# What a variant replaces: settings of pre-training, or (where the recipe has no setting) a constant of the code.
BOTH: dict[str, dict[str, Any]] = {
    "baseline": {},
    "adamw": {"optimizer": "adamw"},
    "adamw, lr 1.5e-3": {"optimizer": "adamw", "learning_rate": 1.5e-3},
    "lr 1.5e-3": {"learning_rate": 1.5e-3},
    "lr 6e-3": {"learning_rate": 6e-3},
    "lr 1.2e-2": {"learning_rate": 1.2e-2},
    "1,024 tokens a step": {"tokens_per_step": 1024},
    "4,096 tokens a step": {"tokens_per_step": 4096},
    "4,096 tokens a step, lr 6e-3": {"tokens_per_step": 4096, "learning_rate": 6e-3},
    "1,024 tokens a step, lr 6e-3": {"tokens_per_step": 1024, "learning_rate": 6e-3},
    "cosine": {"lr_scheduler_type": "cosine"},
    "warmup-stable-decay": {"lr_scheduler_type": "warmup_stable_decay"},
    "warm-up of 1%": {"warmup_steps": 0.01},
    "warm-up of 15%": {"warmup_steps": 0.15},
    "Muon in 3 repetitions": {"hf_minibert.training.muon.COEFFICIENTS": JORDAN[:3]},
    "Muon in 4 repetitions": {"hf_minibert.training.muon.COEFFICIENTS": JORDAN[:4]},
    "Muon in 3 of Polar Express": {"hf_minibert.training.muon.COEFFICIENTS": POLAR_EXPRESS},
    "beta2 0.95": {"adam_beta2": 0.95},
    "beta2 0.999": {"adam_beta2": 0.999},
    "no weight decay": {"weight_decay": 0.0},
    "weight decay 0.3": {"weight_decay": 0.3},
    "clipping at 10": {"max_grad_norm": 10.0},
    "dropout 0.1": {"config_overrides": "hidden_dropout_prob=0.1,attention_probs_dropout_prob=0.1"},
    "initialisation 0.04": {"config_overrides": "initializer_range=0.04"},
    "initialisation 0.01": {"config_overrides": "initializer_range=0.01"},
    "residual ends scaled": {"config_overrides": "scale_residual_init=true"},
    "learned positions": {"config_overrides": "position_embedding_type=absolute"},
    "LayerNorm": {"config_overrides": "norm_type=layer_norm"},
    "norm behind": {"config_overrides": "norm_placement=post"},
    "no gate": {"config_overrides": "gated_mlp=false"},
    "squared ReLU, no gate": {"config_overrides": "gated_mlp=false,hidden_act=relu2"},
    "rope_theta 1,000": {"config_overrides": "rope_theta=1000"},
    "6 layers of 192": {"config_overrides": "num_hidden_layers=6,hidden_size=192,num_attention_heads=3"},
    "2 layers of 384": {"config_overrides": "num_hidden_layers=2,hidden_size=384,num_attention_heads=6"},
    "classic": {"architecture": "classic"},
    "classic, lr 3e-3": {"architecture": "classic", "learning_rate": 3e-3},
    "classic, adamw": {"architecture": "classic", "optimizer": "adamw"},
}
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "minibert": BOTH
    | {
        "masking 20%": {"mlm_probability": 0.2},
        "masking 30%": {"mlm_probability": 0.3},
        "masking 40%": {"mlm_probability": 0.4},
        "masking 30%, lr 6e-3": {"mlm_probability": 0.3, "learning_rate": 6e-3},
        "masking 40%, lr 6e-3": {"mlm_probability": 0.4, "learning_rate": 6e-3},
        "masking 30%, lr 6e-3, Muon in 3 of Polar Express": {
            "mlm_probability": 0.3,
            "learning_rate": 6e-3,
            "hf_minibert.training.muon.COEFFICIENTS": POLAR_EXPRESS,
        },
        "masking 30%, 1,024 tokens a step": {"mlm_probability": 0.3, "tokens_per_step": 1024},
    },
    "minigpt": BOTH,
}


@dataclass(kw_only=True)
class Arguments:
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
    for name, value in (BASELINE | VARIANTS[arguments.family][arguments.variants[0]]).items():
        module, dot, constant = name.rpartition(".")
        if dot:
            setattr(importlib.import_module(module), constant, value)
        elif name == "tokens_per_step":
            settings["per_device_train_batch_size"] = value // length
        else:
            settings[name] = value
    return pretrain(
        PretrainArguments(
            model=f"{arguments.family}-{arguments.size}",
            corpus=arguments.corpus,
            max_tokens=arguments.max_tokens,
            max_seq_length=length,
            seed=arguments.seeds[0],
            output_dir=str(folder),
            overwrite_output_dir=True,
            **settings,
        )
    )


def main(arguments: Arguments) -> int:
    """All runs that are not there yet, one after another."""
    known = VARIANTS[arguments.family]
    output = Path(arguments.output_dir).resolve() / f"{arguments.family}-{arguments.size}"
    if arguments.one:
        return train(arguments, output)
    file = RESULTS / f"recipe-{arguments.family}-{arguments.size}.json"
    rows: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.exists() else []
    for seed in arguments.seeds:
        for variant in arguments.variants or list(known):
            if any((row["variant"], row["seed"]) == (variant, seed) for row in rows):
                continue
            command = [sys.executable, __file__, "--one", "--family", arguments.family, "--size", arguments.size]
            command += ["--variants", variant, "--seeds", str(seed), "--max_tokens", str(arguments.max_tokens)]
            command += ["--output_dir", arguments.output_dir, "--corpus", *arguments.corpus]
            subprocess.run(command, check=True)
            results = json.loads((output / "results.json").read_text(encoding="utf-8"))
            row = {"variant": variant, "settings": known[variant], "seed": seed, "metrics": results["metrics"]}
            for key in ("seconds", "tokens_per_second"):  # of runs beside other work, they say nothing
                del results["training"][key]
            rows.append(row | {key: results[key] for key in ("num_parameters", "training")})
            write_json(
                file,
                {
                    "family": arguments.family,
                    "size": arguments.size,
                    "max_tokens": arguments.max_tokens,
                    "corpus": [Path(name).parent.name + "/" + Path(name).name for name in arguments.corpus],
                    "baseline": BASELINE,
                    "rows": rows,
                    "environment": environment(),
                },
            )
    return 0


if __name__ == "__main__":
    run(Arguments, main)
