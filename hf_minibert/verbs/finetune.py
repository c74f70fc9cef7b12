"""Fine-tune a pre-trained model on labelled data."""

from dataclasses import replace

from hf_minibert.assets import model_folder
from hf_minibert.command_line import parse
from hf_minibert.data.sources import require_table
from hf_minibert.finetuning.arguments import FinetuneArguments as Arguments
from hf_minibert.finetuning.unfinished import Unfinished

__all__ = ["Arguments", "main"]


def main(arguments: Arguments) -> int:
    """Train, evaluate, keep the best epoch; with --resume, flags override the unfinished run's arguments."""
    if arguments.resume and (begun := Unfinished(arguments.output_dir).begun()) is not None:
        arguments = parse(Arguments, defaults=begun["arguments"])
    for source in (arguments.dataset, arguments.test_dataset):
        if source is not None:
            require_table(source)
    arguments = replace(arguments, model_name_or_path=model_folder(arguments.model_name_or_path))
    from hf_minibert.finetuning.finetune import finetune

    return finetune(arguments)
