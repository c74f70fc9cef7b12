"""Bad input of every kind that the scripts take: status 2, one clear line, nothing touched."""

import json
from pathlib import Path

import datasets
import pytest
from commands import call, command, forked, write_corpus

from hf_minibert.data import builtin_corpus

TINY = ["--model", "minibert-tiny", "--max_steps", "2", "--max_seq_length", "32", "--max_eval_samples", "4"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_corpus(tmp_path / "good.jsonl", documents=40)
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "binary.txt").write_bytes(bytes(range(256)) * 10)
    (tmp_path / "latin.txt").write_bytes("Zoë said so. ".encode("latin-1") * 100)
    (tmp_path / "broken.jsonl").write_text('{"text": "a"}\n{"text": \n')
    (tmp_path / "one.txt").write_text("A single short document.")
    (tmp_path / "two.jsonl").write_text('{"text": "short"}\n{"text": "texts"}\n')
    (tmp_path / "file").write_text("not a folder")
    rows = [f"text {number},{number % 2}" for number in range(40)]
    tables = {"none": [], "one_class": [row[:-1] + "1" for row in rows], "no_label": [*rows, "text,"]}
    for name, lines in (tables | {"unseen": ["text,2"], "labelled": rows}).items():
        (tmp_path / f"{name}.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    (tmp_path / "numbers.jsonl").write_text('{"text": 7, "label": "1"}\n')
    (tmp_path / "settings.yaml").write_text("modle: minibert-tiny\n")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.doc").write_text("precious")
    return tmp_path


CASES = {
    "missing corpus": (["--corpus", "{}/no.txt"], "no.txt"),
    "empty file": (["--corpus", "{}/empty.txt"], "empty"),
    "binary file": (["--corpus", "{}/binary.txt"], "binary"),
    "wrong encoding": (["--corpus", "{}/latin.txt"], "UTF-8"),
    "broken json": (["--corpus", "{}/broken.jsonl"], "broken.jsonl:2"),
    "wrong column": (["--corpus", "{}/good.jsonl", "--text_column", "body"], "body"),
    "empty glob": (["--corpus", "{}/*.parquet"], "*.parquet"),
    "one document": (["--corpus", "{}/one.txt"], "at least 2"),
    "too little text": (["--corpus", "{}/two.jsonl", "--max_seq_length", "64"], "max_seq_length"),
    "unknown model": (["--model", "minibret-tiny"], "minibert-tiny"),
    "unknown flag": (["--learning_rat", "1"], "--learning_rate"),
    "objective of the other": (["--objective", "clm"], "mlm"),
    "not a number": (["--max_steps", "many"], "max_steps"),
    "nonsense number": (["--learning_rate", "-1"], "learning_rate"),
    "nonsense budget": (["--budget", "soon"], "5m"),
    "hybrid of a classic": (["--objective", "hybrid", "--architecture", "classic"], "needs --architecture modern"),
    "hybrid with biases": (["--objective", "hybrid", "--config_overrides", "use_bias=true"], "use_bias=True"),
    "nonsense share": (["--masked_share", "1"], "masked_share must be between 0 and 1, got 1.0"),
    "nonsense probability": (["--mlm_probability", "1.5"], "mlm_probability"),
    "sequence longer than the model": (
        ["--max_seq_length", "4096", "--config_overrides", "max_position_embeddings=512"],
        "leave max_position_embeddings out",
    ),
    "unknown config field": (["--config_overrides", "hiden_size=4"], "hidden_size"),
    "heads that do not divide": (["--config_overrides", "num_attention_heads=3"], "multiple"),
    "attention without its package": (["--attn_implementation", "flash_attention_2"], "flash-attn"),
    "attention without a gradient": (["--attn_implementation", "flex_attention"], "no gradient on a CPU"),
    "nonsense licence": (["--corpus_license", "cc-by-4.0", "My Own"], "--corpus_license 'My Own' is no identifier"),
    "unknown tracker": (["--report_to", "paper"], "tensorboard"),
    "missing tokenizer": (["--tokenizer", "{}/nowhere"], "nowhere"),
    "nothing to resume": (["--output_dir", "{}/foreign", "--resume"], "nothing to resume"),
    "output is a file": (["--output_dir", "{}/file"], "file"),
    "output is someone's": (["--output_dir", "{}/foreign"], "not empty"),
    "output is someone's, overwriting": (
        ["--output_dir", "{}/foreign", "--overwrite_output_dir"],
        "other than an earlier run",
    ),
    "unknown key in a file": (["{}/settings.yaml"], "did you mean 'model'"),
}


@pytest.mark.parametrize("case", CASES)
def test_pretrain_refuses(
    case: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words, message = CASES[case]
    words = [word.format(folder) for word in words]
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    first = [words.pop(0)] if words[0].endswith(".yaml") else []
    defaults = [*TINY, "--output_dir", str(folder / "run")]
    defaults += [] if "--corpus" in words else ["--corpus", str(folder / "good.jsonl")]
    assert call("pretrain.py", monkeypatch, *first, *defaults, *words) == 2
    errors = capsys.readouterr().err.strip().splitlines()[-1]
    assert errors.startswith("pretrain.py: error: ")
    assert message in errors
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert {path: text for path, text in after.items() if path in before} == before
    assert not (folder / "run" / "model.safetensors").exists()


def test_a_mistake_is_one_line_without_a_traceback(folder: Path) -> None:
    done = command("pretrain.py", folder / "cache", output_dir=folder / "run", corpus=folder / "no.txt")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr
    assert not (folder / "run").exists()


def test_a_run_that_failed_early_can_be_repeated(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [*TINY, "--output_dir", folder / "again", "--corpus"]
    assert call("pretrain.py", monkeypatch, *words, folder / "one.txt") == 2
    assert call("pretrain.py", monkeypatch, *words, folder / "good.jsonl") == 0


@pytest.mark.parametrize("is_there", [False, True])
def test_a_job_that_was_stopped_while_it_read_its_text_begins_anew(
    is_there: bool, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "hf_minibert")
    if is_there:
        (tmp_path / "run").mkdir()
    words = [*TINY, "--output_dir", tmp_path / "run", "--corpus", folder / "good.jsonl", "--resume"]
    for said in (f"there is no run in {tmp_path / 'run'} to resume, so one begins anew", "is already finished"):
        assert call("pretrain.py", monkeypatch, *words) == 0
        assert said in caplog.text
        assert json.loads((tmp_path / "run" / "arguments.json").read_text())["resume"] is False


def test_a_resume_on_another_corpus_changes_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = folder / "run"
    assert call("pretrain.py", monkeypatch, *TINY, "--output_dir", run, "--corpus", folder / "good.jsonl") == 0
    before = (run / "arguments.json").read_bytes()
    other = write_corpus(folder / "other.jsonl", documents=50)
    words = ["--output_dir", run, "--resume", "--max_steps", "4"]
    assert call("pretrain.py", monkeypatch, *words, "--corpus", other) == 2
    assert "not what the run began with" in capsys.readouterr().err
    assert (run / "arguments.json").read_bytes() == before
    assert call("pretrain.py", monkeypatch, *words) == 0
    assert "step 2; changed: max_steps 2 -> 4" in capsys.readouterr().out


FINETUNE = {
    "no model": (["--model_name_or_path", "{}/foreign"], "foreign"),
    "missing data": (["--dataset", "{}/no.jsonl"], "no.jsonl"),
    "wrong label column": (["--label_column", "stars"], "stars"),
    "no rows": (["--dataset", "{}/none.csv"], "none.csv has no rows"),
    "one class only": (["--dataset", "{}/one_class.csv"], "column 'label' holds one label only (1)"),
    "a missing label": (["--dataset", "{}/no_label.csv"], "no_label.csv, line 42 has no label in the column 'label'"),
    "a label that training lacks": (
        ["--dataset", "{}/labelled.csv", "--eval_dataset", "{}/unseen.csv"],
        "the eval split has the label '2'",
    ),
    "text that is none": (
        ["--dataset", "{}/labelled.csv", "--test_dataset", "{}/numbers.jsonl"],
        "must hold text, but",
    ),
    "a flag of another task": (["--num_beams", "2"], "--num_beams is a flag of translation"),
    "no such metric": (["--best_metric", "bleu"], "best_metric bleu is no metric of this task"),
    "two models": (["--model", "minibert-tiny"], "give either --model_name_or_path"),
    "wrong column of the builtin data": (["--dataset", "builtin", "--text_column", "sentence"], "'sentence'"),
    "wrong number of names": (["--label_names", "a", "b", "c"], "3 names"),
    "nonsense number": (["--num_train_epochs", "0"], "num_train_epochs"),
    "sequence of a few tokens": (["--max_seq_length", "4"], "at least 8, got 4"),
    "output is a file": (["--output_dir", "{}/file"], "file"),
    "output is someone's": (["--output_dir", "{}/foreign"], "not empty"),
    "unknown task": (["--task", "poetry"], "text-classification"),
    "words that are no list": (["--task", "token-classification"], "must hold a list a row"),
    "no column of questions": (["--task", "question-answering"], "--question_column"),
    "no column of choices": (["--task", "multiple-choice", "--question_column", "text"], "--choices_columns"),
    "flag of another task": (["--doc_stride", "8"], "--doc_stride is a flag of question-answering"),
}


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretrained")
    corpus = write_corpus(folder / "corpus.jsonl", documents=40)
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert call("pretrain.py", monkeypatch, *TINY, "--corpus", corpus, "--output_dir", folder / "run") == 0
    return folder / "run"


@pytest.mark.parametrize("case", FINETUNE)
def test_finetune_refuses(
    case: str, folder: Path, pretrained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if "builtin" in case:  # of which a few files do
        files = builtin_corpus.installed_sources()[:100]
        monkeypatch.setattr(builtin_corpus, "installed_sources", lambda: files)
        monkeypatch.setattr(datasets.config, "HF_CACHE_HOME", str(folder))
    words, message = FINETUNE[case]
    defaults = ["--model_name_or_path", str(pretrained), "--dataset", str(folder / "good.jsonl")]
    defaults += ["--output_dir", str(folder / "run")]
    assert call("finetune.py", monkeypatch, *defaults, *(word.format(folder) for word in words)) == 2
    errors = capsys.readouterr().err.strip().splitlines()[-1]
    assert errors.startswith("finetune.py: error: ")
    assert message in errors
    assert (folder / "foreign" / "thesis.doc").read_text() == "precious"
    assert not (folder / "run").exists()


GENERATE = {
    "not a decoder": ([], "does not generate"),
    "no model": (["--model_name_or_path", "{}/foreign"], "holds no model"),
    "nonsense temperature": (["--temperature", "-1"], "temperature"),
    "a temperature too small": (["--temperature", "1e-40"], "temperature must be 0, or 0.001 or more, got 1e-40"),
    "a penalty too small": (["--repetition_penalty", "1e-9"], "repetition_penalty must be 0.001 or more, got 1e-09"),
    "nonsense top_p": (["--top_p", "2"], "top_p"),
}


@pytest.mark.parametrize("case", GENERATE)
def test_generate_refuses(
    case: str, folder: Path, pretrained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words, message = GENERATE[case]
    words = ["--model_name_or_path", str(pretrained), *(word.format(folder) for word in words)]
    assert call("generate.py", monkeypatch, *words) == 2
    assert message in capsys.readouterr().err


def test_prepare_data_refuses_a_foreign_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--corpus", folder / "good.jsonl", "--output_dir", folder / "foreign"]
    assert call("prepare_data.py", monkeypatch, *words) == 2
    assert "something other than a token store" in capsys.readouterr().err
    assert (folder / "foreign" / "thesis.doc").read_text() == "precious"


def test_a_loss_that_is_not_finite_stops_the_run(folder: Path, tmp_path: Path) -> None:
    done = forked(
        "pretrain.py",
        folder / "cache",
        model="minibert-tiny",
        corpus=folder / "good.jsonl",
        output_dir=tmp_path / "diverged",
        max_steps=100,
        max_seq_length=32,
        max_eval_samples=4,
        learning_rate=1e30,
    )
    assert done.returncode == 2
    assert "not finite" in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr
    lines = (tmp_path / "diverged" / "metrics.jsonl").read_text().splitlines()
    assert all(json.loads(line) for line in lines)
