from collections import Counter

import numpy as np
import pytest

from hf_minibert.data.rows import (
    CausalRows,
    Draw,
    MaskedRows,
    Masking,
    NextSentence,
    NextSentenceRows,
    RowSettings,
    SentenceOrderRows,
    TokenStream,
    permutation,
    uniform,
)
from hf_minibert.data.token_store import Documents
from hf_minibert.errors import UserError
from hf_minibert.models.losses import IGNORE_INDEX
from hf_minibert.pretraining.hybrid import HybridRows

PAD, CLS, SEP, MASK = 0, 2, 3, 4
SPECIAL = [0, 1, 2, 3, 4]
VOCAB = 200


def documents(*texts: list[int]) -> Documents:
    """As a store has them: end to end, here in two chunks."""
    lengths = np.array([len(text) for text in texts])
    half = (len(texts) + 1) // 2
    chunks = [
        np.concatenate([np.array(text, dtype=np.uint16) for text in some]) if some else np.empty(0, np.uint16)
        for some in (texts[:half], texts[half:])
    ]
    begins = np.concatenate([np.cumsum(lengths[:half]) - lengths[:half], np.cumsum(lengths[half:]) - lengths[half:]])
    return Documents(chunks, np.stack([np.arange(len(texts)) >= half, begins, lengths], axis=1).astype(np.int64))


def numbered(*lengths: int, first: int = 5) -> Documents:
    """Documents in which no token occurs twice."""
    ends = np.cumsum(lengths) + first
    return documents(*([*range(end - length, end)] for end, length in zip(ends.tolist(), lengths, strict=True)))


def masking(probability: float = 0.15, seed: int = 0, vocab_size: int = VOCAB) -> Masking:
    return Masking(probability=probability, mask_id=MASK, special_ids=SPECIAL, vocab_size=vocab_size, seed=seed)


def ids(*, length: int, seed: int = 0) -> dict[str, int]:
    return {"length": length, "cls_id": CLS, "sep_id": SEP, "seed": seed}


def every_row(objective) -> np.ndarray:
    return np.arange(objective.num_rows)


# ---------------------------------------------------------------- random numbers


def test_uniform_numbers_are_uniform_and_not_correlated():
    rows, columns = np.arange(400)[:, None], np.arange(250)
    draws = {
        (seed, epoch, draw): uniform(seed, epoch, draw, rows, columns)
        for seed, epoch, draw in [
            (0, 0, Draw.SELECT),
            (0, 0, Draw.REPLACE),
            (0, 1, Draw.SELECT),
            (1, 0, Draw.SELECT),
            (42, 7, Draw.TOKEN),
        ]
    }
    n = 100_000
    for numbers in draws.values():
        assert numbers.shape == (400, 250)
        assert numbers.min() >= 0
        assert numbers.max() < 1
        assert abs(numbers.mean() - 1 / 2) < 5 * (1 / 12 / n) ** 0.5
        assert abs(numbers.var() - 1 / 12) < 5 * (1 / 180 / n) ** 0.5
        counts, _ = np.histogram(numbers, bins=100, range=(0, 1))
        assert ((counts - n / 100) ** 2 / (n / 100)).sum() < 99 + 5 * (2 * 99) ** 0.5, "chi-squared"
        neighbours = [
            (numbers[:, :-1], numbers[:, 1:]),
            (numbers[:-1], numbers[1:]),
            (numbers[:-1, 1:], numbers[1:, :-1]),
        ]
        for one, other in neighbours:
            assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 5 / n**0.5
    pairs = np.corrcoef([numbers.ravel() for numbers in draws.values()])
    assert np.abs(pairs - np.eye(len(draws))).max() < 5 / n**0.5


def test_uniform_numbers_depend_on_where_they_stand_alone():
    rows, columns = np.array([5, 9, 2]), np.arange(8)
    together = uniform(3, 1, Draw.SELECT, rows[:, None], columns)
    assert uniform(3, 1, Draw.SELECT, rows[1], columns[:4]).tolist() == together[1, :4].tolist()
    assert uniform(3, 1, Draw.SELECT, rows[[2, 0]], columns[[7, 3]]).tolist() == [together[2, 7], together[0, 3]]
    # Runs that are resumed elsewhere need the same numbers, so they may never change.
    assert uniform(42, 0, Draw.SELECT, np.array([0]), np.arange(2)).tolist() == [
        0.1391302882628882,
        0.8548700244229562,
    ]


def test_permutation_is_one_and_depends_on_seed_epoch_and_draw():
    orders = [
        permutation(*key, 50)
        for key in [(0, 0, Draw.ROW_ORDER), (0, 1, Draw.ROW_ORDER), (1, 0, Draw.ROW_ORDER), (0, 0, Draw.DOCUMENT_ORDER)]
    ]
    for order in orders:
        assert sorted(order) == list(range(50))
    assert len({tuple(order) for order in orders}) == 4
    assert permutation(0, 0, Draw.ROW_ORDER, 50).tolist() == orders[0].tolist()


def test_every_order_is_equally_likely():
    counts = Counter(tuple(permutation(seed, 0, Draw.ROW_ORDER, 3).tolist()) for seed in range(6_000))
    assert len(counts) == 6
    assert all(abs(count - 1_000) < 5 * 1_000**0.5 for count in counts.values())


# ---------------------------------------------------------------- the stream


@pytest.fixture
def in_order(monkeypatch):
    """Documents and rows in the order in which they stand, so that examples can be written by hand."""
    monkeypatch.setattr("hf_minibert.data.rows.permutation", lambda *key: np.arange(key[-1]))


@pytest.mark.usefixtures("in_order")
def test_stream_by_hand():
    stream = TokenStream(documents([11, 12, 13], [21], [31, 32, 33, 34, 35, 36, 37, 38]), **ids(length=6))
    input_ids, position_ids = stream.read(0, every_row(stream))
    assert input_ids.tolist() == [
        [CLS, 11, 12, 13, SEP, CLS],
        [21, SEP, CLS, 31, 32, 33],
        [34, 35, 36, 37, 38, SEP],
    ]
    assert position_ids.tolist() == [
        [0, 1, 2, 3, 4, 0],
        [0, 1, 0, 1, 2, 3],
        [0, 1, 2, 3, 4, 5],
    ]


@pytest.mark.usefixtures("in_order")
def test_row_that_begins_with_the_end_of_a_document():
    stream = TokenStream(documents([11, 12, 13, 14, 15], [21, 22, 23]), **ids(length=6))
    input_ids, position_ids = stream.read(0, every_row(stream))
    assert input_ids.tolist() == [[CLS, 11, 12, 13, 14, 15], [SEP, CLS, 21, 22, 23, SEP]]
    assert position_ids.tolist() == [[0, 1, 2, 3, 4, 5], [0, 0, 1, 2, 3, 4]]


@pytest.mark.parametrize("length", [4, 7, 16, 33])
def test_an_epoch_has_every_token_once_but_the_remainder(length):
    lengths = [1, 2, 30, 5, 4, 17, 1, 64, 3]
    stream = TokenStream(numbered(*lengths), **ids(length=length))
    total = sum(lengths) + 2 * len(lengths)
    assert stream.num_rows == total // length
    for epoch in range(3):
        input_ids, position_ids = stream.read(epoch, every_row(stream))
        ordinary = input_ids[input_ids >= 5]
        assert len(np.unique(ordinary)) == len(ordinary), "no token twice"
        assert total - input_ids.size < length, "and hardly one left out"
        # Inside a row, a position of 0 is where a document, or a row, begins.
        assert ((position_ids == 0)[:, 1:] == (input_ids == CLS)[:, 1:]).all()
        assert (position_ids[:, 0] == 0).all()
        steps = np.diff(position_ids, axis=1)
        assert (steps[position_ids[:, 1:] != 0] == 1).all()


def test_documents_and_rows_have_another_order_every_epoch():
    stream = TokenStream(numbered(*[5] * 20), **ids(length=7))
    epochs = [stream.read(epoch, every_row(stream))[0].tolist() for epoch in (0, 1, 0)]
    assert epochs[0] == epochs[2]
    assert epochs[0] != epochs[1]
    assert sorted(epochs[0]) == sorted(epochs[1]), "each row is one document here"


@pytest.mark.parametrize("make", [CausalRows, lambda some, **places: MaskedRows(some, masking=masking(), **places)])
def test_too_little_text(make):
    with pytest.raises(UserError, match="2 document.* with 7 tokens do not fill one row of max_seq_length 12"):
        make(numbered(3, 4), **ids(length=12))
    assert make(numbered(3, 5), **ids(length=12)).num_rows == 1


# ---------------------------------------------------------------- clm


@pytest.mark.usefixtures("in_order")
def test_causal_labels_by_hand():
    objective = CausalRows(documents([11, 12, 13], [21], [31, 32, 33, 34]), **ids(length=7))
    batch = objective.batch(0, every_row(objective))
    assert sorted(batch) == ["input_ids", "labels", "position_ids"]
    assert batch["input_ids"].tolist() == [[CLS, 11, 12, 13, SEP, CLS, 21], [SEP, CLS, 31, 32, 33, 34, SEP]]
    no = IGNORE_INDEX
    assert batch["labels"].tolist() == [[no, 11, 12, 13, SEP, no, 21], [no, no, 31, 32, 33, 34, SEP]]


# ---------------------------------------------------------------- mlm


@pytest.fixture(scope="module")
def masked() -> MaskedRows:
    generator = np.random.default_rng(0)
    texts = [generator.integers(5, VOCAB, generator.integers(1, 120)).tolist() for _ in range(3_000)]
    return MaskedRows(documents(*texts), masking=masking(), **ids(length=64))


def within(count: int, total: int, share: float) -> bool:
    """Whether a count is what so many draws give: by chance, one in a million is not."""
    return abs(count - share * total) < 5 * (total * share * (1 - share)) ** 0.5


def test_15_percent_are_chosen_and_80_10_10_of_them_hidden_replaced_kept(masked):
    rows, epochs = every_row(masked), range(10)
    original = np.concatenate([masked._stream.read(epoch, rows)[0] for epoch in epochs])
    batches = [masked.batch(epoch, rows) for epoch in epochs]
    noisy, labels = (np.concatenate([batch[name] for batch in batches]) for name in ("input_ids", "labels"))
    original[:, 0], original[:, -1] = CLS, SEP
    ordinary = ~np.isin(original, SPECIAL)
    chosen = labels != IGNORE_INDEX
    assert within(chosen.sum(), ordinary.sum(), 0.15)
    assert (labels[chosen] == original[chosen]).all()
    assert (noisy[~chosen] == original[~chosen]).all(), "nothing changes but what is predicted"
    assert not chosen[~ordinary].any(), "specials are never chosen"

    hidden, kept = noisy[chosen] == MASK, noisy[chosen] == labels[chosen]
    replaced = noisy[chosen][~hidden & ~kept]
    total, drawn_itself = chosen.sum(), 0.1 / (VOCAB - len(SPECIAL))
    assert within(hidden.sum(), total, 0.8)
    assert within(kept.sum(), total, 0.1 + drawn_itself)
    assert within(len(replaced), total, 0.1 - drawn_itself)
    assert not np.isin(replaced, SPECIAL).any(), "specials are never drawn"
    assert set(replaced) == set(range(5, VOCAB)), "and all others are"
    counts = np.bincount(replaced, minlength=VOCAB)[5:]
    expected = len(replaced) / len(counts)
    assert ((counts - expected) ** 2 / expected).sum() < len(counts) + 5 * (2 * len(counts)) ** 0.5, "equally often"


@pytest.mark.parametrize("probability", [0.3, 0.5])
def test_the_probability_can_be_chosen(masked, probability):
    rows = every_row(masked)
    original, _ = masked._stream.read(0, rows)
    _, labels = masking(probability).apply(0, rows, original)
    assert within((labels != IGNORE_INDEX).sum(), (~np.isin(original, SPECIAL)).sum(), probability)


def test_masks_are_spread_over_columns_and_rows(masked):
    rows = every_row(masked)
    chosen = masked.batch(0, rows)["labels"].numpy() != IGNORE_INDEX
    ordinary = ~np.isin(masked._stream.read(0, rows)[0], SPECIAL)
    for column in range(1, 63):
        assert within(chosen[:, column].sum(), ordinary[:, column].sum(), 0.15)
    assert chosen.any(axis=1).mean() > 0.99


def test_every_epoch_and_every_seed_has_other_masks():
    objectives = [
        MaskedRows(documents(list(range(5, 67)), [5, 6]), masking=masking(seed=seed), **ids(length=64))
        for seed in (0, 1)
    ]
    labels = {
        (seed, epoch): tuple(objective.batch(epoch, np.array([0]))["labels"][0].tolist())
        for seed, objective in enumerate(objectives)
        for epoch in range(5)
    }
    assert len(set(labels.values())) == 10


def test_every_row_reads_as_whole_texts(masked):
    batch = masked.batch(0, every_row(masked))
    assert sorted(batch) == ["input_ids", "labels", "position_ids"]
    input_ids = batch["input_ids"]
    assert (input_ids[:, 0] == CLS).all()
    assert (input_ids[:, -1] == SEP).all()
    begins = batch["position_ids"][:, 1:-1] == 0
    assert (input_ids[:, 1:-1][begins] == CLS).all()
    before = batch["input_ids"][:, :-2][begins]
    assert ((before == SEP) | (before == CLS)).all(), "a lone [SEP] of the row before has become a [CLS]"


# ---------------------------------------------------------------- mlm+nsp


def pairs(some: Documents, *, length: int, seed: int = 0, probability: float = 1e-9) -> NextSentenceRows:
    """Practically without masks, so that the segments can be seen."""
    noise = masking(probability, seed=seed, vocab_size=100_000)
    return NextSentenceRows(some, masking=noise, pad_id=PAD, **ids(length=length, seed=seed))


def segments(batch) -> list[tuple[list[int], list[int], int]]:
    """A, B and the label of every row, having checked how they are put together."""
    found = []
    for input_ids, types, mask, label in zip(
        batch["input_ids"].tolist(),
        batch["token_type_ids"].tolist(),
        batch["attention_mask"].tolist(),
        batch["next_sentence_label"].tolist(),
        strict=True,
    ):
        width = sum(mask)
        first_sep = input_ids.index(SEP)
        first, second = input_ids[1:first_sep], input_ids[first_sep + 1 : width - 1]
        assert input_ids == [CLS, *first, SEP, *second, SEP] + [PAD] * (len(input_ids) - width)
        assert mask == [1] * width + [0] * (len(input_ids) - width)
        assert types == [0] * (first_sep + 1) + [1] * (width - first_sep - 1) + [0] * (len(input_ids) - width)
        assert first
        assert second
        found.append((first, second, label))
    return found


def test_structure_of_pairs_and_what_the_label_means():
    lengths = [2, 3, 5, 8, 13, 21, 34, 55, 89, 144] * 20
    objective = pairs(numbered(*lengths), length=32)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    seen = Counter()
    for epoch in range(3):
        batch = objective.batch(epoch, every_row(objective))
        assert sorted(batch) == ["attention_mask", "input_ids", "labels", "next_sentence_label", "token_type_ids"]
        for first, second, label in segments(batch):
            assert np.diff(first).tolist() == [1] * (len(first) - 1), "a piece of text, in its order"
            assert np.diff(second).tolist() == [1] * (len(second) - 1)
            assert len({owner[token - 5] for token in first}) == len({owner[token - 5] for token in second}) == 1
            seen[label] += 1
            if label == NextSentence.FOLLOWS:
                assert second[0] == first[-1] + 1
                assert owner[second[0] - 5] == owner[first[0] - 5]
            else:
                assert owner[second[0] - 5] != owner[first[0] - 5]
    assert within(seen[NextSentence.RANDOM], seen.total(), 0.5)
    assert (int(NextSentence.FOLLOWS), int(NextSentence.RANDOM)) == (0, 1), "BERT's convention"


def test_every_token_is_in_a_pair_once_an_epoch_when_b_follows(monkeypatch):
    """Chunks cover their document without overlap; that A and B are cut somewhere loses nothing."""
    lengths = [2, 50, 7, 300, 29, 30, 58, 59]
    objective = pairs(numbered(*lengths), length=32)
    real = uniform
    monkeypatch.setattr(
        "hf_minibert.data.rows.uniform",
        lambda seed, epoch, draw, rows, columns: (
            np.full(len(rows), 0.9) if draw == Draw.IS_RANDOM else real(seed, epoch, draw, rows, columns)
        ),
    )
    found = segments(objective.batch(0, every_row(objective)))
    assert {label for _, _, label in found} == {0}
    assert sorted(token for first, second, _ in found for token in first + second) == list(range(5, 5 + sum(lengths)))


def test_lengths_do_not_give_the_label_away():
    objective = pairs(numbered(*[40] * 300), length=64)
    widths, second_widths = {0: [], 1: []}, {0: [], 1: []}
    for epoch in range(20):
        for first, second, label in segments(objective.batch(epoch, every_row(objective))):
            widths[label].append(len(first) + len(second))
            second_widths[label].append(len(second))
    assert set(widths[0]) == set(widths[1]) == {40}
    follows, random = (np.bincount(second_widths[label], minlength=40) for label in (0, 1))
    total = (follows + random)[1:]
    assert total.all(), "every length of B occurs"
    expected = total * (follows.sum() / total.sum())
    statistic = ((follows[1:] - expected) ** 2 / expected * (total.sum() / random.sum())).sum()
    assert statistic < 38 + 5 * (2 * 38) ** 0.5, "chi-squared of independence"


def test_a_giant_document_and_pairs_of_tokens_fit():
    objective = pairs(numbered(60_000, *[2] * 100), length=16)
    batch = objective.batch(0, every_row(objective))
    segments(batch)  # looks at their structure
    widths = batch["attention_mask"].sum(dim=1)
    assert widths.max() == 16
    assert widths.min() == 5


def test_masks_of_pairs():
    objective = pairs(numbered(*[60] * 200), length=32, probability=0.15)
    batch = objective.batch(0, every_row(objective))
    labels, mask = batch["labels"].numpy(), batch["attention_mask"].numpy()
    assert (labels[mask == 0] == IGNORE_INDEX).all()
    assert not np.isin(labels, SPECIAL).any()
    # [CLS] and two [SEP] a row are not chosen.
    assert within((labels != IGNORE_INDEX).sum(), mask.sum() - 3 * len(mask), 0.15)


@pytest.mark.parametrize("lengths", [[100], [1, 1, 1, 100], [1, 1]])
def test_pairs_need_two_documents_of_two_tokens(lengths):
    with pytest.raises(UserError, match="takes B from another document, but only [01] document"):
        pairs(numbered(*lengths), length=16)


def test_two_documents_are_enough():
    objective = pairs(numbered(10, 10), length=16)
    assert len(segments(objective.batch(0, every_row(objective)))) == 2


# ---------------------------------------------------------------- all of them


def test_a_wrong_order_is_the_right_one_swapped():
    lengths = [2, 3, 5, 8, 13, 21, 34, 55, 89, 144] * 20
    some = numbered(*lengths)
    noise = masking(1e-9, vocab_size=100_000)
    objective = SentenceOrderRows(some, masking=noise, pad_id=PAD, **ids(length=32))
    seen = Counter()
    for first, second, label in segments(objective.batch(0, every_row(objective))):
        seen[label] += 1
        before, after = (first, second) if label == NextSentence.FOLLOWS else (second, first)
        assert after[0] == before[-1] + 1
    assert within(seen[NextSentence.RANDOM], seen.total(), 0.5)


def hybrid(some, seed=0, share=0.5, length=32):
    shape = ids(length=length, seed=seed)
    settings = RowSettings(pad_id=PAD, masking=masking(seed=seed), masked_share=share, **shape)
    return HybridRows(some, settings)


def test_hybrid_rows_are_masked_or_causal_in_the_share_asked_for():
    some = numbered(*[9, 30, 2, 77, 5] * 200)
    objective = hybrid(some, share=0.7)
    batch = objective.batch(0, every_row(objective))
    causal = batch["causal_rows"]
    assert within(int((~causal).sum()), len(causal), 0.7)
    shape = ids(length=32)
    masked_alone = MaskedRows(some, masking=masking(), **shape).batch(0, every_row(objective))
    causal_alone = CausalRows(some, **shape).batch(0, every_row(objective))
    for name in ("input_ids", "position_ids", "labels"):
        assert (batch[name][~causal] == masked_alone[name][~causal]).all()
    assert (batch["input_ids"][causal] == causal_alone["input_ids"][causal]).all()
    assert (batch["labels"][causal][:, 1:] == causal_alone["labels"][causal][:, 1:]).all()
    assert (batch["labels"][causal][:, 0] == -100).all(), "nothing leads to the first token of a row"


OBJECTIVES = {
    "hybrid": hybrid,
    "clm": lambda some, seed: CausalRows(some, **ids(length=32, seed=seed)),
    "mlm": lambda some, seed: MaskedRows(some, masking=masking(seed=seed), **ids(length=32, seed=seed)),
    "mlm+nsp": lambda some, seed: pairs(some, length=32, seed=seed, probability=0.15),
    "mlm+sop": lambda some, seed: SentenceOrderRows(
        some, masking=masking(seed=seed), pad_id=PAD, **ids(length=32, seed=seed)
    ),
}


@pytest.mark.parametrize("make", OBJECTIVES.values(), ids=OBJECTIVES)
def test_a_row_is_the_same_in_whatever_batch_it_comes(make):
    some = numbered(*[9, 30, 2, 77, 5] * 10)
    whole, other = make(some, 0), make(some, 0)
    rows = every_row(whole)
    for epoch in (1, 0):
        together = whole.batch(epoch, rows)
        for row in rows[::-1].tolist():
            alone = other.batch(epoch, np.array([row]))
            for name, tensor in together.items():
                assert alone[name][0].tolist() == tensor[row].tolist()
            whole.batch(1 - epoch, np.array([row]))  # what is asked for in between changes nothing


@pytest.mark.parametrize("make", OBJECTIVES.values(), ids=OBJECTIVES)
def test_the_seed_decides_the_batch(make):
    some = numbered(*[9, 30, 2, 77, 5] * 10)
    batches = [make(some, seed).batch(0, np.arange(8)) for seed in (0, 0, 1)]
    for name in batches[0]:
        assert (batches[0][name] == batches[1][name]).all()
    assert (batches[0]["input_ids"] != batches[2]["input_ids"]).any()
