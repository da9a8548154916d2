"""The model and data of docstrings.opt: a small BERT that tells from which library a docstring comes.

The text is real: the docstrings of the packages that optlang itself needs, read from their files. Batches are padded to
their longest text.
"""

from __future__ import annotations

import collections
import functools
import importlib.util
import random
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

LIBRARIES = {
    "torch": ("torch.nn", "torch.optim", "torch.distributions", "torch.utils"),
    "scipy": ("scipy.stats", "scipy.signal", "scipy.optimize", "scipy.linalg", "scipy.interpolate"),
    "scikit-learn": ("sklearn",),
    "numpy": ("numpy.lib", "numpy.ma", "numpy.linalg", "numpy.polynomial", "numpy._core"),
    "Python": ("asyncio", "email", "http", "logging", "unittest", "xml", "multiprocessing", "importlib", "urllib"),
    "optuna": ("optuna",),
}
LONGEST, WORDS = 64, 4000
PAD, UNKNOWN = 0, 1

_DOCSTRING = re.compile(r'^\s*r?"""(.*?)"""', re.M | re.S)


def _texts(packages: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The words of the first two paragraphs of each docstring."""
    for package in packages:
        top, *below = package.split(".")
        spec = importlib.util.find_spec(top)
        assert spec is not None
        assert spec.origin is not None
        for file in sorted(Path(spec.origin).parent.joinpath(*below).rglob("*.py")):
            if "tests" not in file.parts:
                for text in _DOCSTRING.findall(file.read_text(encoding="utf-8", errors="ignore")):
                    words = re.findall(r"[a-z]+", " ".join(text.split("\n\n")[:2]).lower())[:LONGEST]
                    if len(words) >= 5:
                        yield tuple(words)


@functools.cache
def texts() -> tuple[list[tuple[tuple[str, ...], int]], dict[str, int]]:
    """Every text once, shuffled, with its library's number; and the numbers of the commonest words."""
    found = {words: label for label, packages in enumerate(LIBRARIES.values()) for words in _texts(packages)}
    samples = sorted(found.items())
    random.Random(0).shuffle(samples)
    counts = collections.Counter(word for words, _ in samples for word in words)
    common = sorted(counts, key=lambda word: (-counts[word], word))[: WORDS - 2]
    return samples, {word: number for number, word in enumerate(common, start=2)}


class Texts(Dataset[tuple[list[int], int]]):
    """The numbers of a text's words, and its library."""

    def __init__(self, samples: list[tuple[tuple[str, ...], int]], numbers: dict[str, int]) -> None:
        self.samples, self.numbers = samples, numbers

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[list[int], int]:
        words, label = self.samples[index]
        return [self.numbers.get(word, UNKNOWN) for word in words], label


def padded(samples: list[tuple[list[int], int]]) -> tuple[dict[str, Tensor], Tensor]:
    """A batch as long as its longest text; the mask is 1 where there is a word."""
    longest = max(len(words) for words, _ in samples)
    tokens = torch.tensor([words + [PAD] * (longest - len(words)) for words, _ in samples])
    labels = torch.tensor([label for _, label in samples])
    return {"input_ids": tokens, "attention_mask": (tokens != PAD).long()}, labels


def data(size: int = 6000, validation: int = 1000) -> dict[str, object]:
    """`size` texts to train on and `validation` others, of six libraries."""
    samples, numbers = texts()
    split = {"train": samples[validation : validation + size], "validation": samples[:validation]}
    return {
        name: DataLoader(Texts(part, numbers), batch_size=64, shuffle=name == "train", collate_fn=padded)
        for name, part in split.items()
    }


def bert(width: int = 64, layers: int = 2) -> nn.Module:
    """BERT as Transformers has it, small, with random weights."""
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(BertConfig(
        vocab_size=WORDS, hidden_size=width, num_hidden_layers=layers, num_attention_heads=4,
        intermediate_size=4 * width, max_position_embeddings=LONGEST, num_labels=len(LIBRARIES),
        attn_implementation="eager",
    ))
