"""Figures on data sets of the Hub, as the Hub shows them on a model's page: ``.eval_results/NAME.yaml``.

The format is that of https://huggingface.co/docs/hub/eval-results. It has one value for a task of a data set, which is
the metric that the epochs were chosen by, on the test split if that was measured.
"""

import re
from typing import Any

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

from hf_minibert.runs.scores import score_of

FOLDER = ".eval_results"


def evaluation_files(results: dict[str, Any]) -> dict[str, bytes]:
    """The files for a finished run, by name: one for a fine-tuning that was measured on a data set of the Hub."""
    if results.get("kind") != "finetune" or (hub_id := results["dataset"].get("hub_id")) is None:
        return {}
    dataset, metrics, best = results["dataset"], results["metrics"], results.get("best_metric", "accuracy")
    elsewhere = dataset.get("files", {})  # figures on these are not of the data set
    measured = [split for split in ("test", "eval") if f"{split}_{best}" in metrics and split not in elsewhere]
    if not measured:
        return {}
    examples = dataset.get(f"{measured[0]}_examples")
    where = "the test split" if measured[0] == "test" else "examples that were kept out of training"
    score, value = score_of(best), metrics[f"{measured[0]}_{best}"]
    entry = EvalResultEntry(
        dataset_id=str(hub_id),
        task_id=dataset.get("config") or "default",
        value=round(100 * value, 2) if score.is_share else round(value, 4),
        notes=f"{score.label}{' in percent' if score.is_share else ''}, on {where}"
        + ("" if examples is None else f" ({examples:,})"),
    )
    content = yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False, allow_unicode=True)
    return {f"{FOLDER}/{re.sub(r'[^A-Za-z0-9_.-]+', '_', str(hub_id))}.yaml": content.encode()}
