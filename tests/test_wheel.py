"""The wheel alone, in an empty folder: what people get who install the package without its repository."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from commands import REPOSITORY, environment, flags, write_corpus

from hf_minibert.cli import VERBS


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, unpacked as pip unpacks it; built elsewhere, since `build` would keep modules that are gone."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("hf_minibert", "tokenizer", "checkpoints"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    words = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    subprocess.run([*words, folder, source], check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(installed: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A command, with the package from the wheel and nothing of the repository."""
    settings = environment(folder / "cache") | {"PYTHONPATH": str(installed)}
    command = [sys.executable, "-m", "hf_minibert", *words]
    return subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True, timeout=300, check=False)


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_a_wheel_has_its_command_the_tokenizer_and_the_checkpoints(installed: Path) -> None:
    information, package = sorted(installed.iterdir(), key=lambda path: path.name == "hf_minibert")
    assert "hf-minibert = hf_minibert.cli:main" in (information / "entry_points.txt").read_text()
    source, found = installed.parent / "source", content(package)
    for asset in ("tokenizer", "checkpoints"):
        for name, value in content(source / asset).items():
            assert found.pop(f"{asset}/{name}") == value
    assert found == content(source / "hf_minibert")


def test_a_wheel_pretrains_offline_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus.jsonl", documents=60)
    shape = flags({"model": "minibert-tiny", "max_steps": 2, "max_seq_length": 32, "max_eval_samples": 4})
    done = run(installed, tmp_path, "pretrain", "--corpus", "corpus.jsonl", "--output_dir", "run", *shape)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run/model.safetensors").is_file()
    code = (
        "import hf_minibert, transformers\n"
        "print(hf_minibert.__file__, len(transformers.AutoTokenizer.from_pretrained('run')))"
    )
    settings = os.environ | {"PYTHONPATH": str(installed)}
    told = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=settings, capture_output=True, text=True)
    assert told.stdout.split() == [str(installed / "hf_minibert/__init__.py"), "8192"]


def test_a_wheel_generates_with_the_checkpoint_that_it_brings(installed: Path, tmp_path: Path) -> None:
    words = flags({"model_name_or_path": "minigpt-tiny", "prompt": "The", "max_new_tokens": 5})
    done = run(installed, tmp_path, "generate", *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("The")


@pytest.mark.parametrize("words", [["-m", "hf_minibert"], ["generate"]])
def test_a_program_of_ones_own_knows_the_models_whatever_it_is_told(tmp_path: Path, words: list[str]) -> None:
    """Only a command of ours loads them later."""
    program = tmp_path / "scripts" / "generate.py"
    program.parent.mkdir()
    program.write_text("import hf_minibert, transformers; transformers.AutoConfig.for_model('minigpt')")
    done = subprocess.run([sys.executable, program, *words], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_package_is_found_from_the_folder_above_a_clone(tmp_path: Path) -> None:
    """Which has a folder of the package's name in it, but without the package's own file."""
    (tmp_path / "hf_minibert" / "hf_minibert").mkdir(parents=True)
    words = [sys.executable, "-c", "import hf_minibert; print(hf_minibert.MiniBertConfig.model_type)"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == "minibert\n", done.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_of_a_wheel_explains_itself(installed: Path, tmp_path: Path, verb: str) -> None:
    done = run(installed, tmp_path, verb, "--help")
    assert done.returncode == 0, done.stderr
    assert f"usage: python -m hf_minibert {verb} " in done.stdout


# What answering `--help` may load, beside the standard library: nothing that takes a second.
LIGHT = {"hf_minibert", "yaml", "tqdm", "__mp_main__"}  # the last is what multiprocessing calls the program


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ("pretrain --help", 0),
        ("pretrain --output_dir x --bogus 1", 2),
        ("pretrain --output_dir x --corpus nowhere.txt", 2),
        ("pretrain nowhere.yaml", 2),
        ("finetune --output_dir x --model_name_or_path nowhere", 2),
        ("generate --model_name_or_path nowhere", 2),
        ("evaluate --output_dir x --suite blimp --dataset README.md --model_name_or_path nowhere", 2),
        ("export --output_dir x --model_name_or_path nowhere", 2),
        ("push --repo_id a/b --model_name_or_path nowhere", 2),
        ("replay --output_dir nowhere --step 1", 2),
        ("check nowhere", 2),
        ("train-tokenizer --output_dir x --corpus nowhere.txt", 2),
        ("prepare-data --output_dir x --corpus nowhere.txt", 2),
    ],
)
def test_help_and_mistakes_answer_before_torch_is_loaded(tmp_path: Path, words: str, status: int) -> None:
    """Within a second of CPU time: 0.1 s here, and 5.4 s with torch."""
    code = (
        "import atexit, sys\n"
        f"sys.argv = ['hf-minibert', *{words.split()!r}]\n"
        "before = set(sys.modules)\n"
        "atexit.register(lambda: print('loaded:', *{name.split('.')[0] for name in set(sys.modules) - before}))\n"
        "from hf_minibert.cli import main\n"
        "main()\n"
    )
    settings = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=settings, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert done.stderr.count("\n") == (1 if status else 0)
    loaded = set(done.stdout.split("loaded:")[1].split())
    assert {name for name in loaded - set(sys.stdlib_module_names) if "cython" not in name} <= LIGHT
