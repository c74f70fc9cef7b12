"""The model card of a finished run, rendered from the files that the run wrote.

In: a run folder (``config.json``, ``arguments.json``, ``results.json`` and the checkpoint beside them). Out: its
``README.md``. Every figure is read from those files; the sentences around them are in ``templates/``.
"""

import json
import math
import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCardData

from hf_minibert.assets import references
from hf_minibert.card_parts import assembled, renew_card
from hf_minibert.errors import UserError
from hf_minibert.files import BUILTIN, DECODER, TARGET_TOKENIZER, is_plain_file, shown, weights_digest
from hf_minibert.hub.arguments import SHARING
from hf_minibert.markdown import block, code, plain
from hf_minibert.runs.hardware import nominal_watts
from hf_minibert.runs.scores import score_of

_SIBLING_IMPORT = re.compile(r"^\s*from \.(\w+) import", re.MULTILINE)
CERTIFICATE = "certificate.json"
_WRITERS = {
    "adapter_config.json": "finetuning with --lora_rank",
    "config.json": "scripts/pretrain.py or scripts/finetune.py",
    "arguments.json": "scripts/pretrain.py or scripts/finetune.py",
    "results.json": "scripts/pretrain.py or scripts/finetune.py, when the run has ended (continue it with --resume)",
    CERTIFICATE: "hf-minibert check",
}

_NAMES = {"minibert": "MiniBERT", "minigpt": "MiniGPT"}
_ARCHITECTURES = {
    "modern": "pre-norm RMSNorm, rotary positions, gated feed-forward, no biases",
    "classic": "learned positions, LayerNorm, biases, GELU",
}
_BASELINES = {  # a metric, and the figure of results.json that says what knowing frequencies alone would give
    "eval_loss": "unigram_loss",
    "eval_mlm_loss": "unigram_loss",
    "eval_clm_loss": "clm_unigram_loss",
    "eval_bits_per_byte": "byte_unigram_bits_per_byte",
    "eval_accuracy": "majority_accuracy",
}
_USAGE = {  # of classifiers that were made before results.json said it
    "code": "from transformers import pipeline\n\n"
    'classify = pipeline("text-classification", model={model}{options})\n'
    'print(classify("The function returns the list in sorted order."))',
    "needs_package": False,
}
_ESSENTIAL = ("model", "corpus", "model_name_or_path", "dataset", "output_dir")  # said even where it is the default
_NOT_COMPUTING = ("resume", "overwrite_output_dir", "num_processes", *SHARING)
_PATHS = (
    "corpus",
    "tokenizer",
    "model_name_or_path",
    "decoder_name_or_path",
    "tokenizer_name_or_path",
    "dataset",
    "eval_dataset",
    "test_dataset",
    "output_dir",
)
_TRAINING_LABELS = {
    "seconds": "time",
    "num_processes": "processes",
    "max_seq_length": "longest sequence (tokens)",
    "global_batch_size": "sequences per step",
}
_SPLITS = {"eval": "validation", "test": "test"}  # what the Hub calls them
_PIPELINE_VERBS = {"fill-mask": "fill_mask", "text-generation": "generate"}
_HUB_METRICS = ("accuracy", "f1", "perplexity")
# The shape first, in the order one would say it; whatever else the configuration holds follows by name.
_SHAPE = (
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "max_position_embeddings",
    "vocab_size",
)
_NOT_ARCHITECTURE = re.compile(
    r"_.*|.*_token_id|model_type|transformers_version|(torch_)?dtype|use_cache|return_dict|output_.*|problem_type"
    r"|chunk_size_feed_forward|is_encoder_decoder|name_or_path"
)


def read_object(folder: Path, name: str) -> dict[str, Any]:
    """The JSON object in a file of a run's folder.

    Raises:
        UserError: it is missing or damaged.
    """
    path = folder / name
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing, and a model card needs it: it is written by {_WRITERS[name]}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not JSON ({error}); it is written by {_WRITERS[name]}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a JSON object; it is written by {_WRITERS[name]}")
    return content


def _refuse_non_finite(value: Any, name: str) -> None:
    """Walk a JSON value; a loss that is not a number says that the run failed, which no card should dress up."""
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{name} is {value}: the run diverged; train again, for example with a lower --learning_rate")
    if isinstance(value, dict):
        for key, item in value.items():
            _refuse_non_finite(item, f"{name}: {key}")


# ---- how values look -------------------------------------------------------------------------------------------------


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _short_count(value: float) -> str:
    """A large count as one says it: 5.3 million."""
    for size, word in ((1e9, "billion"), (1e6, "million")):
        if value >= size:
            return f"{value / size:.3g} {word}"
    return _count(value)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def _figure(value: float) -> str:
    return f"{value:.4f}"


def _exact(value: Any) -> str:
    """A setting as JSON has it, so that nothing is rounded; text without its quotes."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _code(text: Any) -> str:
    """A setting as a code span."""
    return code(_exact(text))


def _training_value(name: str, value: Any) -> str:
    if name == "seconds":
        return _duration(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return plain(_exact(value))
    return f"{value:.2f}" if name == "epochs" else _count(value) if value >= 100 else f"{value:g}"


def _count_of_two(value: float) -> str:
    """A number with two digits that count."""
    return f"{float(f'{value:.2g}'):,g}"


def _energy(training: dict[str, Any]) -> str:
    """What a run took by its time and its hardware's class, in words."""
    watts = nominal_watts(str(training["hardware"]), int(training.get("num_processes", 1)))
    if watts is None:
        return "not known: no power is recorded for this hardware"
    hours = training["seconds"] / 3600
    return f"about {_count_of_two(watts * hours)} Wh ({watts:,} W by the class of the hardware; not measured)"


def _training_rows(training: dict[str, Any]) -> list[tuple[str, str]]:
    """(label, value) of each figure of the training, and its energy below its time."""
    rows = []
    for name, value in training.items():
        if value is not None:
            rows.append((_TRAINING_LABELS.get(name) or plain(name.replace("_", " ")), _training_value(name, value)))
        if name == "seconds":
            rows.append(("energy", _energy(training)))
    return rows


def _strict(function: Callable[[Any], str]) -> Callable[[Any], str]:
    """A filter that fails on an undefined value with jinja's own message, which names the value."""

    def apply(value: Any) -> str:
        return str(value) if isinstance(value, jinja2.Undefined) else function(value)

    return apply


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hf_minibert.hub"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters: dict[str, Callable[[Any], str]] = {
        "count": _count,
        "short_count": _short_count,
        "duration": _duration,
        "figure": _figure,
        "code": _code,
        "metric": _label,
        "plain": plain,
        "python": lambda text: json.dumps(text, ensure_ascii=False),  # JSON's strings are Python's, in double quotes
    }
    environment.filters |= {name: _strict(function) for name, function in filters.items()}
    return environment


# ---- what the card says ----------------------------------------------------------------------------------------------


def shareable_arguments(folder: Path) -> dict[str, Any]:
    """A run's ``arguments.json``, with each local path cut to its last part: a machine's folders stay private.

    A folder of one's own that is called as something of this package is, such as `builtin`, stays `./builtin`.
    """
    arguments = read_object(folder, "arguments.json")
    kept = {
        name: value for name, value in arguments.items() if name not in SHARING
    }  # whoever repeats it publishes none
    return kept | {name: _shareable(folder, kept[name]) for name in _PATHS if name in kept}


def shareable_adapter(folder: Path) -> dict[str, Any]:
    """The ``adapter_config.json`` of a model with adapters, where the base model is named without its folders."""
    config = read_object(folder, "adapter_config.json")
    return config | {"base_model_name_or_path": _shareable(folder, config.get("base_model_name_or_path"))}


def _shareable(folder: Path, given: Any) -> Any:
    """What an argument of a run says, without the folders of local paths."""
    results = read_object(folder, "results.json")
    hub_ids = {results.get(part, {}).get("hub_id") for part in ("corpus", "dataset", "tokenizer")}
    hub_ids.add(results.get("base_model_hub_id"))
    taken = {BUILTIN, *references()}

    def reduce(value: Any) -> Any:
        if isinstance(value, list):
            last = [reduce(item) for item in value]
            if len({*last}) == len({*value}):
                return last
            return ["/".join(re.split(r"[/\\]", item.rstrip("/\\"))[-2:]) for item in value]  # or two would be alike
        if not isinstance(value, str) or re.split("[:@]", value, maxsplit=1)[0] in hub_ids:
            return value
        name = re.split(r"[/\\]", value.rstrip("/\\"))[-1]
        return f"./{name}" if name in taken and name != value else name

    return reduce(given)


def refuse_link(path: Path) -> None:
    """Refuse a path that is not an ordinary file, or whose folder is a link.

    Raises:
        UserError: it is a link, a folder or a device.
    """
    if path.parent.name in (DECODER, TARGET_TOKENIZER) and path.parent.is_symlink():
        raise UserError(f"{path.parent} is a link, which is not followed; put the folder itself there")
    if os.path.lexists(path) and not is_plain_file(path):
        what = "a link, which is not followed" if path.is_symlink() else "no ordinary file"
        raise UserError(f"{path} is {what}; put the file itself there")


def code_files(folder: Path, *, may_be_links: bool = False) -> list[Path]:
    """The Python files that ``trust_remote_code=True`` runs: those that ``auto_map`` names and what they import.

    Raises:
        UserError: one of them is missing, or a link, unless they may be links, as in the Hub's cache.
    """
    config = read_object(folder, "config.json")
    if config.get("custom_pipelines"):  # `pipeline` would run them
        raise UserError(
            f"{folder / 'config.json'} has custom_pipelines, which name code that is not ours; delete the entry"
        )
    auto_map = config.get("auto_map") or {}
    references = auto_map.values() if isinstance(auto_map, dict) else [auto_map]
    references = [one for entry in references for one in (entry if isinstance(entry, list) else [entry]) if one]
    for reference in references:
        if not (isinstance(reference, str) and re.fullmatch(r"\w+\.\w+", reference)):
            raise UserError(
                f"{folder / 'config.json'} has the auto_map entry {shown(str(reference))}, which is no class in a file "
                "of that folder, as in modeling_minibert.MiniBertModel; save the model again"
            )
    waiting = [reference.split(".")[0] for reference in references]
    found: dict[str, Path] = {}
    while waiting:
        module = waiting.pop()
        if module in found:
            continue
        path = folder / f"{module}.py"
        if not may_be_links:
            refuse_link(path)
        if not path.is_file():
            raise UserError(f"{path} is missing, but config.json says that the model's code is there; save it again")
        found[module] = path
        waiting += _SIBLING_IMPORT.findall(path.read_text(encoding="utf-8"))
    return sorted(found.values())


def _command_line(kind: str, arguments: dict[str, Any]) -> str:
    """The command that gives a run these arguments, one flag a line."""
    script = {"pretrain": "accelerate launch scripts/pretrain.py", "finetune": "python scripts/finetune.py"}[kind]
    lines = [script]
    for name, value in arguments.items():
        values = value if isinstance(value, list) else [value]
        words = [] if value is True else [shlex.quote(str(item)) for item in values]
        lines.append(" ".join([shlex.quote(f"--{name}"), *words]))
    return " \\\n    ".join(lines)


def _metric_rows(metrics: dict[str, float], paired: dict[str, str]) -> list[tuple[str, float, float | None]]:
    """(label, value, baseline) of every measured metric; a baseline that no metric is paired with gets its own row.

    `paired` has the name of each metric's baseline.
    """
    paired = paired.copy()
    if "eval_mlm_loss" in metrics:  # then eval_loss is a sum with another objective's, and word frequencies say nothing
        del paired["eval_loss"]
    used = {paired[name] for name in metrics if name in paired}
    rows = []
    for name, value in metrics.items():
        if name in used:
            continue
        rows.append((_label(name), value, metrics.get(paired.get(name) or "")))
    return rows


def _label(name: str) -> str:
    """What people call a figure of `results.json`, with its split."""
    split, _, metric = name.partition("_")
    where = {"eval": "held-out ", "test": "test "}.get(split)
    return f"{where}{plain(score_of(metric).label)}" if where else plain(name.replace("_", " "))


def _usage(results: dict[str, Any], model: str) -> dict[str, Any]:
    """What the templates say of a fine-tuned model's use: its code with the package, and without if that is enough."""
    usage = results.get("usage", _USAGE)
    code, needs_package = (
        str(usage["code"]).replace("{model}", json.dumps(model, ensure_ascii=False)),
        usage["needs_package"],
    )
    with_package = code.replace("{options}", "")
    if not needs_package:
        with_package = (
            f"import hf_minibert  # makes {_NAMES[results['model_type']]} known to transformers\n{with_package}"
        )
    without = None if needs_package else code.replace("{options}", ", trust_remote_code=True")
    return {"usage": block(with_package, "python"), "usage_without": without and block(without, "python")}


def _architecture_rows(config: dict[str, Any]) -> list[tuple[str, Any]]:
    names = [name for name in _SHAPE if name in config]
    names += sorted(name for name in config if name not in _SHAPE and not _NOT_ARCHITECTURE.fullmatch(name))
    return [(name, config[name]) for name in names if isinstance(config[name], bool | int | float | str)]


def _pipeline_tag(results: dict[str, Any]) -> str:
    if results["kind"] == "finetune":
        return str(results.get("pipeline_tag") or results["task"])
    return {"minibert": "fill-mask", "minigpt": "text-generation"}[results["model_type"]]


def _evaluation(row: dict[str, Any], pipeline_tag: str) -> EvalResult:
    """A figure of a model on another data set than its own: after fine-tuning on it, if it has splits."""
    split, _, metric = row["metric"].partition("_")
    is_finetuned = split in _SPLITS
    metric = metric if is_finetuned else row["metric"]
    return EvalResult(
        task_type="text-classification" if is_finetuned else pipeline_tag,
        dataset_type=row["name"],
        dataset_name=row["name"],
        dataset_split=_SPLITS.get(split),
        metric_type=score_of(metric).hub_name or metric,
        metric_name=", ".join(
            (score_of(metric).label, *(["fine-tuned"] if is_finetuned else []), *filter(None, [row.get("limits")]))
        ),
        metric_value=float(_figure(row["value"])),
    )


def _metadata(results: dict[str, Any], model_name: str, license_id: str | None) -> ModelCardData:
    is_pretrained = results["kind"] == "pretrain"
    data = results["corpus"] if is_pretrained else results["dataset"]
    data_name, data_hub_id = str(data["name"]), data.get("hub_id")
    pipeline_tag, files = _pipeline_tag(results), data.get("files", {})
    evaluations = [
        EvalResult(
            task_type=pipeline_tag,
            dataset_type=files.get(split, data_name),
            dataset_name=files.get(split, data_name),
            dataset_split=None if split in files else _SPLITS[split],
            metric_type=score_of(metric).hub_name or metric,
            metric_name=score_of(metric).label,
            metric_value=float(_figure(value)),
        )
        for name, value in results["metrics"].items()
        for split, _, metric in [name.partition("_")]
        if split in _SPLITS
    ]
    metrics = {evaluation.metric_type for evaluation in evaluations}
    evaluations += [_evaluation(row, pipeline_tag) for row in results.get("evaluations", [])]
    return ModelCardData(
        language="en" if data.get("is_builtin") else None,
        license=license_id,
        library_name="transformers",
        pipeline_tag=pipeline_tag,
        tags=["hf_minibert", results["model_type"], results["architecture"]]
        + ([results["objective"], "trained-from-scratch"] if is_pretrained else []),
        datasets=None if data_hub_id is None else [data_hub_id],
        base_model=results.get("base_model_hub_id"),
        metrics=[name for name in _HUB_METRICS if name in metrics] or None,
        model_name=model_name,
        eval_results=evaluations,
    )


def render_card(
    folder: Path, repo_id: str | None = None, license_id: str | None = None, *, place: Path | None = None
) -> str:
    """The card of a finished run, metadata and text.

    Args:
        folder: the run's output folder.
        repo_id: where the model is published, for the snippets; default, they open the folder.
        license_id: the weights' licence, as the Hub names it. Default: none is stated, since it depends on the text.
        place: the folder that the run's files are about to be moved into; default, they stay.

    Raises:
        UserError: a file or a figure that the card needs is missing, or a figure is not finite.
    """
    place = place or folder
    config = read_object(folder, "config.json")
    arguments = {
        name: value
        for name, value in shareable_arguments(folder).items()
        # How a run was started does not say what it computes.
        if value is not None and name not in _NOT_COMPUTING
    }
    results = read_object(folder, "results.json")
    _refuse_non_finite(results, str(folder / "results.json"))
    try:
        template = {"pretrain": "pretrained.md.jinja", "finetune": "finetuned.md.jinja"}[results["kind"]]
        title = repo_id.split("/")[-1] if repo_id else results.get("preset") or place.resolve().name
        metadata = _metadata(results, title, license_id)
        body = (
            _environment()
            .get_template(template)
            .render(
                results=results,
                title=title,
                model=repo_id or place.as_posix(),
                pipeline_tag=metadata.pipeline_tag,
                verb=_PIPELINE_VERBS.get(str(metadata.pipeline_tag), "classify"),
                family=_NAMES[results["model_type"]],
                architecture_words=_ARCHITECTURES[results["architecture"]],
                architecture_rows=_architecture_rows(config),
                arguments=arguments,
                command_line=block(
                    _command_line(
                        results["kind"],
                        {
                            name: arguments[name]
                            for name in (*_ESSENTIAL, *results["changed_settings"])
                            if name in arguments
                        },
                    ),
                    "bash",
                ),
                license_id=license_id,
                metric_rows=_metric_rows(results["metrics"], results.get("baselines", _BASELINES)),
                seed_rows=[
                    (_label(name), figures["mean"], figures["standard_deviation"])
                    for name, figures in results.get("seeds", {}).get("metrics", {}).items()
                ],
                interval_rows=[(_label(name), *between) for name, between in results.get("intervals", {}).items()],
                **_usage(results, repo_id or place.as_posix()),
                training_rows=_training_rows(results["training"]),
                code_files=[path.name for path in code_files(folder)],
                certificates=[
                    read_object(place, CERTIFICATE)
                    for place in (folder, folder / DECODER)
                    if (place / CERTIFICATE).is_file()
                    and read_object(place, CERTIFICATE).get("sha256") == weights_digest(place)  # not of earlier ones
                ],
                has_curves=(folder / "curves.png").is_file(),
                has_decoder=(folder / DECODER).is_dir(),
            )
        )
    except (KeyError, jinja2.UndefinedError) as error:
        reason = f"{error} is missing or unknown" if isinstance(error, KeyError) else str(error)
        raise UserError(
            f"{folder / 'results.json'} does not say all that a model card needs ({reason}); "
            f"it is written by {_WRITERS['results.json']}"
        ) from error
    body = re.sub(r"\n{3,}", "\n\n", body.strip())  # left over where a template's condition did not hold
    return assembled(metadata.to_yaml(), body)


def write_card(folder: Path) -> Path:
    """Write a run's ``README.md``; what a person wrote into it stays, as `renew_card` says.

    Returns:
        The file that was written.
    """
    return renew_card(folder, render_card(folder))
