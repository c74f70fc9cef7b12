"""Exchange the files of a folder, so that at every moment it opens as what it was or as what it will be.

A file system changes one name at a time, but a model is several files. So ``config.json``, while the others change,
names the new weights in another place (``transformers_weights``, which every ``from_pretrained`` obeys): the change of
that one file is the change of the model. ``tokenizer_config.json`` does the same for ``tokenizer.json``. If both
change, the tokenizer does not open while ``config.json`` does, so that nobody gets a model with another's tokens. That
is the least: no file says both which weights and which tokens there are, so two names change, one after the other.
(A link to a folder of all files would be one name, but files, not links, are what is copied, packed and uploaded; the
folder itself may be a volume, which nobody can rename.)

All steps are noted before the first one. If the process dies, whoever uses the folder next takes those that are left.
"""

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from hf_minibert.files import MANIFEST, Manifest, damage, digest, is_plain_file, set_aside, sync, temporary_path

NEXT = ".hf_minibert-next"
"""The subfolder that holds what is about to take the place of a folder's files, and the steps in which it does."""
_STEPS, _NEW, _BRIDGE = "steps.json", "new", "bridge"
_CONFIG, _WEIGHTS, _GENERATION = "config.json", "model.safetensors", "generation_config.json"
_TOKENIZER, _TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
_WEIGHTS_MEANWHILE = f"{NEXT}.safetensors"
_TOKENIZER_MEANWHILE = "tokenizer.0.json"  # a name of this form is what transformers looks for


class _Step(NamedTuple):
    """A rename out of `NEXT`, or, without a source, the removal of a file that has this checksum."""

    target: str
    source: str | None = None
    checksum: str | None = None
    """None: the file goes if it is as its stamp in the list of files says."""


def exchange(staged: Path, folder: Path, *, coming: dict[str, str], gone: Iterable[str], last: str) -> None:
    """Give the files in `staged` their names in a folder, and remove those that are `gone`.

    Args:
        staged: a folder inside `folder`, with nothing but the new files; it is used up.
        folder: one that has a list of files, on which `coming` already is; see `Manifest.make_way`.
        coming: the checksums of the new files.
        gone: listed files without a successor; those that somebody has changed stay, and leave the list.
        last: the file without which nothing opens the folder, and which a folder without a model therefore lacks
            meanwhile.
    """
    manifest = Manifest.read(folder)
    assert manifest is not None, "a folder is filled by whoever holds it"
    new = staged / _NEW
    new.mkdir()
    for name in {PurePosixPath(name).parts[0] for name in coming}:
        (staged / name).rename(new / name)
    elsewhere = {name for name in manifest.files if manifest.path(name) is None}  # somebody has edited the list
    gone = [name for name in gone if name not in coming and name not in elsewhere]
    steps, bridges = _plan(staged, manifest, coming, gone, last)
    for name, checksum in bridges.items():
        stamps = manifest.files.setdefault(name, [])
        if os.path.lexists(folder / name) and not manifest.fitting(name):
            set_aside(folder / name)
        stamps.append({"sha256": checksum})
    manifest.write()
    left = {name: stamps for name, stamps in manifest.files.items() if name not in {*gone, *bridges, *elsewhere}}
    listed = left | {name: [{"sha256": checksum}] for name, checksum in coming.items()}
    Manifest(new, manifest.verb, listed, manifest.cards).write()
    steps.append(_Step(MANIFEST, f"{_NEW}/{MANIFEST}"))
    (staged / _STEPS).write_text(json.dumps({"steps": steps}, indent=1) + "\n", encoding="utf-8")
    for path in [*staged.rglob("*"), staged]:
        sync(path)
    staged.rename(folder / NEXT)  # decided: from here on the new files are the folder's
    sync(folder)
    finish(folder)


def _plan(
    staged: Path, manifest: Manifest, coming: dict[str, str], gone: list[str], last: str
) -> tuple[list[_Step], dict[str, str]]:
    """The steps, and the checksums of the files that are there meanwhile, by name; makes those, below `_BRIDGE`."""
    folder, bridges = manifest.folder, dict[str, str]()
    first, twins, configs, after = list[_Step](), list[_Step](), list[_Step](), list[_Step]()
    models = [name for name in coming if PurePosixPath(name).name == _CONFIG and _can_bridge(staged, folder, name)]
    for config in models:
        place = PurePosixPath(config).parent
        generation = f"{place / _GENERATION}"
        if is_plain_file(folder / generation) and coming.get(generation) != (before := digest(folder / generation)):
            if manifest.fitting(generation):
                first.append(_Step(generation, checksum=before))  # its defaults are the config's meanwhile
            else:
                set_aside(folder / generation)
        code = [name for name in coming if PurePosixPath(name).parent == place and name.endswith(".py")]
        first += [_Step(name, f"{_NEW}/{name}") for name in sorted(code)]
        twin = f"{place / _WEIGHTS_MEANWHILE}"
        bridges[twin] = _bridge_copy(staged, f"{place / _WEIGHTS}", twin, coming)
        bridges[config] = _bridge_config(staged, config, {"transformers_weights": _WEIGHTS_MEANWHILE})
        twins.append(_Step(twin, f"{_BRIDGE}/{twin}"))
        configs.append(_Step(config, f"{_BRIDGE}/{config}"))
        after.append(_Step(twin, checksum=bridges[twin]))
    switch, pair = [*twins, *configs], (_TOKENIZER, _TOKENIZER_CONFIG)
    has_pair = all(name in coming and is_plain_file(folder / name) for name in pair)
    if has_pair and any(digest(folder / name) != coming[name] for name in pair):
        names = {"fast_tokenizer_files": [_TOKENIZER_MEANWHILE]}
        bridges[_TOKENIZER_CONFIG] = _bridge_config(staged, _TOKENIZER_CONFIG, names)
        bridges[_TOKENIZER_MEANWHILE] = _bridge_copy(staged, _TOKENIZER, _TOKENIZER_MEANWHILE, coming)
        ready, named = (_Step(name, f"{_BRIDGE}/{name}") for name in (_TOKENIZER_MEANWHILE, _TOKENIZER_CONFIG))
        switch = [*twins, named, *configs, ready] if models else [ready, named]
        after.append(_Step(_TOKENIZER_MEANWHILE, checksum=bridges[_TOKENIZER_MEANWHILE]))
    opens_always = last in bridges or (has_pair and last == _TOKENIZER_CONFIG)
    if not opens_always and is_plain_file(folder / last):
        first.insert(0, _Step(last, checksum=digest(folder / last)))
    opening = {name for name in coming if PurePosixPath(name).name in (_CONFIG, _TOKENIZER_CONFIG)} | {last}
    moved = {step.target for step in first if step.source is not None}
    others = sorted(coming.keys() - opening - moved, key=lambda name: (PurePosixPath(name).name != _GENERATION, name))
    others += sorted(coming.keys() & opening, key=lambda name: (name == last, name))
    renames = [_Step(name, f"{_NEW}/{name}") for name in others]
    return [*first, *switch, *map(_Step, gone), *renames, *after], bridges


def _can_bridge(staged: Path, folder: Path, config: str) -> bool:
    """Whether a model, whose weights are one file, takes the place of another."""
    place = PurePosixPath(config).parent
    if not (is_plain_file(folder / config) and is_plain_file(staged / _NEW / place / _WEIGHTS)):
        return False
    return isinstance(json.loads((staged / _NEW / config).read_text(encoding="utf-8")), dict)


def _bridge_config(staged: Path, name: str, more: dict[str, Any]) -> str:
    """Write a new configuration with more keys; returns its checksum."""
    path = staged / _BRIDGE / name
    path.parent.mkdir(parents=True, exist_ok=True)
    content = json.loads((staged / _NEW / name).read_text(encoding="utf-8")) | more
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return digest(path)


def _bridge_copy(staged: Path, name: str, meanwhile: str, coming: dict[str, str]) -> str:
    """Give a new file a second name, where the file system can; else copy it. Returns its checksum."""
    source, path = staged / _NEW / name, staged / _BRIDGE / meanwhile
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, path)
    except OSError:  # one without hard links; of a full disk, the copy tells
        shutil.copy(source, path)
    return coming[name]


def finish(folder: Path) -> None:
    """Take the steps that are left of an exchange, if there was one; the caller has the folder's lock.

    A file that somebody has written meanwhile under a name that is needed gets another name.

    Raises:
        UserError: what was noted is damaged.
    """
    place = folder / NEXT
    if place.is_symlink() or not place.is_dir():
        return
    manifest = Manifest.read(folder) or Manifest(folder, "", {})
    steps = _read_steps(place, manifest)
    for number, step in enumerate(steps, start=1):
        given = [one.source for one in steps[number:] if one.target == step.target and one.source is not None]
        if step.source is None and not all(is_plain_file(place / source) for source in given):
            continue  # the name is that of the new file already, which may be as the one that had to go
        _take(step, folder, manifest)
    manifest.remove_empty_folders([step.target for step in steps if step.source is None])
    doomed = temporary_path(folder)
    place.rename(doomed)
    shutil.rmtree(doomed)


def _take(step: _Step, folder: Path, manifest: Manifest) -> None:
    """Take one step, unless it is taken already."""
    target = folder / step.target
    if step.source is None:
        is_planned = is_plain_file(target) and step.checksum == digest(target)
        if is_planned or (step.checksum is None and manifest.fitting(step.target)):
            target.unlink()
    elif is_plain_file(folder / NEXT / step.source):
        target.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(target) and step.target != MANIFEST and not manifest.fitting(step.target):
            set_aside(target)
        (folder / NEXT / step.source).replace(target)


def _read_steps(place: Path, manifest: Manifest) -> list[_Step]:
    """The noted steps, of which each stays inside its folder.

    Raises:
        UserError: they are damaged.
    """
    path, inside = place / _STEPS, Manifest(place, "", {})
    remedy = f"delete {place}, and make what the folder holds anew"
    with damage(f"{path}, which says how the files of {place.parent} are exchanged,", remedy):
        if not is_plain_file(path):
            raise ValueError("no file")
        steps = [_Step(*step) for step in json.loads(path.read_text(encoding="utf-8"))["steps"]]
        for step in steps:
            target, source = manifest.path(step.target), None if step.source is None else inside.path(step.source)
            if target is None or (step.source is not None and source is None):
                raise ValueError("a name leads out of the folder")
    return steps
