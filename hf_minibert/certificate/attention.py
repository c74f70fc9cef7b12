"""Which tokens a model sees, measured: what changes when a token does, in rows, packed, cached and padded."""

from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from hf_minibert.certificate.checkpoint import RECURRENT, Checkpoint, NotApplicable, takes
from hf_minibert.export.convert import largest_relative

TOLERANCE = 1e-5
"""What counts as equal, as a share of the largest state (at least 1)."""
DOCUMENTS = (5, 9, 1, 8)
"""Lengths of the documents that are packed into one row."""
NEW_TOKENS = 8


class Failed(Exception):  # noqa: N818  # as NotApplicable
    """A line of the certificate does not hold; the message says what was measured."""


def no_later_token(checkpoint: Checkpoint) -> str:
    """No token of a decoder sees a later one: alone, beside padding, and where the first tokens are in a cache."""
    decoder = checkpoint.decoder
    row = checkpoint.rows()
    rows, cuts = edited_after(row, checkpoint.rows(row.shape[1], seed=1))
    padding = torch.zeros(len(rows), 3, dtype=torch.long)
    found = {
        "in a row": checkpoint.states(decoder, rows),
        "with a mask": checkpoint.states(decoder, rows, attention_mask=torch.ones_like(rows)),
    }
    if takes(decoder, "attention_mask"):
        mask = torch.cat((padding, torch.ones_like(rows)), dim=1)
        beside = torch.cat((padding + int(row[0, 0]), rows), dim=1)
        found["beside padding"] = checkpoint.states(decoder, beside, attention_mask=mask)[:, 3:]
    start = row.shape[1] // 3
    if (later := after_cache(checkpoint, rows, start)) is not None:
        found["after a cache"] = torch.cat((found["in a row"][:, :start], later), dim=1)
    largest = 0.0
    for where, states in found.items():
        for number, cut in enumerate(cuts, start=1):
            if where == "after a cache" and cut < start:
                continue  # the cached tokens themselves are others
            change = difference(states[number, :cut], states[0, :cut])
            largest = max(largest, change)
            if change > TOLERANCE:
                place = int((states[number, :cut] - states[0, :cut]).abs().amax(dim=-1).argmax())
                raise Failed(f"{where}, token {place} changed by {change:.1e} when those from {cut} on did")
    least = min(
        difference(found["in a row"][number, cut:], found["in a row"][0, cut:]) for number, cut in enumerate(cuts, 1)
    )
    return f"{len(cuts)} cuts in {len(found)} settings: before a cut {largest:.1e}, after it {least:.1e} or more"


def every_other_token(checkpoint: Checkpoint) -> str:
    """Every token of an encoder sees every other: each state changes, whichever token does."""
    encoder = checkpoint.encoder
    if getattr(getattr(encoder, "pooler", None), "pooling", None) == "siamese":
        raise NotApplicable("it compares two texts in a row, of which neither sees the other")
    row = checkpoint.rows()
    length = row.shape[1]
    others = checkpoint.rows(seed=1)[0]
    others = torch.where(others == row[0], row[0].roll(1), others)
    rows = torch.cat((row, torch.where(torch.eye(length, dtype=torch.bool), others, row)))
    states = checkpoint.states(encoder, rows)
    changes = (states[1:] - states[0]).abs().amax(dim=-1)  # (changed token, seeing token)
    unseen = ((changes == 0) & (others != row[0])[:, None]).nonzero()
    if len(unseen):
        changed, seeing = unseen[0].tolist()
        raise Failed(f"token {seeing} stays as it is when token {changed} changes; so do {len(unseen) - 1} more pairs")
    return f"{length * length} pairs of tokens: the least change is {float(changes.min()):.1e}"


def strangers(checkpoint: Checkpoint) -> str:
    """No document packed into a row sees its neighbour: its states are those that it has alone."""
    body = checkpoint.body
    if not takes(body, "position_ids"):
        raise NotApplicable(f"a {checkpoint.name} takes no position_ids, so its rows hold one document each")
    row = checkpoint.rows()
    lengths = fitting(DOCUMENTS, row.shape[1])
    row = row[:, : sum(lengths)]
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    packed = checkpoint.states(body, row, position_ids=positions)
    alone = torch.cat([checkpoint.states(body, one) for one in torch.split(row, lengths, dim=1)], dim=1)
    change = difference(packed, alone)
    told = f"{len(lengths)} documents in a row: they differ from each alone by {change:.1e}"
    if change > TOLERANCE and checkpoint.is_ours:
        raise Failed(told)
    if change > TOLERANCE:
        raise NotApplicable(f"a {checkpoint.name} does not keep packed documents apart ({change:.1e}): give each a row")
    return told


def cached_generation(checkpoint: Checkpoint) -> str:
    """With a cache the model computes and writes what it does without."""
    model, row, told = checkpoint.model, checkpoint.rows(), ""
    if not model.config.is_encoder_decoder:
        decoder, name = checkpoint.decoder, checkpoint.cache_name
        if name is None:
            raise NotApplicable(f"a {checkpoint.name} keeps no cache")
        full = checkpoint.states(decoder, row)
        parts = fitting((7, 1, 1, 1, 1, 1) if name == RECURRENT else (7, 1, 3, 1, 1, 11), row.shape[1])
        start, cache, found = 0, None, list[Tensor]()
        for part in torch.split(row[:, : sum(parts)], parts, dim=1):
            inputs: dict[str, Any] = {} if cache is None else {name: cache}
            outputs = checkpoint.outputs(decoder, part, use_cache=True, **inputs)
            cache, start = outputs[name], start + part.shape[1]
            found.append(outputs.last_hidden_state)
        largest = difference(torch.cat(found, dim=1), full[:, :start])
        if largest > TOLERANCE:
            raise Failed(f"read in parts with a cache, states differ by {largest:.1e}")
        told = f"read in parts, states differ by {largest:.1e}; "
    if not model.can_generate():
        return f"{told}a {checkpoint.name} does not generate"
    prompt = row[:, : max(1, row.shape[1] - NEW_TOKENS)]
    settings = GenerationConfig(
        do_sample=False, max_new_tokens=row.shape[1] - prompt.shape[1], pad_token_id=0, use_cache=True
    )
    if model.config.is_encoder_decoder:
        settings.decoder_start_token_id = first_token(checkpoint)
    saved, model.generation_config = model.generation_config, GenerationConfig()  # fills what `settings` leave open
    try:
        written = model.generate(prompt, attention_mask=torch.ones_like(prompt), generation_config=settings)
    finally:
        model.generation_config = saved
    if model.config.is_encoder_decoder:
        logits = model(input_ids=prompt, decoder_input_ids=written, use_cache=False).logits
        new = written[0, 1:]
    else:
        logits, new = model(input_ids=written, use_cache=False).logits, written[0, prompt.shape[1] :]
    scores = logits[0, -len(new) - 1 : -1]
    lost = (scores.amax(dim=-1) - scores.gather(1, new[:, None])[:, 0]) / scale(scores)
    if len(lost) and float(lost.max()) > TOLERANCE:
        place = int(lost.argmax())
        raise Failed(
            f"with a cache, token {place + 1} that it writes is not the likeliest without ({float(lost[place]):.1e})"
        )
    return f"{told}{len(new)} tokens written are the likeliest without a cache"


def fitting(lengths: tuple[int, ...], length: int) -> list[int]:
    """As many of the lengths as fit into a row of so many tokens; at least a shorter first one."""
    found: list[int] = []
    for one in lengths:
        if sum(found) + one > length:
            break
        found.append(one)
    return found or [length]


def first_token(checkpoint: Checkpoint) -> int:
    """The token with which a decoder beside an encoder begins to write."""
    model = checkpoint.model
    for settings in (model.generation_config, model.config):
        for name in ("decoder_start_token_id", "bos_token_id"):
            token = getattr(settings, name, None)
            if token is not None:
                return int(token)
    raise NotApplicable("neither the model's configuration nor its generation_config says with which token it begins")


def batch_and_sides(checkpoint: Checkpoint) -> str:
    """A row's states are the same alone, in a batch of others, and with padding on either side."""
    body = checkpoint.body
    rows = checkpoint.rows(3)
    length = rows.shape[1]
    lengths = (length, max(1, length - 5), max(1, length // 2))
    padding = checkpoint.tokenizer.pad_token_id or 0
    has_positions = takes(body, "position_ids")
    found = {}
    for side in ("right", "left"):
        real = torch.arange(length) < torch.tensor(lengths)[:, None]
        real = real if side == "right" else real.flip(1)
        ids = torch.full_like(rows, padding)
        ids[real] = torch.cat([row[:count] for row, count in zip(rows, lengths, strict=True)])
        settings: dict[str, Any] = {"attention_mask": real.long()}
        if side == "left" and has_positions:
            settings["position_ids"] = (real.long().cumsum(dim=1) - 1).clamp(min=0)
        elif side == "left":
            continue  # where a token stands depends on the padding before it
        states = checkpoint.states(body, ids, **settings)[real]
        alone = []
        for row, count in zip(rows, lengths, strict=True):
            own = {"position_ids": torch.arange(count)[None]} if side == "left" else {}
            mask = torch.ones(1, count, dtype=torch.long)
            alone.append(checkpoint.states(body, row[None, :count], attention_mask=mask, **own)[0])
        found[side] = difference(states, torch.cat(alone))
    told = " and ".join(f"{side} {change:.1e}" for side, change in found.items())
    if max(found.values()) > TOLERANCE:
        raise Failed(f"beside padding, states differ from those of each row alone: {told}")
    return f"3 rows of {lengths[2]} to {lengths[0]} tokens, padded: {told}"


def edited_after(row: Tensor, others: Tensor) -> tuple[Tensor, list[int]]:
    """Rows that are like the first up to a place, and other tokens from there on; and these places.

    Args:
        row: (1, sequence).
        others: (sequence, sequence), tokens to put there.

    Returns:
        (sequence, sequence), the row itself first, and the sequence - 1 places.
    """
    length = row.shape[1]
    others = torch.where(others == row, row.roll(1, dims=1), others)
    kept = torch.ones(length, length, dtype=torch.bool).tril(-1)
    kept[0] = True
    return torch.where(kept, row, others), list(range(1, length))


def after_cache(checkpoint: Checkpoint, rows: Tensor, start: int) -> Tensor | None:
    """The states of the rows' tokens from `start` on, read at once after the others were; None if that cannot be."""
    decoder, name = checkpoint.decoder, checkpoint.cache_name
    if name is None or name == RECURRENT or start == 0:
        return None
    cache = checkpoint.outputs(decoder, rows[:, :start], use_cache=True)[name]
    outputs = checkpoint.outputs(decoder, rows[:, start:], use_cache=True, **{name: cache})
    states: Tensor = outputs.last_hidden_state
    return states


def difference(one: Tensor, other: Tensor) -> float:
    """The largest difference, as a share of the largest state (at least 1); infinite for what is no number."""
    return largest_relative([(one, other)]) if one.numel() else 0.0


def scale(states: Tensor) -> float:
    """The largest magnitude, at least 1."""
    return max(1.0, float(states.abs().max()))
