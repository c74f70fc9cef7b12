"""Fine-tune a pre-trained model on labelled data."""

from dataclasses import replace
from pathlib import Path

from hf_minibert.assets import model_folder
from hf_minibert.command_line import parse
from hf_minibert.data.sources import require_table
from hf_minibert.finetuning.arguments import FinetuneArguments as Arguments
from hf_minibert.finetuning.unfinished import earlier_arguments
from hf_minibert.hub.runs import claim, publish_run

__all__ = ["Arguments", "main"]


def main(arguments: Arguments) -> int:
    """Train, evaluate, keep the best epoch; with --resume, flags that are left out are those of the earlier run."""
    if arguments.resume and (earlier := earlier_arguments(arguments.output_dir)) is not None:
        arguments = parse(Arguments, defaults=earlier)
    for source in (arguments.dataset, arguments.eval_dataset, arguments.test_dataset):
        if source is not None:
            require_table(source)
    if arguments.model_name_or_path is not None:
        arguments = replace(arguments, model_name_or_path=model_folder(arguments.model_name_or_path))
    claim(arguments, Path(arguments.output_dir), is_resumed=arguments.resume)
    from hf_minibert.finetuning.finetune import finetune

    return finetune(arguments) or publish_run(arguments, Path(arguments.output_dir))
