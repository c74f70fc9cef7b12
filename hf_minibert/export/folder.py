"""The folder of an export: what is common to all targets, its card and its record."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData
from transformers.utils.logging import disable_progress_bar

from hf_minibert.card_parts import stated_metadata
from hf_minibert.errors import UserError
from hf_minibert.files import write_json, write_text
from hf_minibert.markdown import code
from hf_minibert.output_folder import replaced_folder

RECORD = "export.json"


@contextmanager
def exported_folder(name_or_path: str, output_dir: str, *, last: str) -> Iterator[Path]:
    """An empty folder whose files move into `output_dir` if the block succeeds; else nothing changes there.

    Args:
        name_or_path: the checkpoint that is exported.
        output_dir: the folder to write.
        last: the file without which nothing opens the folder.

    Raises:
        UserError: the two are the same, or the folder holds something else than an earlier export.
    """
    if Path(output_dir).resolve() == Path(name_or_path).resolve():
        raise UserError(f"output_dir {output_dir} is the model itself; name another folder")
    disable_progress_bar()  # of saving and loading, which are short
    with replaced_folder(output_dir, "export", "an earlier export", inputs=[name_or_path], last=last) as folder:
        yield folder


def shown_name(name_or_path: str) -> str:
    """What an export calls its model: a name on the Hub as it is, a folder without where it lies."""
    return name_or_path if not Path(name_or_path).exists() else Path(name_or_path).resolve().name


def checked(record: dict[str, Any]) -> str:
    """What was compared before an export was written, in a sentence: what the record says, or two outputs."""
    return (
        record.get("checked") or f"On sample texts the outputs of the two differ by {record['largest_difference']:.1e}."
    )


def describe(
    folder: Path,
    name_or_path: str,
    record: dict[str, Any],
    opening: str,
    *,
    lost: str = "",
    library: str = "transformers",
    tags: Sequence[str] = (),
    pipeline: str | None = None,
    language: str = "python",
    from_hub: str = "give its name on the Hub in place of the dot",
) -> None:
    """Write the README and the record of an export.

    Args:
        folder: where to.
        name_or_path: the checkpoint, from whose README come licence, language and data sets, if it has one.
        record: what `export.json` says.
        opening: code that opens the folder, in `language`.
        lost: a sentence about what the checkpoint has and the export lacks.
        library: the Hub's name of the library that opens the folder.
        tags: the Hub's tags, besides ours.
        pipeline: the Hub's name of what the model does.
        language: in which `opening` is written.
        from_hub: how that code changes for a folder on the Hub.
    """
    source = Path(name_or_path) / "README.md"
    known = stated_metadata(source.read_text(encoding="utf-8", errors="replace")) if source.is_file() else {}
    metadata = ModelCardData(
        license=known.get("license"),
        language=known.get("language"),
        datasets=known.get("datasets"),
        library_name=library,
        pipeline_tag=pipeline,
        tags=["hf_minibert", *tags],
    )
    write_text(
        folder / "README.md",
        f"""---
{metadata.to_yaml()}
---

# {code(record["to"])} from {code(record["model"])}

The weights, configuration and tokenizer of the {code(record["from"])} named {code(record["model"])}, converted by
hf_minibert.
{checked(record)}{" " + lost if lost else ""}
To open this folder (if it is on the Hub, {from_hub}):

```{language}
{opening}```
""",
    )
    write_json(folder / RECORD, record)
