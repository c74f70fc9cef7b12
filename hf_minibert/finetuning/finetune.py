"""Fine-tuning with `Trainer`: a pre-trained folder and labelled examples in, a model that a pipeline opens out."""

import logging
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

import torch
from datasets import disable_progress_bars
from tqdm import tqdm
from transformers import EvalPrediction, PrinterCallback
from transformers.utils.logging import disable_progress_bar

from hf_minibert.finetuning.arguments import FinetuneArguments
from hf_minibert.finetuning.durable import DurableTrainer, Stopped, Watch, row_lengths
from hf_minibert.finetuning.folder import VERB, claim_folder, folder_rules, is_finished, left_by_a_seed
from hf_minibert.finetuning.result import Outcome, closing_lines, write_result
from hf_minibert.finetuning.run import Run, read, with_seed
from hf_minibert.finetuning.trainer import OneBar, trainer_arguments
from hf_minibert.finetuning.unfinished import Unfinished
from hf_minibert.output_folder import check_folder, replace_files, staged_folder
from hf_minibert.runs.hardware import hardware
from hf_minibert.runs.scores import is_better
from hf_minibert.runs.stopping import StopSignal

logger = logging.getLogger(__name__)

MOST_LENGTHS = 64
"""About how many different lengths batches have, at most."""


def finetune(arguments: FinetuneArguments) -> int:
    """Train, evaluate after every epoch, keep the best, test once, and write the card.

    An earlier result in output_dir stays until the new one is whole, and is then replaced.

    Returns:
        The exit status: 0; after a signal and a checkpoint 143 (SIGTERM, SIGUSR1), 130 (Ctrl-C) or 129 (SIGHUP).

    Raises:
        UserError: the arguments or the data are not acceptable, or the fine-tuning diverges.
    """
    quiet()
    if is_finished(arguments):
        return 0
    check_folder(**folder_rules(arguments))
    run = read(arguments)
    with ExitStack() as held:
        unfinished = claim_folder(run, held)
        stop = held.enter_context(StopSignal())
        stop.wait_for_steps()
        try:
            outcomes = {seed: train_seed(run, seed, unfinished, stop) for seed in run.seeds}
            best = best_seed(run, outcomes)
            kept = outcomes[best]
            if len(run.seeds) > 1:
                kept = open_seed(run, best, unfinished, stop, kept)
        except Stopped as stopped:
            if run.processes.is_main_process:
                logger.info("%s; go on with the same command and --resume", stopped)
            return stopped.status
        if run.processes.is_main_process:
            folder = Path(arguments.output_dir)
            with staged_folder(folder) as staged:
                results = write_result(staged, kept, outcomes)
                replace_files(staged, folder, VERB, last="config.json")
            unfinished.forget()
            tqdm.write("\n" + "\n".join(closing_lines(run, results)))
    return 0


def train_seed(run: Run, seed: int, unfinished: Unfinished, stop: StopSignal) -> Outcome:
    """Train and measure with one seed, or read what an earlier command has measured.

    Raises:
        Stopped: a signal asked for it, and a checkpoint is saved.
    """
    many = len(run.seeds) > 1
    place = unfinished.of_seed(seed) if many else unfinished
    outcome, checkpoint = left_by_a_seed(run, place)
    if outcome is not None:
        return Outcome(**outcome)
    run = run if seed == run.seed else with_seed(run, seed)
    trainer, bar = build_trainer(run, place, stop)
    if seed == run.seeds[0] or checkpoint is not None:
        announce(run, trainer, checkpoint)
    if many and trainer.is_world_process_zero():
        tqdm.write(f"seed {seed}, {run.seeds.index(seed) + 1} of {len(run.seeds)}")
    try:
        trainer.train_from(checkpoint)
        history = list(trainer.state.log_history)
        metrics = measure(run, trainer)  # the best epoch again, after `history` is taken for the curve
    finally:
        bar.close()
    best_step = trainer.state.best_global_step
    found = Outcome(
        seed=seed,
        metrics=metrics,
        history=history,
        seconds=trainer.seconds,
        steps=trainer.state.global_step,
        epochs=round(float(trainer.state.epoch or 0), 2),
        best=f"checkpoint-{best_step}",
    )
    if many:
        if trainer.is_world_process_zero():
            place.finish(asdict(found))
        run.processes.wait_for_everyone()
        return found  # the model goes, before the next seed's comes; `open_seed` opens the best one again
    return replace(found, run=run, trainer=trainer)


def open_seed(run: Run, seed: int, unfinished: Unfinished, stop: StopSignal, outcome: Outcome) -> Outcome:
    """The model of a seed that was trained, with its best weights, measured again for what is written about it."""
    place = unfinished.of_seed(seed)
    run = with_seed(run, seed)
    trainer, bar = build_trainer(run, place, stop)
    trainer.take_weights(place.folder / outcome.best)
    measure(run, trainer)
    bar.close()
    return replace(outcome, run=run, trainer=trainer)


def measure(run: Run, trainer: DurableTrainer) -> dict[str, float]:
    """The figures of the evaluation split and of the test split."""
    metrics = trainer.evaluate()
    if "test" in run.rows:
        metrics |= trainer.evaluate(run.rows["test"], metric_key_prefix="test")
    return dict(metrics)


def best_seed(run: Run, outcomes: dict[int, Outcome]) -> int:
    """The seed that is best on the evaluation split; of equal ones, the first."""
    best, name = run.seeds[0], f"eval_{run.best_metric}"
    for seed, outcome in outcomes.items():
        if is_better(run.best_metric, outcome.metrics[name], outcomes[best].metrics[name]):
            best = seed
    return best


def build_trainer(run: Run, unfinished: Unfinished, stop: StopSignal) -> tuple[DurableTrainer, OneBar]:
    """`Trainer` and its progress bar."""
    task = run.task
    bar, watch = OneBar(run.best_metric), Watch(stop)
    fields = trainer_arguments(
        run.arguments,
        unfinished.folder,
        run.best_metric,
        len(run.rows["train"]),
        run.processes.num_processes,
        run.seed,
    )

    def compute(prediction: EvalPrediction, compute_result: bool = True) -> dict[str, float]:
        return task.measure(trainer.in_order(prediction), trainer.split, compute_result=compute_result)

    collator = task.collator(run.tokenizer)
    # Kernels of bfloat16 on a CPU are made for each shape of a batch, which takes time, and kept, which takes memory.
    collator.pad_to_multiple_of = padding_multiple(run)
    trainer = task.build_trainer(
        unfinished=unfinished,
        patience=run.arguments.early_stopping_patience,
        floor=run.floor,
        new_weights=run.new_weights,
        model=run.model,
        args=task.training_arguments_class(**fields | task.trainer_settings()),
        train_dataset=run.rows["train"],
        eval_dataset=run.rows["eval"],
        processing_class=run.tokenizer,
        data_collator=collator,
        compute_metrics=compute,
        preprocess_logits_for_metrics=task.reduce_logits,
        callbacks=[bar, watch],
    )
    watch.trainer = trainer
    trainer.remove_callback(PrinterCallback)
    return trainer, bar


def padding_multiple(run: Run) -> int:
    """Batches are padded to a multiple of this, so that they have few lengths: a power of 2 that divides positions."""
    longest = max(max(row_lengths(rows)) for rows in run.rows.values())
    multiple = 1
    while longest >= MOST_LENGTHS * multiple and run.task.positions(run.start) % (2 * multiple) == 0:
        multiple *= 2
    return multiple


def quiet() -> None:
    """Silence all progress bars and messages but our own, and flush subnormal numbers to zero."""
    disable_progress_bar()  # of saving and loading, which are short and would break ours
    disable_progress_bars()  # of reading and tokenizing, which are short beside training
    logging.getLogger("transformers.trainer").setLevel(logging.ERROR)  # it takes tied weights for missing ones
    logging.getLogger("transformers.modeling_utils").addFilter(_is_no_report_of_the_head)
    torch.set_flush_denormal(True)  # AdamW on subnormal moments is many times slower on CPUs


def _is_no_report_of_the_head(record: logging.LogRecord) -> bool:
    """Whether a message is another one than the long table that says that the head is new, as it has to be."""
    return "LOAD REPORT" not in record.getMessage()


def announce(run: Run, trainer: DurableTrainer, checkpoint: Path | None) -> None:
    """Print what will be trained, on which data and device."""
    if not trainer.is_world_process_zero():
        return
    for line in (*run.data.notes, *run.task.describe(run.data, run.examples), *run.task.notes):
        tqdm.write(line)
    train, held_out = len(run.examples["train"]), len(run.examples["eval"])
    tqdm.write(
        f"fine-tuning {run.model.num_parameters() / 1e6:.1f}M parameters on {train:,} examples, {held_out:,} held out, "
        f"on {hardware(trainer.args.device)}"
    )
    if checkpoint is not None:
        tqdm.write(f"going on from {checkpoint.name}")
