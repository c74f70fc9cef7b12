"""Measure how good models are, with the suites of a table, on files that the user names."""

from pathlib import Path

from hf_minibert.assets import model_folder
from hf_minibert.errors import UserError
from hf_minibert.evaluation.arguments import EvaluateArguments as Arguments
from hf_minibert.evaluation.suites import choose_suite

__all__ = ["Arguments", "main"]


def main(arguments: Arguments) -> int:
    """Check names, measure, and print the table."""
    choose_suite(arguments)
    for name in arguments.model_names:
        model_folder(name)
    for source in arguments.dataset or []:
        if not Path(source).exists() and not any(mark in source for mark in "*?["):
            raise UserError(f"dataset {source} does not exist; give a file or a folder of files")
    from hf_minibert.evaluation.report import CHART, RESULTS, evaluate

    print(evaluate(arguments))
    folder = Path(arguments.output_dir)
    print(f"figures  {folder / RESULTS}\nchart    {folder / CHART}")
    for picture in sorted(set(folder.glob("*.png")) - {folder / CHART}):
        print(f"picture  {picture}")
    return 0
