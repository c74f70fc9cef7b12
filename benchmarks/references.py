r"""Train the reference checkpoints by the default recipe, measure them, and write their cards.

::

    python benchmarks/references.py --output_dir checkpoints \
        --corpus wikipedia_en/train.jsonl.xz books_en/train.jsonl.xz --corpus_license cc-by-sa-3.0 other
    python benchmarks/references.py --models minibert-mini minigpt-mini --budget 1h --data data \
        --cards_dir model_cards --output_dir runs/references \
        --corpus wikipedia_en/train.jsonl.xz books_en/train.jsonl.xz --corpus_license cc-by-sa-3.0 other

The first makes the two that travel with the package. Each model is a run of `hf-minibert pretrain`, of which the folder
keeps what opens the model and what its card is made from. Weights are stored in bfloat16, to take half the space.

With `--data`, a folder with ``blimp``, ``glue`` (a folder for each task) and ``imdb``, a model is then measured as
users would: minimal pairs by `evaluate --suite blimp`, the tasks by `finetune` with its defaults. The card shows all
figures. With `--work_dir`, a command that was stopped goes on where it was: what a run there has is not done again. A
run of other settings is refused, and a figure of other seeds or limits is measured again.
"""

import json
import shutil
import statistics
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

import imdb
import tasks
from hf_minibert.certificate.certificate import CERTIFICATE, certify
from hf_minibert.command_line import run
from hf_minibert.errors import UserError
from hf_minibert.files import write_json
from hf_minibert.hub.card import render_card
from hf_minibert.presets import load_config
from hf_minibert.pretraining.arguments import PretrainArguments
from hf_minibert.tokenization import load_tokenizer, save_tokenizer
from runs import has_ended, last_two_parts, pretrain_alone, results_of, script, show_card

MODELS = ("minibert-tiny", "minigpt-tiny")
RECORD = ("arguments.json", "results.json", "curves.png")
MAX_TOKENS = 10_000_000
IMDB = tasks.Row(
    "imdb",
    "test_accuracy",
    flags={
        "label_names": imdb.LABELS,
        "max_seq_length": imdb.Arguments.finetune_max_seq_length,
        "num_train_epochs": 1.0,
    },
)
"""As `imdb.py` has it."""
BLIMP = "BLiMP"
ROWS = {name: tasks.ROWS[name] for name in tasks.GLUE} | {"imdb": IMDB}


@dataclass(kw_only=True)
class Arguments:
    """Train the reference checkpoints, and measure them."""

    corpus: list[str]
    """Files of general English."""
    corpus_license: list[str] | None = None
    """Their licences, by the Hub's identifiers."""
    output_dir: str
    """Folder for a folder of each model."""
    models: list[str] = field(default_factory=lambda: list(MODELS))
    """Families and sizes."""
    budget: str | None = None
    """Time of each pre-training. Default: as many tokens as --max_tokens says."""
    max_tokens: int | None = None
    """Tokens that each model reads. Default: 10 million, if there is no --budget."""
    data: str | None = None
    """Folder of the data sets to measure on. Default: nothing is measured but the held-out text."""
    seeds: int = 3
    """Fine-tunings on each task."""
    tasks: list[str] = field(default_factory=lambda: [BLIMP, *ROWS])
    """What to measure: BLiMP, and tasks of `ROWS`."""
    max_train_samples: int | None = None
    """Fine-tune on so many examples only, to try the command."""
    max_eval_samples: int | None = None
    """Measure on so many only, and on so many pairs of each paradigm."""
    work_dir: str | None = None
    """Folder where the runs stay. Default: a temporary one."""
    cards_dir: str | None = None
    """Folder for the cards beside the checkpoints; the repository's are in `model_cards`."""


def main(arguments: Arguments) -> int:
    """Train each, measure it, and keep what opens it."""
    unknown = [name for name in arguments.tasks if name not in (BLIMP, *ROWS)]
    if unknown:
        raise UserError(f"tasks must be of {', '.join((BLIMP, *ROWS))}, got {unknown[0]}; choose among them")
    for model in arguments.models:
        with TemporaryDirectory() if arguments.work_dir is None else nullcontext(arguments.work_dir) as work:
            run_folder = Path(work) / model
            status = pretrained(arguments, model, run_folder)
            if status:
                return status
            if arguments.data is not None:
                measure(arguments, run_folder, Path(arguments.data).resolve())
            keep(run_folder, Path(arguments.output_dir) / model)
            if arguments.cards_dir is not None:
                show_card(Path(arguments.output_dir) / model, Path(arguments.cards_dir))
    return 0


def pretrained(arguments: Arguments, model: str, run_folder: Path) -> int:
    """Pre-train a model, unless its run has ended; the exit status.

    Raises:
        UserError: it has ended, with other settings.
    """
    max_tokens = arguments.max_tokens or (None if arguments.budget else MAX_TOKENS)
    made = {
        "model": model,
        "corpus": [last_two_parts(source) for source in arguments.corpus],
        "corpus_license": arguments.corpus_license,
        "budget": arguments.budget,
        "max_tokens": max_tokens,
    }
    if has_ended(run_folder, made, "work_dir"):
        return 0
    return pretrain_alone(
        PretrainArguments(
            model=model,
            corpus=arguments.corpus,
            corpus_license=arguments.corpus_license,
            budget=arguments.budget,
            max_tokens=max_tokens,
            output_dir=str(run_folder),
            resume=any(run_folder.glob("checkpoint-*")),
            report_to=["none"],
        )
    )


def measure(arguments: Arguments, model: Path, data: Path) -> None:
    """Add to a run's results, from which its card is made, what it reaches on minimal pairs and on the tasks.

    A task is fine-tuned with each seed. Figures that the results have, of as many seeds and of the same limits, are not
    measured again.
    """
    output = model.parent / f"{model.name}-measured"
    settings = tasks.Arguments(
        seeds=arguments.seeds,
        max_train_samples=arguments.max_train_samples,
        max_eval_samples=arguments.max_eval_samples,
    )
    for name in arguments.tasks:
        results = results_of(model)
        rows = results.get("evaluations", [])
        limits = {"max_eval_samples": arguments.max_eval_samples}
        if name != BLIMP:  # which trains nothing
            limits["max_train_samples"] = arguments.max_train_samples
        wanted = {"name": name, "seeds": 1 if name == BLIMP else arguments.seeds, **limits}
        if any(all(row.get(key) == value for key, value in wanted.items()) for row in rows):
            continue
        if name == BLIMP:
            metric, values = "accuracy", [minimal_pairs(arguments, model, data, output / "blimp")]
        else:
            row = ROWS[name]
            metric = row.metric
            values = tasks.finetune(settings, row, model, tasks.files_of(data, row), output / name)["values"]
        found = {"name": name, "metric": metric, "value": statistics.mean(values), "seeds": len(values)}
        if len(values) > 1:
            found["standard_deviation"] = statistics.stdev(values)
        found |= {key: value for key, value in limits.items() if value is not None}
        words = {"max_train_samples": "{:,} to train on", "max_eval_samples": "{:,} to measure on"}
        if name == BLIMP:
            words["max_eval_samples"] = "{:,} pairs of each paradigm"
        if said := [words[key].format(value) for key, value in limits.items() if value is not None]:
            found["limits"] = f"at most {', '.join(said)}"
        results["evaluations"] = [*(row for row in rows if row["name"] != name), found]
        write_json(model / "results.json", results)


def minimal_pairs(arguments: Arguments, model: Path, data: Path, output: Path) -> float:
    """The accuracy on BLiMP, as a share."""
    script(
        "evaluate.py",
        suite="blimp",
        model_name_or_path=model,
        dataset=data / "blimp" / "blimp.jsonl.xz",
        max_pairs=arguments.max_eval_samples,
        output_dir=output,
    )
    return float(results_of(output)["accuracy"]) / 100


def keep(run_folder: Path, folder: Path) -> None:
    """Write a finished run without its checkpoints and logs, its weights in bfloat16."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in RECORD:
        shutil.copyfile(run_folder / name, folder / name)
    auto_classes = {"minibert": AutoModelForMaskedLM, "minigpt": AutoModelForCausalLM}
    auto_class = auto_classes[load_config(str(run_folder)).model_type]
    auto_class.from_pretrained(run_folder, dtype=torch.bfloat16).save_pretrained(folder)
    save_tokenizer(load_tokenizer(run_folder), folder)
    (folder / "model.safetensors").chmod(0o644)  # as git keeps it
    for code in folder.glob("*.py"):  # which the package that they travel with has
        code.unlink()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config.pop("auto_map", None)
    write_json(folder / "config.json", config)
    write_json(folder / CERTIFICATE, certify(folder))  # of the weights that are kept
    card = render_card(folder, place=Path(folder.parent.name) / folder.name)
    (folder / "README.md").write_text(card, encoding="utf-8")


if __name__ == "__main__":
    run(Arguments, main)
