"""The models of studies/real, trained by plain loops as their studies train them, with what to measure them on."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor, nn

FOLDER = Path(__file__).resolve().parents[2] / "studies" / "real"
CALIBRATED = 128


@dataclass
class Made:
    """A model, samples for calibration and validation (each a call of one sample, by the inputs' names), the labels of
    the latter, and which axes of the inputs besides the first are of any size."""

    model: nn.Module
    calibration: Sequence[dict[str, Any]]
    validation: Sequence[dict[str, Any]]
    labels: Any = None
    open: tuple[int, ...] = ()


def _of(name: str) -> Any:
    sys.path.insert(0, str(FOLDER))
    return importlib.import_module(name)


def photos() -> Made:
    """The residual net of photos.opt: six epochs of AdamW with one cycle of the learning rate."""
    module = _of("photos")
    torch.manual_seed(0)
    data, model = module.data(), module.resnet(width=16)
    optimizer = torch.optim.AdamW(model.parameters())
    steps = 6 * len(data["train"])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(6):
        for images, labels in data["train"]:
            _learn(optimizer, nn.functional.cross_entropy(model(images), labels))
            schedule.step()
    singles, labels = _singles(data["validation"].dataset)
    return Made(model, _singles(data["train"].dataset, CALIBRATED)[0], singles, labels)


class Logits(nn.Module):
    """A classifier of Transformers that answers with its logits alone."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        return self.model(input_ids, attention_mask).logits


def docstrings() -> Made:
    """The small BERT of docstrings.opt: four epochs of AdamW with a cosine of the learning rate."""
    module = _of("docstrings")
    torch.manual_seed(0)
    data, model = module.data(), Logits(module.bert(width=64, layers=2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4 * len(data["train"]))
    for _ in range(4):
        for texts, labels in data["train"]:
            _learn(optimizer, nn.functional.cross_entropy(model(**texts), labels))
            schedule.step()
    calibration, _ = _texts(data["train"], CALIBRATED)
    validation, labels = _texts(data["validation"])
    return Made(model, calibration, validation, labels, (1,))


def sentences() -> Made:
    """The encoder of sentences.opt with the weights that its script writes: data without labels."""
    from safetensors.torch import load_file

    module = _of("sentences")
    if not (FOLDER / "sentences.safetensors").is_file():
        module.pretrain()
    model = module.encoder(layers=2)
    model.load_state_dict(load_file(FOLDER / "sentences.safetensors"))
    data = module.data()
    calibration, _ = _texts(data["train"], CALIBRATED)
    return Made(model, calibration, _texts(data["validation"])[0], None, (1,))


def _learn(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _singles(dataset: Any, count: int | None = None) -> tuple[list[dict[str, Any]], Any]:
    chosen = [dataset[index] for index in range(len(dataset) if count is None else count)]
    return [{"x": image[None].numpy()} for image, _ in chosen], numpy.array([label for _, label in chosen])


def _texts(loader: Any, count: int | None = None) -> tuple[list[dict[str, Any]], Any]:
    """Calls of one text each, as long as it is."""
    dataset = loader.dataset
    found = [
        loader.collate_fn([dataset[index]]) for index in range(len(dataset) if count is None else count)
    ]
    if isinstance(found[0], tuple):
        texts, labels = [item for item, _ in found], numpy.array([int(label) for _, label in found])
    else:
        texts, labels = found, None
    return [{name: part.numpy() for name, part in item.items()} for item in texts], labels
