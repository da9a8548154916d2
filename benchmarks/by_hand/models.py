"""Models as people bring them, small and with random weights, and samples for them: one function for each.

Nothing is downloaded. A data function returns what a study's `data` may be: a mapping of parts to (inputs, targets).
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy
import torch
from torch import Tensor, nn

SAMPLES = 128
"""Samples for calibration; as many again for validation."""

Data = dict[str, tuple[Any, Any]]


_OPERATORS: list[Any] = []


def _imported() -> Any:
    """torchvision, also where its wheel and torch's are not of one kind: no operator of its own is needed here."""
    try:
        import torchvision
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _OPERATORS.append(library)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import torchvision
    return torchvision


torchvision = _imported()  # first of all: transformers and timm import it too


class Answer(nn.Module):
    """A Hugging Face model that answers with one vector: its logits (of the last word), or the mean of its states."""

    def __init__(self, model: Any, takes: str = "input_ids", *, masked: bool = False) -> None:
        super().__init__()
        self.model, self.takes, self.masked = model, takes, masked

    def forward(self, inputs: Tensor) -> Any:
        more = {"attention_mask": torch.ones_like(inputs)} if self.masked else {}
        found = self.model(**{self.takes: inputs}, **more)
        if hasattr(found, "logits"):
            return found.logits[:, -1] if found.logits.ndim == 3 else found.logits
        return found.last_hidden_state.mean(1)


# ---- Hugging Face


def bert() -> nn.Module:
    """A BERT that classifies: two thirds of its bytes are tables of embeddings."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=8000, hidden_size=128, num_hidden_layers=4, num_attention_heads=4, intermediate_size=512,
        num_labels=4, attn_implementation="eager",
    )
    return _seeded(lambda: Answer(BertForSequenceClassification(config)))


def distilbert() -> nn.Module:
    """A DistilBERT that classifies."""
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    config = DistilBertConfig(
        vocab_size=8000, dim=128, n_layers=3, n_heads=4, hidden_dim=512, num_labels=4, attn_implementation="eager"
    )
    return _seeded(lambda: Answer(DistilBertForSequenceClassification(config)))


def albert() -> nn.Module:
    """An ALBERT that classifies: one block, run four times."""
    from transformers import AlbertConfig, AlbertForSequenceClassification

    config = AlbertConfig(
        vocab_size=8000, embedding_size=64, hidden_size=192, num_hidden_layers=4, num_attention_heads=4,
        intermediate_size=768, num_labels=4, attn_implementation="eager",
    )
    return _seeded(lambda: Answer(AlbertForSequenceClassification(config)))


def gpt2() -> nn.Module:
    """A GPT-2 whose head is its table of embeddings."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=4000, n_positions=128, n_embd=128, n_layer=3, n_head=4, use_cache=False, attn_implementation="eager"
    )
    return _seeded(lambda: Answer(GPT2LMHeadModel(config), masked=True))


def t5() -> nn.Module:
    """The encoder of a T5."""
    from transformers import T5Config, T5EncoderModel

    config = T5Config(vocab_size=8000, d_model=128, d_kv=32, d_ff=512, num_layers=3, num_heads=4)
    return _seeded(lambda: Answer(T5EncoderModel(config)))


def vit() -> nn.Module:
    """A ViT for images of 64 pixels."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        image_size=64, patch_size=8, hidden_size=128, num_hidden_layers=4, num_attention_heads=4,
        intermediate_size=512, num_labels=10, attn_implementation="eager",
    )
    return _seeded(lambda: Answer(ViTForImageClassification(config), "pixel_values"))


def whisper() -> nn.Module:
    """The encoder of a Whisper: convolutions over a spectrogram, then attention."""
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = WhisperConfig(
        d_model=128, encoder_layers=3, encoder_attention_heads=4, encoder_ffn_dim=512, num_mel_bins=80,
        max_source_positions=100, attn_implementation="eager",
    )
    return _seeded(lambda: Answer(WhisperEncoder(config), "input_features"))


def wav2vec2() -> nn.Module:
    """A Wav2Vec2 over a waveform."""
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    config = Wav2Vec2Config(
        hidden_size=128, num_hidden_layers=3, num_attention_heads=4, intermediate_size=512, conv_dim=(64,) * 7,
        num_conv_pos_embeddings=32, num_conv_pos_embedding_groups=8, attn_implementation="eager",
    )
    return _seeded(lambda: Answer(Wav2Vec2Model(config), "input_values"))


# ---- torchvision and timm


def resnet18() -> nn.Module:
    """torchvision's ResNet-18."""
    return _normalized(lambda: torchvision.models.resnet18(num_classes=10))


def mobilenet_v3() -> nn.Module:
    """torchvision's MobileNetV3, small."""
    return _normalized(lambda: torchvision.models.mobilenet_v3_small(num_classes=10))


def lraspp() -> nn.Module:
    """torchvision's LRASPP, which says a class for each pixel."""

    class Pixels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = torchvision.models.segmentation.lraspp_mobilenet_v3_large(
                weights=None, weights_backbone=None, num_classes=8
            )

        def forward(self, image: Tensor) -> Any:
            return self.model(image)["out"]

    return _normalized(Pixels)


def convnext() -> nn.Module:
    """timm's ConvNeXt, atto."""
    return _timm("convnext_atto")


def swin() -> nn.Module:
    """A small Swin of timm."""
    return _timm("swin_tiny_patch4_window7_224", img_size=64, window_size=4, embed_dim=48, depths=(2, 2, 2))


def mixer() -> nn.Module:
    """A small MLP-Mixer of timm."""
    from timm.models.mlp_mixer import MlpMixer

    made = _seeded(lambda: MlpMixer(num_classes=10, img_size=64, patch_size=8, num_blocks=4, embed_dim=128))
    nn.init.normal_(made.head.weight)  # it would answer with zeros
    return made


def levit() -> nn.Module:
    """timm's LeViT 128s."""
    return _timm("levit_128s", 224)


def ghostnet() -> nn.Module:
    """timm's GhostNet, half as wide."""
    return _timm("ghostnet_050")


def regnet() -> nn.Module:
    """torchvision's RegNetY, 400 MF."""
    return _normalized(lambda: torchvision.models.regnet_y_400mf(num_classes=10))


def efficientvit() -> nn.Module:
    """timm's EfficientViT b0, with linear attention."""
    return _timm("efficientvit_b0")


def edgenext() -> nn.Module:
    """timm's EdgeNeXt, the smallest."""
    return _timm("edgenext_xx_small")


# ---- written by hand


class Gru(nn.Module):
    """Two layers of GRU over a series, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(16, 128, num_layers=2, batch_first=True)
        self.head = nn.Linear(128, 6)

    def forward(self, series: Tensor) -> Any:
        return self.head(self.rnn(series)[0][:, -1])


class Lstm(nn.Module):
    """Words, an LSTM in both directions, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(8000, 64)
        self.rnn = nn.LSTM(64, 128, batch_first=True, bidirectional=True)
        self.head = nn.Linear(256, 4)

    def forward(self, tokens: Tensor) -> Any:
        return self.head(self.rnn(self.table(tokens))[0].mean(1))


class UNet(nn.Module):
    """Two steps down and two up by transposed convolutions, one of them in groups."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([_pair(3, 16), _pair(16, 32), _pair(32, 64)])
        self.up = nn.ModuleList([nn.ConvTranspose2d(64, 32, 2, 2), nn.ConvTranspose2d(32, 16, 2, 2, groups=4)])
        self.back = nn.ModuleList([_pair(64, 32), _pair(32, 16)])
        self.head = nn.Conv2d(16, 4, 1)

    def forward(self, image: Tensor) -> Any:
        first = self.down[0](image)
        second = self.down[1](nn.functional.max_pool2d(first, 2))
        third = self.down[2](nn.functional.max_pool2d(second, 2))
        third = self.back[0](torch.cat([self.up[0](third), second], 1))
        return self.head(self.back[1](torch.cat([self.up[1](third), first], 1)))


def gru() -> nn.Module:
    """The GRU above."""
    return _seeded(Gru)


def lstm() -> nn.Module:
    """The LSTM above."""
    return _seeded(Lstm)


def unet() -> nn.Module:
    """The U-Net above."""
    return _normalized(UNet)


# ---- samples


def tokens(words: int = 4000, length: int = 64) -> Data:
    """Sentences of random words."""
    draw = numpy.random.default_rng(0)
    return _parts(draw.integers(1, words, (2 * SAMPLES, length)))


def images(size: int = 64) -> Data:
    """Smooth random images."""
    draw = torch.Generator().manual_seed(0)
    coarse = torch.randn(2 * SAMPLES, 3, 8, 8, generator=draw)
    return _parts(nn.functional.interpolate(coarse, size=(size, size), mode="bilinear").numpy())


def pixels() -> Data:
    """Images with a class for each pixel."""
    return {part: (item, (item[:, 0] > 0).astype(int)) for part, (item, _) in images().items()}


def large_images() -> Data:
    """The same in 224 pixels."""
    return images(224)


def spectrograms() -> Data:
    """Random spectrograms of 80 bands and 200 frames."""
    draw = numpy.random.default_rng(0)
    return _parts(draw.standard_normal((2 * SAMPLES, 80, 200)).astype("float32"))


def waveforms() -> Data:
    """Random tones in noise, a quarter of a second."""
    draw = numpy.random.default_rng(0)
    time = numpy.arange(4000) / 16000
    tones = numpy.sin(2 * numpy.pi * draw.uniform(100, 2000, (2 * SAMPLES, 1)) * time)
    return _parts((tones + 0.1 * draw.standard_normal(tones.shape)).astype("float32"))


def series() -> Data:
    """Random series of 50 steps and 16 channels."""
    draw = numpy.random.default_rng(0)
    return _parts(draw.standard_normal((2 * SAMPLES, 50, 16)).cumsum(1).astype("float32") / 5)


# ---- parts of the above


def _parts(inputs: Any) -> Data:
    """The samples in two halves. The targets say nothing: what counts is how near answers are to the float model's."""
    targets = numpy.arange(SAMPLES) % 2
    return {"train": (inputs[:SAMPLES], targets), "validation": (inputs[SAMPLES:], targets)}


def _seeded(make: Any) -> Any:
    torch.manual_seed(0)
    return make().eval()


def _normalized(make: Any, size: int = 64) -> Any:
    """A net whose batch norms have the statistics of these images, as those of a trained one have."""
    module = _seeded(make)
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.momentum = None  # the mean of all batches
            layer.train()
    with torch.no_grad():
        for count in range(0, 32, 16):
            module(torch.as_tensor(images(size)["train"][0][count : count + 16]))
    return module.eval()


def _pair(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(),
    )


def _timm(name: str, size: int = 64, **settings: Any) -> Any:
    import timm

    return _normalized(lambda: timm.create_model(name, num_classes=10, exportable=True, **settings), size)
