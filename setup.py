"""What pyproject.toml cannot say: the wheel holds the tokenizer and the reference checkpoints, too."""

from pathlib import Path
from shutil import copytree

from setuptools import setup
from setuptools.command.build_py import build_py

ASSETS = ("tokenizer", "checkpoints")


class BuildWithAssets(build_py):
    """Copies the folders of `ASSETS` into the package; an editable installation finds them where they are."""

    def run(self) -> None:
        """Build."""
        super().run()
        if not self.editable_mode:
            for name in ASSETS:
                if Path(name).is_dir():
                    copytree(name, Path(self.build_lib, "hf_minibert", name), dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithAssets})
