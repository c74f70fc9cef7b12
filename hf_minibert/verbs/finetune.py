"""Fine-tune a pre-trained model on labelled data."""

from dataclasses import replace

from hf_minibert.assets import model_folder
from hf_minibert.data.sources import require_table
from hf_minibert.finetuning.arguments import FinetuneArguments as Arguments

__all__ = ["Arguments", "main"]


def main(arguments: Arguments) -> int:
    """Train, evaluate, keep the best epoch."""
    for source in (arguments.dataset, arguments.test_dataset):
        if source is not None:
            require_table(source)
    arguments = replace(arguments, model_name_or_path=model_folder(arguments.model_name_or_path))
    from hf_minibert.finetuning.finetune import finetune

    return finetune(arguments)
