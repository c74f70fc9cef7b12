from pathlib import Path

import pytest
import yaml

from hf_minibert.card_parts import assembled, is_generated, merged, metadata_of, own_words, renew_card, with_metadata_of
from hf_minibert.files import Manifest, digest

METADATA = "license: mit\ntags:\n- hf_minibert\n- mlm"
OLD = assembled(METADATA, "# A model\n\nIt has 3 layers.")
NEW = assembled("license: mit\ntags:\n- hf_minibert\n- clm\nlanguage: en", "# A model\n\nIt has 4 layers.")


def metadata(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def test_what_nobody_touched_is_replaced_as_a_whole():
    assert is_generated(OLD)
    assert merged(OLD, NEW) == NEW
    assert not own_words(OLD)
    assert is_generated(OLD.replace("\n", "\r\n")), "as some editors and websites save it"


def test_words_above_and_below_outlive_the_generated_part():
    card = OLD.replace(
        "<!-- hf_minibert: generated from", "# Mine\n\n<b>Read</b> this.\n\n<!-- hf_minibert: generated from"
    )
    card += "\n## Thanks\n\nTo all.\n"
    assert not is_generated(card)
    renewed = merged(card, NEW)
    assert "It has 4 layers." in renewed
    assert "3 layers" not in renewed
    assert renewed.index("<b>Read</b> this.") < renewed.index("It has 4") < renewed.index("## Thanks")
    assert metadata(renewed) == metadata(NEW)
    assert own_words(renewed) == own_words(card)
    assert merged(renewed, NEW) == renewed, "again and again"


def test_metadata_that_a_person_changed_added_or_removed_stays_so():
    card = OLD.replace("license: mit", "license: gpl-3.0\ndatasets:\n- me/texts").replace(
        "tags:\n- hf_minibert\n- mlm\n", ""
    )
    renewed = merged(card, NEW)
    assert metadata(renewed) == {"license": "gpl-3.0", "datasets": ["me/texts"], "language": "en"}
    assert "It has 4 layers." in renewed
    assert metadata(merged(card, NEW, overriding=["license"]))["license"] == "mit"


@pytest.mark.parametrize("beginning", ["\n---\n", "\ufeff---\n", "--- \n"])
def test_metadata_are_found_as_the_hub_finds_them(beginning: str):
    card = OLD.replace("---\n", beginning, 1).replace("license: mit", "license: gpl-3.0")
    renewed = merged(card, NEW)
    assert metadata(renewed) == metadata(NEW) | {"license": "gpl-3.0"}
    assert renewed.count("license:") == 1


@pytest.mark.parametrize(
    "card",
    [
        "My own card.",
        "",
        OLD.replace("3 layers", "three layers"),
        OLD.replace("generated up to here", "gone"),
        OLD + OLD,
        OLD.replace("license: mit", "license: [mit"),
        OLD.replace("license: mit", "license: mit\n# ask the lawyers"),
        OLD.replace("license: mit", "license: mit  # per legal@example.org"),
        OLD.replace("---\n\n<!--", "\n<!--"),
    ],
    ids=[
        "own",
        "empty",
        "edited",
        "unmarked",
        "twice",
        "broken YAML",
        "a comment",
        "a comment behind a value",
        "no end",
    ],
)
def test_what_cannot_be_told_apart_is_not_merged(card: str):
    assert own_words(card) is None
    assert not is_generated(card)
    assert merged(card, NEW) is None


@pytest.mark.parametrize(
    ("written", "stated"),
    [
        ("license: mit # c", None),
        ("- mit\n", None),
        ("terms: | # c\n  Terms\n", None),
        ("terms: |\n  Terms\n # c\n", None),
        ("terms: |\n  # Terms\n\n  # More\n", {"terms": "# Terms\n\n# More\n"}),
        ("name: 'a # b'\nother: a#b\n", {"name": "a # b", "other": "a#b"}),
        ("", {}),
    ],
)
def test_a_comment_is_what_yaml_calls_so(written: str, stated: dict | None):
    card = f"---\n{written}\n---\n"
    assert metadata_of(card) == stated
    renewed = with_metadata_of(card, NEW)
    assert (renewed and metadata(renewed)) == (None if stated is None else metadata(NEW) | stated)


def test_a_card_that_is_blank_has_nothing_to_keep():
    assert with_metadata_of("", NEW) == with_metadata_of(" \r\n", NEW) == NEW
    assert with_metadata_of("Mine.", NEW) is with_metadata_of("---\nMine.", NEW) is None


def test_a_card_with_words_of_a_person_is_on_no_list(tmp_path: Path):
    Manifest(tmp_path, "pretrain", {}).write()
    path = renew_card(tmp_path, OLD)
    assert Manifest.read(tmp_path).fitting("README.md")
    path.write_text(OLD + "\nMine.\n")
    assert renew_card(tmp_path, NEW) == path
    assert path.read_text() == NEW + "\nMine.\n"
    assert not Manifest.read(tmp_path).fitting("README.md"), "so that no verb deletes it"
    before = digest(path)
    assert Manifest.read(tmp_path).remove(["README.md"]) == ["README.md"]
    assert digest(path) == before
    assert sorted(each.name for each in tmp_path.iterdir()) == [".hf_minibert.json", "README.md"]
