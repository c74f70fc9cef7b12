"""The page of `demo --static`: what is in the folder, where the library comes from, and what is refused."""

import io
import json
import os
import tarfile
from pathlib import Path

import pytest
from commands import call
from huggingface_hub import constants

from hf_minibert.errors import UserError
from hf_minibert.export import browser
from hf_minibert.export.browser import FILES, LIBRARY, PAGE, RUNTIME, downloaded_library

NAMES = sorted(Path(name).name for names in FILES.values() for name in names)


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A `node_modules` with other content in the files that a page needs."""
    for package, names in FILES.items():
        for name in names:
            path = tmp_path / "node_modules" / package / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"// {package}/{name}")
    return tmp_path / "node_modules"


def test_a_page_has_all_that_it_needs_beside_it(save, library, tmp_path, monkeypatch, capsys):
    _, folder = save("MiniBertForSequenceClassification", id2label={0: "bad", 1: "good"})
    out = tmp_path / "page"
    flags = ["--model_name_or_path", folder, "--static", out, "--library", library, "--quantize", "int8"]
    assert call("demo.py", monkeypatch, *flags) == 0
    assert f"python3 -m http.server --bind 127.0.0.1 --directory {out} 8000" in capsys.readouterr().out
    settings = json.loads((out / "settings.json").read_text())
    assert settings["pipeline"] == "text-classification"
    assert settings["dtype"] == "q8"
    assert not settings["reads_pairs"]
    assert str(tmp_path) not in json.dumps(settings)
    assert {path.name for path in out.iterdir()} >= {*PAGE, "library", "model", "settings.json"}
    assert sorted(path.name for path in (out / "library").iterdir()) == NAMES
    files = {path.relative_to(out / "model").as_posix() for path in (out / "model").rglob("*") if path.is_file()}
    assert {"config.json", "tokenizer.json", "onnx/model.onnx", "onnx/model_quantized.onnx"} <= files
    page = "".join((out / name).read_text() for name in PAGE)
    assert "://" not in page, "nothing is fetched from elsewhere"
    assert "innerHTML" not in page, "what a model says is text"


def test_a_page_of_a_classifier_of_pairs_asks_for_both_texts(save, library, tmp_path):
    _, folder = save("MiniBertForSequenceClassification", classifier_pooling="pair")
    browser.write(str(folder), str(tmp_path / "page"), library=str(library))
    assert json.loads((tmp_path / "page/settings.json").read_text())["reads_pairs"]
    assert 'id="second"' in (tmp_path / "page/index.html").read_text()


def test_a_library_that_lacks_a_file_is_refused_and_nothing_is_written(save, library, tmp_path):
    _, folder = save("MiniBertForMaskedLM")
    (library / RUNTIME / FILES[RUNTIME][0]).unlink()
    with pytest.raises(UserError, match=rf"lacks {RUNTIME}/{FILES[RUNTIME][0]}; give a node_modules with"):
        browser.write(str(folder), str(tmp_path / "page"), library=str(library))
    assert not (tmp_path / "page").exists()


def test_a_model_that_no_page_shows_is_refused(save, library, tmp_path):
    _, folder = save("MiniGPTForSequenceClassification")
    with pytest.raises(
        UserError, match="in stock classes a LlamaForSequenceClassification, for which there is no page"
    ):
        browser.write(str(folder), str(tmp_path / "page"), library=str(library))
    assert not (tmp_path / "page").exists()


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An npm that packs archives of its own, as npm does, and writes down what it was asked for."""
    packages = tmp_path / "packages"
    packages.mkdir()
    contents = {
        LIBRARY: {name: name for name in FILES[LIBRARY]}
        | {"package.json": json.dumps({"dependencies": {RUNTIME: "7"}})},
        RUNTIME: {name: name for name in FILES[RUNTIME]},
    }
    for package, files in contents.items():
        with tarfile.open(packages / f"{package.replace('/', '-')}.tgz", "w:gz") as archive:
            for name, text in {**files, "dist/other.js": "other"}.items():
                member = tarfile.TarInfo(f"package/{name}")
                member.size = len(text)
                archive.addfile(member, io.BytesIO(text.encode()))
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "npm"
    program.write_text(
        f"""#!/bin/sh
echo "$@" >> {tmp_path}/asked
package=$(echo "$2" | sed 's/@[^@]*$//; s#/#-#')
[ -f "{packages}/$package.tgz" ] || {{ echo "npm error 404 no such package" >&2; exit 1; }}
cp "{packages}/$package.tgz" .
"""
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    return tmp_path


def test_the_library_is_downloaded_once_and_only_its_files_are_kept(npm):
    folder = downloaded_library()
    assert sorted(path.name for path in folder.iterdir()) == sorted([*NAMES, "package.json"])
    assert downloaded_library() == folder
    asked = (npm / "asked").read_text().splitlines()
    assert [line.split()[1] for line in asked] == [f"{LIBRARY}@{browser.LIBRARY_VERSION}", f"{RUNTIME}@7"]
    assert all("--ignore-scripts" in line for line in asked)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_download_that_fails_leaves_nothing_and_says_why(npm):
    (npm / "packages" / f"{RUNTIME}.tgz").unlink()
    with pytest.raises(UserError, match=rf"npm cannot download {RUNTIME}@7 \(npm error 404 no such package\)"):
        downloaded_library()
    assert not list((npm / "home" / "hf_minibert").iterdir())


@pytest.mark.usefixtures("npm")
def test_without_npm_it_says_what_to_do(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match=r"npm is not installed.*--library FOLDER"):
        downloaded_library()
