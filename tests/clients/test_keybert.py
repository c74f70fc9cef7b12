"""KeyBERT: the words of a text that are nearest to it."""

from typing import Any

import pytest
from opening import Place, run
from test_sentence_training import build

TEXT = (
    "The ship crossed the stormy ocean. Sailors climbed the masts, and the captain watched the waves break over "
    "the deck until the harbour came in sight."
)


def job(place: Place) -> Any:
    from keybert import KeyBERT

    model = build(place)
    found = KeyBERT(model).extract_keywords(TEXT, top_n=5, keyphrase_ngram_range=(1, 1))
    document, words = model.encode([TEXT]), model.encode([word for word, _ in found])
    return {"found": found, "own": model.similarity(document, words)[0].tolist()}


def test_keybert(mode: str):
    found, expected = run(job, mode)["found"], run(job, "native")["found"]
    assert len(found) == 5
    assert all(word in TEXT.lower() for word, _ in found)
    assert [word for word, _ in found] == [word for word, _ in expected]
    assert [score for _, score in found] == pytest.approx(run(job, mode)["own"], abs=1e-3)
