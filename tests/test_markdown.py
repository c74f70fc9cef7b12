import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_minibert.markdown import block, code, plain

texts = st.text(alphabet=st.sampled_from("ab \n\r\t`|#*_<>[]()!\\&~$=-+1.\u2028"), max_size=40)


@given(texts)
def test_words_stay_in_their_line_and_are_no_markup(text: str) -> None:
    for shown in (plain(text), code(text)):
        assert len(shown.splitlines()) <= 1
        assert not re.search(r"(?<!\\)(\\\\)*\|", shown), "a table keeps its columns"
    assert not re.search(r"(?<!\\)(\\\\)*[`<*\[]", plain(text))


@given(texts)
def test_code_stays_in_its_fence(text: str) -> None:
    first, *lines, last = block(text, "bash").split("\n")
    assert first == f"{last}bash"
    assert "\n".join(lines) == text
    assert last not in text


@pytest.mark.parametrize("name", ["minibert-mini", "my_model_2", "v1.0 (final)", "größer"])
def test_usual_names_are_not_changed(name: str) -> None:
    assert plain(name) == name
    assert code(name) == f"`{name}`"
