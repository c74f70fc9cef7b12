import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from hf_minibert.card_parts import is_generated
from hf_minibert.errors import UserError
from hf_minibert.hub.card import code_files, render_card, shareable_arguments, write_card
from hf_minibert.pretraining.report import corpus_name

CONFIG = {
    "architectures": ["MiniBertForMaskedLM"],
    "auto_map": {
        "AutoConfig": "configuration_minibert.MiniBertConfig",
        "AutoModelForMaskedLM": "modeling_minibert.MiniBertForMaskedLM",
    },
    "dtype": "float32",
    "hidden_size": 32,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "model_type": "minibert",
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-06,
    "tie_word_embeddings": True,
    "transformers_version": "5.23.0",
    "vocab_size": 8192,
}
ARGUMENTS = {
    "model": "minibert-mini",
    "corpus": "builtin",
    "output_dir": "runs/mini bert",
    "learning_rate": 0.0005,
    "max_steps": None,
    "packing": True,
    "bf16": False,
    "resume": True,
    "layers": [1, 2],
}
PRETRAINED = {
    "kind": "pretrain",
    "model_type": "minibert",
    "architecture": "modern",
    "objective": "mlm",
    "objective_words": "masked language modelling",
    "preset": "minibert-mini",
    "num_parameters": 5_312_768,
    "corpus": {
        "name": "builtin",
        "is_builtin": True,
        "documents": 80_123,
        "held_out_documents": 801,
        "tokens": 9_876_543,
        "held_out_tokens": 98_765,
        "evaluated_tokens": 49_152,
        "bytes": 40_404_040,
    },
    "tokenizer": {"name": "tokenizer", "vocab_size": 8192},
    "training": {
        "steps": 1234,
        "tokens_seen": 20_217_856,
        "seconds": 299.4,
        "epochs": 2.047,
        "tokens_per_second": 67_528.2,
        "global_batch_size": 64,
        "max_seq_length": 128,
        "num_processes": 1,
        "hardware": "2 CPU cores",
        "precision": "fp32",
    },
    "metrics": {"eval_loss": 3.21987, "eval_accuracy": 0.41239, "unigram_loss": 6.91234},
    "samples": [
        {
            "text": "Return the | of `x`, a [MASK].",
            "before": ["##zz", "`", "{{ x }}"],
            "after": ["list", "tuple", "<b>"],
        }
    ],
    "changed_settings": ["output_dir", "learning_rate", "layers"],
    "environment": {"python": "3.12.1", "torch": "2.13.0", "hf_minibert": "0.1.0"},
}
GENERATOR = PRETRAINED | {
    "model_type": "minigpt",
    "objective": "clm",
    "objective_words": "next-token prediction",
    "preset": "minigpt-mini",
    "metrics": {
        "eval_loss": 3.5,
        "eval_accuracy": 0.3333,
        "eval_bits_per_byte": 1.5123,
        "unigram_loss": 7.0,
        "byte_unigram_bits_per_byte": 4.4321,
    },
    "samples": [{"text": "The function", "before": ["zz\nzz"], "after": ["returns a list."]}],
}
FINETUNED = {
    "kind": "finetune",
    "task": "text-classification",
    "model_type": "minibert",
    "architecture": "classic",
    "base_model": "minibert",
    "dataset": {
        "name": "builtin",
        "is_builtin": True,
        "train_examples": 9000,
        "eval_examples": 1000,
        "labels": ["torch", "numpy"],
    },
    "num_parameters": 5_312_768,
    "training": {"steps": 500, "seconds": 3723.0, "hardware": "1 GPU", "epochs": 3.0},
    "metrics": {
        "eval_accuracy": 0.91234,
        "eval_f1": 0.9,
        "eval_loss": 0.25,
        "test_accuracy": 0.905,
        "majority_accuracy": 0.6,
    },
    "headline": "It is right on 91.2% of the 1,000 examples that were held out.",
    "changed_settings": ["model_name_or_path", "output_dir"],
    "environment": {"python": "3.12.1"},
}
RESULTS = {"encoder": PRETRAINED, "generator": GENERATOR, "classifier": FINETUNED}


def write_run(folder: Path, results: dict) -> Path:
    """A finished run as far as files go, with a run called minibert beside it; its weights are not weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder.parent / "minibert").mkdir(exist_ok=True)
    for name, content in {"config.json": CONFIG, "arguments.json": ARGUMENTS, "results.json": results}.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    (folder / "configuration_minibert.py").write_text("import math\n", encoding="utf-8")
    (folder / "modeling_transformer.py").write_text("from .configuration_minibert import Y\n", encoding="utf-8")
    (folder / "modeling_minibert.py").write_text("from .modeling_transformer import X\n", encoding="utf-8")
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 9.0}\n', encoding="utf-8")
    (folder / "tokenizer_config.json").write_text("{}", encoding="utf-8")
    for name in ("model.safetensors", "tokenizer.json", "curves.png"):
        (folder / name).write_bytes(name.encode())
    return folder


@pytest.fixture(params=sorted(RESULTS))
def results(request: pytest.FixtureRequest) -> dict:
    return RESULTS[request.param]


def snippets(card: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card, re.DOTALL)


def tables(card: str) -> dict[str, list[list[str]]]:
    """Body rows of every table, by its header's first cell."""
    found: dict[str, list[list[str]]] = {}
    for block in re.findall(r"(?:^\|.*\|\n)+", card, re.MULTILINE):
        rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in block.splitlines()]
        assert {len(row) for row in rows} == {len(rows[0])}, block
        found[rows[0][0]] = rows[2:]
    return found


def test_nothing_is_undefined_and_the_metadata_parses(tmp_path: Path, results: dict):
    card = render_card(write_run(tmp_path / "run", results), "me/model")
    assert not re.search(r"\b(None|nan|inf|Undefined|null)\b|\{\{|\{%", card.replace("{{ x }}", ""))
    assert "\n\n\n" not in card
    data = yaml.safe_load(card.split("---\n")[1])
    assert data["library_name"] == "transformers"
    assert "license" not in data
    assert data["language"] == "en"
    assert ModelCard(card).data.model_name == "model"
    assert "datasets" not in data
    assert "base_model" not in data
    tags = {"encoder": "fill-mask", "generator": "text-generation", "classifier": "text-classification"}
    assert data["pipeline_tag"] == tags[next(name for name in RESULTS if RESULTS[name] is results)]
    assert is_generated(card)


def test_every_figure_is_the_one_in_results_json(tmp_path: Path, results: dict):
    card = render_card(write_run(tmp_path / "run", results))
    cells = [cell for row in tables(card)["metric"] for cell in row[1:] if cell != "–"]
    assert sorted(cells) == sorted(f"{value:.4f}" for value in results["metrics"].values())
    measured = {name: value for name, value in results["metrics"].items() if name.startswith(("eval_", "test_"))}
    evaluations = ModelCard(card).data.eval_results
    assert {(item.dataset_split, item.metric_type): item.metric_value for item in evaluations} == {
        ({"eval": "validation", "test": "test"}[name[:4]], name[5:]): round(value, 4)
        for name, value in measured.items()
    }
    assert "5,312,768 parameters" in card
    assert tables(card)["setting"][0] == ["`num_hidden_layers`", "`2`"]
    assert ["`rms_norm_eps`", "`1e-06`"] in tables(card)["setting"]


def test_baselines_stand_beside_what_they_compare_with(tmp_path: Path):
    rows = tables(render_card(write_run(tmp_path, GENERATOR)))["metric"]
    assert rows[0] == ["held-out loss (nats)", "3.5000", "7.0000"]
    assert rows[1] == ["held-out accuracy", "0.3333", "–"]
    assert rows[2] == ["held-out bits per byte", "1.5123", "4.4321"]


def test_a_classifier_stands_beside_the_commonest_label(tmp_path: Path):
    card = render_card(write_run(tmp_path, FINETUNED))
    assert "| metric | this model | the commonest label alone |" in card
    assert tables(card)["metric"][0] == ["held-out accuracy", "0.9123", "0.6000"]
    assert len(tables(card)["metric"]) == 4


def test_files_of_a_corpus_that_are_called_alike_are_told_apart_by_their_folders():
    assert (
        corpus_name(["/home/me/wiki/train.jsonl.xz", "books/train.jsonl.xz"])
        == "wiki/train.jsonl.xz books/train.jsonl.xz"
    )
    assert corpus_name(["/home/me/wiki/wiki.txt", "books.txt"]) == "wiki.txt books.txt"


def test_a_corpus_of_one_s_own_called_builtin_is_not_the_builtin_one(tmp_path: Path):
    for results, part in ((PRETRAINED, "corpus"), (FINETUNED, "dataset")):
        for builtin in ({"is_builtin": False}, {}):
            data = {name: value for name, value in results[part].items() if name != "is_builtin"} | builtin
            card = render_card(write_run(tmp_path / "run", results | {part: data}))
            assert "language" not in yaml.safe_load(card.split("---\n")[1])
            assert "builtin corpus" not in card


def test_a_classifier_says_which_f1_it_has(tmp_path: Path):
    metrics = {"eval_accuracy": 0.9, "majority_accuracy": 0.6, "eval_macro_f1": 0.7, "eval_positive_f1": 0.8}
    card = render_card(write_run(tmp_path, FINETUNED | {"metrics": metrics}))
    assert [row[:2] for row in tables(card)["metric"]][1:] == [
        ["held-out F1, the mean over all labels (macro)", "0.7000"],
        ["held-out F1 of the positive label, the second", "0.8000"],
    ]
    assert yaml.safe_load(card.split("---\n")[1])["metrics"] == ["accuracy", "f1"], "the Hub has one name"


def test_a_licence_is_stated_where_it_is_known(tmp_path: Path):
    own_text = PRETRAINED | {"corpus": PRETRAINED["corpus"] | {"name": "books.txt"}}
    for results, given, expected in (
        (PRETRAINED, None, None),
        (PRETRAINED, "apache-2.0", "apache-2.0"),
        (own_text, None, None),
        (own_text, "cc-by-4.0", "cc-by-4.0"),
    ):
        card = render_card(write_run(tmp_path / "run", results), license_id=given)
        assert yaml.safe_load(card.split("---\n")[1]).get("license") == expected
        stated = f"The weights are under `{expected}`." if expected else "No licence is stated for the weights."
        assert f"The code is under the MIT licence. {stated}" in card


def test_the_licence_of_a_fine_tunings_data_is_the_one_that_was_stated(tmp_path: Path):
    for stated, said in (
        ({"license": "cc-by-4.0"}, "Licence of the data, as stated for the run: `cc-by-4.0`."),
        ({"license": None}, "No licence was stated for the data (`--dataset_license`)."),
    ):
        own = FINETUNED | {"dataset": FINETUNED["dataset"] | {"is_builtin": False} | stated}
        assert said in render_card(write_run(tmp_path / "run", own))


def test_corpora_of_one_name_are_told_apart(tmp_path: Path):
    folder = write_run(tmp_path, PRETRAINED)
    arguments = json.loads((folder / "arguments.json").read_text())
    for corpus, shown in (
        (["/home/me/a/train.jsonl", "/home/me/b/train.jsonl"], ["a/train.jsonl", "b/train.jsonl"]),
        (["/home/me/a/train.jsonl", "/home/me/b/more.jsonl"], ["train.jsonl", "more.jsonl"]),
    ):
        (folder / "arguments.json").write_text(json.dumps(arguments | {"corpus": corpus}))
        assert shareable_arguments(folder)["corpus"] == shown


def test_the_licence_of_the_text_is_the_one_that_was_stated(tmp_path: Path):
    own_text = PRETRAINED["corpus"] | {"name": "books.txt", "is_builtin": False}
    card = render_card(write_run(tmp_path / "run", PRETRAINED | {"corpus": own_text | {"licenses": None}}))
    assert "No licence was stated for the text" in card
    stated = PRETRAINED | {"corpus": own_text | {"licenses": ["cc-by-sa-4.0", "cc0-1.0"]}}
    card = render_card(write_run(tmp_path / "run", stated))
    assert "Licence of the text, as stated for the run: `cc-by-sa-4.0`, `cc0-1.0`." in card
    assert "license" not in yaml.safe_load(card.split("---\n")[1]), "that of the weights is another matter"


@pytest.mark.parametrize(
    ("hardware", "devices", "said"),
    [
        ("2 CPU cores", 1, "about 2 Wh (24 W "),  # 299.4 s at 12 W a core
        ("2 CPU cores", 2, "about 2 Wh (24 W "),  # two processes share the cores
        ("1 CPU core", 1, "about 1 Wh (12 W "),
        ("NVIDIA H200", 2, "about 120 Wh (1,400 W "),
        ("NVIDIA A100-SXM4-80GB", 1, "about 33 Wh (400 W "),
        ("Tesla T4", 1, "about 5.8 Wh (70 W "),
        ("NVIDIA L40S", 1, "not known"),
        ("NVIDIA H100 PCIe", 1, "not known"),
        ("NVIDIA A100-PCIE-40GB", 1, "not known"),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", 1, "not known"),
        ("NVIDIA GeForce RTX 3090 Ti", 1, "not known"),
    ],
)
def test_energy_is_that_of_the_time_on_the_class_of_hardware(tmp_path: Path, hardware: str, devices: int, said: str):
    training = PRETRAINED["training"] | {"hardware": hardware, "num_processes": devices}
    rows = dict(tables(render_card(write_run(tmp_path, PRETRAINED | {"training": training})))[""])
    assert rows["energy"].startswith(said)
    assert "not measured" in rows["energy"] or said == "not known"


def test_what_was_measured_on_tasks_stands_beside_the_loss(tmp_path: Path):
    evaluations = [
        {"name": "BLiMP", "metric": "accuracy", "value": 0.61, "seeds": 1, "limits": "at most 5 pairs"},
        {"name": "sst2", "metric": "eval_accuracy", "value": 0.8, "seeds": 3, "standard_deviation": 0.01},
    ]
    card = render_card(write_run(tmp_path, PRETRAINED | {"evaluations": evaluations}))
    rows = tables(card)["task"]
    assert rows[0] == ["BLiMP, at most 5 pairs", "accuracy", "0.6100", "–", "1"]
    assert rows[1] == ["sst2", "held-out accuracy", "0.8000", "0.0100", "3"]
    listed = ModelCard(card).data
    blimp, sst2 = listed.eval_results[-2:]
    assert (blimp.task_type, blimp.dataset_split, blimp.metric_value) == ("fill-mask", None, 0.61)
    assert blimp.metric_name == "accuracy, at most 5 pairs"
    assert (sst2.task_type, sst2.dataset_split, sst2.metric_value) == ("text-classification", "validation", 0.8)
    assert (sst2.metric_type, sst2.metric_name) == ("accuracy", "accuracy, fine-tuned")


def test_unigram_loss_is_compared_with_the_masked_loss_alone(tmp_path: Path):
    metrics = {"eval_loss": 4.0, "eval_mlm_loss": 3.4, "eval_accuracy": 0.4, "unigram_loss": 7.0}
    rows = tables(render_card(write_run(tmp_path, PRETRAINED | {"objective": "mlm+nsp", "metrics": metrics})))["metric"]
    assert [row[1:] for row in rows] == [["4.0000", "–"], ["3.4000", "7.0000"], ["0.4000", "–"]]


def test_text_from_a_model_cannot_break_the_card(tmp_path: Path):
    card = render_card(write_run(tmp_path, PRETRAINED))
    assert r"| ``Return the \| of `x`, a [MASK].`` | `##zz`, `` ` ``, `{{ x }}` | `list`, `tuple`, `<b>` |" in card


def test_command_has_the_flags_that_were_set_and_no_local_folder(tmp_path: Path):
    command = render_card(write_run(tmp_path, PRETRAINED)).split("```bash\n")[-1].split("```")[0]
    assert command.replace("\\\n", "").split("--") == [
        "accelerate launch scripts/pretrain.py     ",
        "model minibert-mini     ",
        "corpus builtin     ",
        "output_dir 'mini bert'     ",
        "learning_rate 0.0005     ",
        "layers 1 2\n",
    ]


def test_names_of_the_hub_are_whole_and_local_paths_lose_their_folders(tmp_path: Path):
    arguments = {
        "corpus": ["/home/me/texts/*.txt", "C:\\texts\\b.txt", "./builtin"],
        "tokenizer": "me/tokenizer",
        "model_name_or_path": "runs/minibert-tiny/",
        "dataset": "builtin",
        "test_dataset": "runs/secret/test.csv",
        "output_dir": "/home/me/run/",
        "label_names": ["n/a", "yes"],
    }
    write_run(tmp_path, PRETRAINED | {"tokenizer": PRETRAINED["tokenizer"] | {"hub_id": "me/tokenizer"}})
    (tmp_path / "arguments.json").write_text(json.dumps(arguments), encoding="utf-8")
    assert shareable_arguments(tmp_path) == {
        "corpus": ["*.txt", "b.txt", "./builtin"],
        "tokenizer": "me/tokenizer",
        "model_name_or_path": "./minibert-tiny",
        "dataset": "builtin",
        "test_dataset": "test.csv",
        "output_dir": "run",
        "label_names": ["n/a", "yes"],
    }
    assert "/home" not in render_card(tmp_path, "me/model")


@pytest.mark.parametrize("end", ["", ":en", "@0123abc", ":en@0123abc", "@refs/convert/parquet"])
def test_a_data_set_of_the_hub_keeps_its_owner_configuration_and_revision(tmp_path: Path, end: str):
    write_run(tmp_path, PRETRAINED | {"corpus": PRETRAINED["corpus"] | {"hub_id": "me/texts"}})
    arguments = {"model": "minibert-mini", "corpus": [f"me/texts{end}"], "output_dir": "run"}
    (tmp_path / "arguments.json").write_text(json.dumps(arguments), encoding="utf-8")
    assert shareable_arguments(tmp_path)["corpus"] == [f"me/texts{end}"]
    assert f"--corpus me/texts{end} " in render_card(tmp_path, "me/model")


def test_names_of_the_hub_become_links_and_local_names_do_not(tmp_path: Path):
    dataset = FINETUNED["dataset"] | {"name": "stanfordnlp/imdb", "hub_id": "stanfordnlp/imdb", "is_builtin": False}
    folder = write_run(tmp_path, FINETUNED | {"base_model_hub_id": "me/minibert", "dataset": dataset})
    data = yaml.safe_load(render_card(folder).split("---\n")[1])
    assert (data["base_model"], data["datasets"], data.get("language")) == ("me/minibert", ["stanfordnlp/imdb"], None)
    for name in ("texts/*.txt", "books.jsonl.xz", "books", str(tmp_path)):
        write_run(folder, PRETRAINED | {"corpus": PRETRAINED["corpus"] | {"name": name, "hub_id": None}})
        assert "datasets" not in yaml.safe_load(render_card(folder).split("---\n")[1])


def test_curves_are_shown_where_they_were_drawn(tmp_path: Path):
    folder = write_run(tmp_path, PRETRAINED)
    assert "](curves.png)" in render_card(folder)
    (folder / "curves.png").unlink()
    assert "curves.png" not in render_card(folder)


def test_the_code_that_would_run_is_named(tmp_path: Path):
    folder = write_run(tmp_path, PRETRAINED)
    (folder / "unrelated.py").write_text("", encoding="utf-8")
    names = ["configuration_minibert.py", "modeling_minibert.py", "modeling_transformer.py"]
    assert [path.name for path in code_files(folder)] == names
    card = render_card(folder)
    assert "executes these files: `configuration_minibert.py`, `modeling_minibert.py`, `modeling_transformer.py`" in (
        " ".join(card.split())
    )
    (folder / "modeling_transformer.py").unlink()
    with pytest.raises(UserError, match="modeling_transformer.py is missing"):
        render_card(folder)
    (folder / "config.json").write_text(json.dumps(CONFIG | {"auto_map": None}), encoding="utf-8")
    assert "trust_remote_code" not in render_card(folder)


@pytest.mark.parametrize("name", ["config.json", "arguments.json", "results.json"])
def test_a_missing_file_is_named_with_what_writes_it(tmp_path: Path, name: str):
    folder = write_run(tmp_path, PRETRAINED)
    (folder / name).unlink()
    with pytest.raises(UserError, match=rf"{name} is missing.*scripts/pretrain\.py"):
        render_card(folder)
    (folder / name).write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=rf"{name} is not JSON"):
        render_card(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metrics": {"eval_loss": float("nan")}}, "eval_loss is nan: the run diverged"),
        ({"corpus": {"name": "builtin"}}, "'dict object' has no attribute 'evaluated_tokens'"),
        ({"model_type": "other"}, "'other' is missing or unknown"),
    ],
)
def test_a_figure_that_is_missing_or_no_number_is_refused(tmp_path: Path, change: dict, message: str):
    with pytest.raises(UserError, match=message):
        render_card(write_run(tmp_path, PRETRAINED | change))


EVIL = "a\n```\n# Not a title\n| <script> `x` [link](http://example.org) **b** |\n"


def test_names_and_labels_stay_in_their_place(tmp_path: Path):
    plain = render_card(write_run(tmp_path / "run", FINETUNED | {"dataset": FINETUNED["dataset"] | {"labels": ["x"]}}))
    evil = FINETUNED | {"base_model": EVIL, "changed_settings": ["label_names", EVIL]}
    evil |= {"dataset": FINETUNED["dataset"] | {"name": EVIL, "labels": [EVIL]}}
    evil |= {"training": FINETUNED["training"] | {"hardware": EVIL, EVIL: EVIL}, "environment": {EVIL: EVIL}}
    folder = write_run(tmp_path / EVIL.replace("/", ""), evil)
    arguments = ARGUMENTS | {"label_names": [EVIL], "output_dir": EVIL, EVIL: EVIL}
    (folder / "arguments.json").write_text(json.dumps(arguments), encoding="utf-8")
    card = render_card(folder)
    body = re.sub(r"(?ms)^(`{3,})[^`\n]*$.*?^\1$", "", card.partition("\n---\n")[2])  # without blocks of code
    lines = body.splitlines()
    assert [line for line in lines if line.startswith("#")][1:] == re.findall(r"(?m)^##.*", plain)
    outside = re.sub(r"(?s)(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", "", "\n".join(lines))
    for markup in ("<script>", "[link](", "**b**"):
        assert not re.search(r"(?<!\\)" + re.escape(markup), outside)
    tables(body)


def test_an_edited_card_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    folder = write_run(tmp_path, PRETRAINED)
    readme = folder / "README.md"
    assert write_card(folder) == readme
    write_run(folder, GENERATOR)
    assert write_card(folder) == readme
    assert readme.read_text(encoding="utf-8") == render_card(folder)
    edited = readme.read_text(encoding="utf-8").replace("MiniGPT with", "My model, with")
    readme.write_text(edited, encoding="utf-8")
    assert write_card(folder) == folder / "README.generated.md"
    assert "was edited by hand" in caplog.text
    assert readme.read_text(encoding="utf-8") == edited
    readme.write_text("mine", encoding="utf-8")
    assert write_card(folder) == folder / "README.generated.md"
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_snippets_name_the_folder_or_the_repository(tmp_path: Path, results: dict):
    folder = write_run(tmp_path, results)
    for name, card in {folder.as_posix(): render_card(folder), "me/model": render_card(folder, "me/model")}.items():
        package, remote = snippets(card)
        assert package.startswith("import hf_minibert")
        assert f'model="{name}")' in package
        assert f'model="{name}", trust_remote_code=True)' in remote
        for snippet in (package, remote):
            compile(snippet, "card", "exec")


CONFIGURATION = "from transformers import {0}Config\nclass Config({0}Config):\n    model_type = '{1}'\n"
MODELING = """from transformers import {0}
from .configuration_mini import Config
class Model({0}):
    config_class = Config
"""


def test_remote_code_snippets_run(tmp_path: Path):
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import (
        BertConfig,
        BertForMaskedLM,
        BertForSequenceClassification,
        GPT2Config,
        GPT2LMHeadModel,
        PreTrainedTokenizerFast,
    )

    words = ["[PAD]", "[UNK]", "[MASK]", "The", "function", "returns", "a", "list", "."]
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    shape = {"vocab_size": len(words), "pad_token_id": 0}
    bert = BertConfig(**shape, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    gpt = GPT2Config(**shape, n_embd=8, n_layer=1, n_head=1, bos_token_id=None, eos_token_id=None)
    programs = []
    for name, auto_class, model in (
        ("encoder", "AutoModelForMaskedLM", BertForMaskedLM(bert)),
        ("generator", "AutoModelForCausalLM", GPT2LMHeadModel(gpt)),
        ("classifier", "AutoModelForSequenceClassification", BertForSequenceClassification(bert)),
    ):
        folder = tmp_path / f"{name}-0.1"
        model.save_pretrained(folder)
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            unk_token="[UNK]",
            pad_token="[PAD]",
            mask_token="[MASK]",
            model_input_names=["input_ids", "attention_mask"],
        ).save_pretrained(folder)
        stock = type(model).__name__
        model_type = RESULTS[name]["model_type"]
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config |= {
            "model_type": model_type,
            "auto_map": {"AutoConfig": "configuration_mini.Config", auto_class: "modeling_mini.Model"},
        }
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        base = "GPT2" if stock.startswith("GPT2") else "Bert"
        (folder / "configuration_mini.py").write_text(CONFIGURATION.format(base, model_type), encoding="utf-8")
        (folder / "modeling_mini.py").write_text(MODELING.format(stock), encoding="utf-8")
        for file, content in {"arguments.json": ARGUMENTS, "results.json": RESULTS[name]}.items():
            (folder / file).write_text(json.dumps(content), encoding="utf-8")
        programs.append(snippets(render_card(folder))[1])
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(programs)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "token_str" in done.stdout
    assert "The function" in done.stdout
    assert "LABEL_" in done.stdout
