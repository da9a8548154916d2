"""The model and data of sentences.opt: an encoder of texts, and texts without labels.

`python studies/real/sentences.py` trains the encoder to fill in masked words, and writes sentences.safetensors.
"""

from __future__ import annotations

from pathlib import Path

import torch
from docstrings import LONGEST, PAD, UNKNOWN, WORDS, texts
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

WIDTH = 64


class Encoder(nn.Module):
    """DistilBERT as Transformers has it, small; a text's answer is the mean over its words, of length 1."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        from transformers import DistilBertConfig, DistilBertModel

        self.body = DistilBertModel(DistilBertConfig(
            vocab_size=WORDS, dim=WIDTH, n_layers=layers, n_heads=4, hidden_dim=4 * WIDTH,
            max_position_embeddings=LONGEST, attn_implementation="eager",
        ))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        words = self.body(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        kept = attention_mask[..., None].to(words.dtype)
        return nn.functional.normalize((words * kept).sum(dim=1) / kept.sum(dim=1), dim=-1)


class Words(Dataset[list[int]]):
    """The numbers of a text's words."""

    def __init__(self, first: int, count: int) -> None:
        samples, numbers = texts()
        self.samples = [[numbers.get(word, UNKNOWN) for word in words] for words, _ in samples[first : first + count]]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> list[int]:
        return self.samples[index]


def padded(samples: list[list[int]]) -> dict[str, Tensor]:
    """A batch as long as its longest text; the mask is 1 where there is a word."""
    longest = max(map(len, samples))
    tokens = torch.tensor([words + [PAD] * (longest - len(words)) for words in samples])
    return {"input_ids": tokens, "attention_mask": (tokens != PAD).long()}


def data(size: int = 4000, validation: int = 1000) -> dict[str, object]:
    """Texts alone: nobody has labelled them."""
    return {
        "train": DataLoader(Words(validation, size), batch_size=64, shuffle=True, collate_fn=padded),
        "validation": DataLoader(Words(0, validation), batch_size=64, collate_fn=padded),
    }


def encoder(layers: int = 2) -> nn.Module:
    """The encoder; its weights are read by the study."""
    return Encoder(layers)


def pretrain(epochs: int = 3, size: int = 6000) -> None:
    """Fill in 15 % of the words, which are masked; the head that says them is not kept."""
    torch.manual_seed(0)
    body, head = Encoder(2), nn.Linear(WIDTH, WORDS)
    optimizer = torch.optim.AdamW([*body.parameters(), *head.parameters()], lr=2e-3)
    loader = DataLoader(Words(1000, size), batch_size=64, shuffle=True, collate_fn=padded)
    for epoch in range(epochs):
        total = 0.0
        for batch in loader:
            tokens, mask = batch["input_ids"], batch["attention_mask"]
            hidden = (torch.rand(tokens.shape) < 0.15) & (mask > 0)
            given = tokens.masked_fill(hidden, UNKNOWN)
            words = body.body(input_ids=given, attention_mask=mask).last_hidden_state
            loss = nn.functional.cross_entropy(head(words[hidden]), tokens[hidden])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss.detach())
        print(f"epoch {epoch + 1}: loss {total / len(loader):.3f}")
    from safetensors.torch import save_file

    save_file(body.state_dict(), Path(__file__).with_suffix(".safetensors"))


if __name__ == "__main__":
    pretrain()
