"""What translated before the Transformer did: an encoder and a decoder of GRUs, with attention between them.

Written anew from Bahdanau, Cho and Bengio 2015 (arXiv:1409.0473): the encoder reads in both directions; before each
word, the decoder weighs all of the encoder's states by a small network of its own state and each of them.
"""

import torch
from torch import Tensor, nn


class PlainRNN(nn.Module):
    """Reads one text and writes another, with one table of embeddings for both languages."""

    def __init__(self, *, vocab_size: int, width: int, dropout: float, begin_id: int, end_id: int, pad_id: int) -> None:
        super().__init__()
        self.begin_id, self.end_id, self.pad_id = begin_id, end_id, pad_id
        self.embed = nn.Embedding(vocab_size, width, padding_idx=pad_id)
        nn.init.normal_(self.embed.weight, std=width**-0.5)
        self.encoder = nn.GRU(width, width // 2, batch_first=True, bidirectional=True)
        self.begin = nn.Linear(width, width)
        self.query, self.key, self.score = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, 1)
        self.decoder = nn.GRUCell(2 * width, width)
        self.readout = nn.Linear(3 * width, width)
        self.dropout = nn.Dropout(dropout)

    def read(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, source) to the encoder's states, (batch, source, width), and the decoder's first, (batch, width)."""
        lengths = (source != self.pad_id).sum(dim=1)
        embedded = self.dropout(self.embed(source))
        packed = nn.utils.rnn.pack_padded_sequence(embedded, lengths.cpu(), batch_first=True, enforce_sorted=False)
        read, _ = self.encoder(packed)
        states, _ = nn.utils.rnn.pad_packed_sequence(read, batch_first=True, total_length=source.shape[1])
        mean = states.sum(dim=1) / lengths[:, None]
        return states, torch.tanh(self.begin(mean))

    def attend(self, state: Tensor, states: Tensor, keys: Tensor, is_padding: Tensor) -> tuple[Tensor, Tensor]:
        """What the decoder looks at, (batch, width): a mean of the states; and its weights, (batch, source)."""
        scores = self.score(torch.tanh(self.query(state)[:, None] + keys))[..., 0]
        weights = scores.masked_fill(is_padding, -torch.inf).softmax(dim=1)
        return (weights[:, None] @ states)[:, 0], weights

    def forward(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (batch, target, vocabulary) and attention (batch, target, source), each token behind the true ones."""
        (states, state), is_padding = self.read(source), source == self.pad_id
        keys, begin = self.key(states), torch.full_like(target[:, :1], self.begin_id)
        outputs, attention = [], []
        for word in self.dropout(self.embed(torch.cat((begin, target[:, :-1]), dim=1))).unbind(dim=1):
            seen, weights = self.attend(state, states, keys, is_padding)
            state = self.decoder(torch.cat((word, seen), dim=1), state)
            outputs.append(torch.cat((word, seen, state), dim=1))
            attention.append(weights)
        written = self.dropout(torch.tanh(self.readout(torch.stack(outputs, dim=1))))
        return written @ self.embed.weight.T, torch.stack(attention, dim=1)

    @torch.no_grad()
    def translate(self, source: Tensor, beams: int, longest: int) -> list[list[int]]:
        """The likeliest text of each row by beam search, of at most so many tokens; scores are means over tokens."""
        count = len(source)
        (states, state), is_padding = self.read(source), source == self.pad_id
        rows = torch.arange(count, device=source.device).repeat_interleave(beams)
        states, state, keys, is_padding = states[rows], state[rows], self.key(states)[rows], is_padding[rows]
        first = torch.arange(count, device=source.device)[:, None] * beams
        scores = torch.full((count, beams), -torch.inf, device=source.device)
        scores[:, 0] = 0.0
        written = torch.full((count * beams, 1), self.begin_id, device=source.device)
        for _ in range(longest):
            word, is_done = self.embed(written[:, -1]), written[:, -1] == self.end_id
            seen, _ = self.attend(state, states, keys, is_padding)
            state = self.decoder(torch.cat((word, seen), dim=1), state)
            logits = torch.tanh(self.readout(torch.cat((word, seen, state), dim=1))) @ self.embed.weight.T
            steps = logits.log_softmax(dim=1).masked_fill(is_done[:, None], -torch.inf)
            steps[is_done, self.end_id] = 0.0  # what has ended stays as it is
            lengths = (written != self.end_id).sum(dim=1).view(count, beams, 1)  # with the token at hand
            totals = scores[..., None] + steps.view(count, beams, -1)
            best = (totals / lengths).flatten(1).topk(beams).indices
            scores = totals.flatten(1).gather(1, best)
            chosen = (first + best // logits.shape[1]).flatten()
            written = torch.cat((written[chosen], (best % logits.shape[1]).view(-1, 1)), dim=1)
            state = state[chosen]
            if (written[:, -1] == self.end_id).all():
                break
        return [row[1:].tolist() for row in written[::beams]]
