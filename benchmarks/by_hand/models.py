"""Models as people bring them, small and with random weights, and samples for them: one function for each.

Nothing is downloaded. A data function returns what a study's `data` may be: a mapping of parts to (inputs, targets).
"""

from __future__ import annotations

from typing import Any

import numpy
import torch
from architectures import Encoder, Graph, Table, Wave, torchvision_module  # of benchmarks/coverage
from torch import Tensor, nn

SAMPLES = 128
"""Samples for calibration; as many again for validation."""

Data = dict[str, tuple[Any, Any]]


torchvision = torchvision_module()  # first of all: transformers and timm import it too


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


class Pixels(nn.Module):
    """A model whose answer in a mapping has a class for each pixel."""

    def __init__(self, model: Any, answer: str) -> None:
        super().__init__()
        self.model, self.answer = model, answer

    def forward(self, image: Tensor) -> Any:
        return self.model(image)[self.answer]


class Means(nn.Module):
    """A model that answers with several maps: the means of them all."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Any:
        return torch.cat([item.mean((2, 3)) for item in self.model(image).values()], dim=1)


_READS: dict[str, Any] = {
    "vocab_size": 8000, "hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4,
    "intermediate_size": 512, "num_labels": 4, "attn_implementation": "eager",
}
"""What models that read have in common."""


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


def roberta() -> nn.Module:
    """A RoBERTa that classifies."""
    from transformers import RobertaConfig, RobertaForSequenceClassification

    config = RobertaConfig(**_READS, max_position_embeddings=80)
    return _seeded(lambda: Answer(RobertaForSequenceClassification(config)))


def electra() -> nn.Module:
    """An ELECTRA that classifies: its table of words is narrower than its blocks."""
    from transformers import ElectraConfig, ElectraForSequenceClassification

    config = ElectraConfig(**_READS, embedding_size=64)
    return _seeded(lambda: Answer(ElectraForSequenceClassification(config)))


def mpnet() -> nn.Module:
    """An MPNet that classifies: its attention knows how far apart two words are."""
    from transformers import MPNetConfig, MPNetForSequenceClassification

    config = MPNetConfig(**_READS, max_position_embeddings=80)
    return _seeded(lambda: Answer(MPNetForSequenceClassification(config)))


def deberta() -> nn.Module:
    """A DeBERTa v2 that classifies: its attention has tables of distances of its own."""
    from transformers import DebertaV2Config, DebertaV2ForSequenceClassification

    config = DebertaV2Config(
        **_READS, relative_attention=True, position_buckets=32, pos_att_type=["p2c", "c2p"], type_vocab_size=0
    )
    return _seeded(lambda: Answer(DebertaV2ForSequenceClassification(config)))


def llama() -> nn.Module:
    """A Llama that classifies: two heads of queries for each of keys and values, and gates in its blocks."""
    from transformers import LlamaConfig, LlamaForSequenceClassification

    config = LlamaConfig(**_READS, num_key_value_heads=2, use_cache=False, pad_token_id=0)
    made = _seeded(lambda: Answer(LlamaForSequenceClassification(config), masked=True))
    for name, item in made.named_parameters():
        if "norm" in name:  # a norm that multiplies by one is no norm as a trained model has it
            nn.init.uniform_(item, 0.5, 1.5)
    return made


def segformer() -> nn.Module:
    """A SegFormer, which says a class for each quarter of a pixel's row and column."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    config = SegformerConfig(
        depths=[1, 1, 1, 1], hidden_sizes=[32, 64, 96, 128], decoder_hidden_size=64, num_attention_heads=[1, 2, 3, 4],
        num_labels=8,
    )
    return _normalized(lambda: Pixels(SegformerForSemanticSegmentation(config), "logits"))


# ---- torchvision and timm


def resnet18() -> nn.Module:
    """torchvision's ResNet-18."""
    return _torchvision("resnet18")


def mobilenet_v3() -> nn.Module:
    """torchvision's MobileNetV3, small."""
    return _torchvision("mobilenet_v3_small")


def lraspp() -> nn.Module:
    """torchvision's LRASPP, which says a class for each pixel."""

    return _normalized(lambda: Pixels(torchvision.models.segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=8
    ), "out"))


def pyramid() -> nn.Module:
    """The backbone of torchvision's detectors, ResNet-18 with a feature pyramid: the means of its five maps."""
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    return _normalized(lambda: Means(resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, trainable_layers=5, norm_layer=nn.BatchNorm2d
    )))


def mobilenet_v2() -> nn.Module:
    """torchvision's MobileNetV2."""
    return _torchvision("mobilenet_v2")


def efficientnet() -> nn.Module:
    """torchvision's EfficientNet b0."""
    return _torchvision("efficientnet_b0")


def shufflenet() -> nn.Module:
    """torchvision's ShuffleNet V2, half as wide."""
    return _torchvision("shufflenet_v2_x0_5")


def squeezenet() -> nn.Module:
    """torchvision's SqueezeNet 1.1."""
    return _torchvision("squeezenet1_1")


def mnasnet() -> nn.Module:
    """torchvision's MNASNet, half as wide."""
    return _torchvision("mnasnet0_5")


def densenet() -> nn.Module:
    """torchvision's DenseNet with growth 16 and three blocks."""
    return _normalized(lambda: torchvision.models.DenseNet(
        growth_rate=16, block_config=(4, 8, 8), num_init_features=32, num_classes=10
    ))


def googlenet() -> nn.Module:
    """torchvision's GoogLeNet."""
    return _torchvision("googlenet", aux_logits=False, init_weights=False)


def vgg() -> nn.Module:
    """torchvision's VGG, narrow, and a classifier of that size."""
    family = torchvision.models.vgg
    layers = [32, "M", 64, "M", 128, 128, "M", 256, 256, "M"]

    def made() -> nn.Module:
        net = family.VGG(family.make_layers(layers, batch_norm=True), num_classes=10)
        net.avgpool = nn.AdaptiveAvgPool2d(4)
        net.classifier = nn.Sequential(
            nn.Linear(256 * 16, 256), nn.ReLU(True), nn.Dropout(), nn.Linear(256, 256), nn.ReLU(True), nn.Dropout(),
            nn.Linear(256, 10),
        )
        return net

    return _normalized(made)


def tv_convnext() -> nn.Module:
    """torchvision's ConvNeXt, narrow."""
    block = torchvision.models.convnext.CNBlockConfig
    return _normalized(lambda: torchvision.models.ConvNeXt(
        [block(48, 96, 2), block(96, 192, 2), block(192, None, 2)], num_classes=10
    ))


def tv_vit() -> nn.Module:
    """torchvision's ViT for images of 64 pixels."""
    made = _seeded(lambda: torchvision.models.VisionTransformer(
        image_size=64, patch_size=8, num_layers=4, num_heads=4, hidden_dim=128, mlp_dim=512, num_classes=10
    ))
    nn.init.normal_(made.heads.head.weight)  # it would answer with zeros
    return made


def tv_swin() -> nn.Module:
    """torchvision's Swin, small."""
    return _normalized(lambda: torchvision.models.SwinTransformer(
        patch_size=[4, 4], embed_dim=48, depths=[2, 2, 2], num_heads=[3, 6, 12], window_size=[4, 4], num_classes=10
    ))


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
    return _torchvision("regnet_y_400mf")


def efficientvit() -> nn.Module:
    """timm's EfficientViT b0, with linear attention."""
    return _timm("efficientvit_b0")


def edgenext() -> nn.Module:
    """timm's EdgeNeXt, the smallest."""
    return _timm("edgenext_xx_small")


def vit_tiny() -> nn.Module:
    """timm's ViT, tiny, with four of its blocks."""
    return _timm("vit_tiny_patch16_224", img_size=64, patch_size=8, depth=4)


def deit() -> nn.Module:
    """timm's distilled DeiT, tiny, with four of its blocks."""
    return _timm("deit_tiny_distilled_patch16_224", img_size=64, patch_size=8, depth=4)


def resmlp() -> nn.Module:
    """A small ResMLP of timm."""
    from timm.models import mlp_mixer

    made = _seeded(lambda: mlp_mixer.MlpMixer(
        num_classes=10, img_size=64, patch_size=8, num_blocks=4, embed_dim=128, mlp_ratio=4,
        block_layer=mlp_mixer.ResBlock, norm_layer=mlp_mixer.Affine,
    ))
    nn.init.normal_(made.head.weight)  # it would answer with zeros
    return made


def lcnet() -> nn.Module:
    """timm's LCNet, half as wide."""
    return _timm("lcnet_050")


# ---- written by hand


class Gru(nn.Module):
    """Two layers of GRU over a series, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(16, 128, num_layers=2, batch_first=True)
        self.head = nn.Linear(128, 6)

    def forward(self, series: Tensor) -> Any:
        return self.head(self.rnn(series)[0][:, -1])


class GruBothWays(nn.Module):
    """Words, two layers of GRU in both directions, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(8000, 64)
        self.rnn = nn.GRU(64, 96, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(192, 4)

    def forward(self, tokens: Tensor) -> Any:
        return self.head(self.rnn(self.table(tokens))[0].mean(1))


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


class Series(Wave):
    """The convolutions over a series whose steps come first."""

    def forward(self, series: Tensor) -> Any:
        return super().forward(series.transpose(1, 2))


def gru() -> nn.Module:
    """The GRU over a series above."""
    return _seeded(Gru)


def gru_both_ways() -> nn.Module:
    """The GRU over words above."""
    return _seeded(GruBothWays)


def graph_net() -> nn.Module:
    """A net over graphs: messages along the edges, three times."""
    return _seeded(lambda: Graph(128, inputs=16, rounds=3))


def table_net() -> nn.Module:
    """A net over rows of a table, with a table of embeddings for each category."""
    return _seeded(lambda: Table((2000,) * 3, columns=32, numbers=16, width=256))


def torch_encoder() -> nn.Module:
    """torch's own TransformerEncoder over a series, with a mask of what is padding."""
    return _seeded(lambda: Encoder(128, hidden=512, inputs=16, layers=3))


def wavenet() -> nn.Module:
    """Dilated convolutions with gates and weight norm, as in WaveNet."""
    return _seeded(lambda: Series(96, inputs=16, steps=4))


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


def quarters() -> Data:
    """The same with a class for each square of four by four pixels."""
    return {part: (item, targets[:, ::4, ::4]) for part, (item, targets) in pixels().items()}


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


def padded() -> Data:
    """The same series, some of them shorter than 50 steps, and a mask of the steps that are missing."""
    draw = numpy.random.default_rng(0)
    steps = draw.standard_normal((2 * SAMPLES, 50, 16)).cumsum(1).astype("float32") / 5
    return _parts({"steps": steps, "padding": numpy.arange(50)[None] >= draw.integers(25, 51, (2 * SAMPLES, 1))})


def graphs() -> Data:
    """Random graphs of 24 nodes and 80 edges."""
    draw = numpy.random.default_rng(0)
    edges = {name: draw.integers(0, 24, (2 * SAMPLES, 80)) for name in ("sources", "ends")}
    return _parts({"nodes": draw.standard_normal((2 * SAMPLES, 24, 16)).astype("float32"), **edges})


def rows() -> Data:
    """Random rows of 16 numbers and three categories."""
    draw = numpy.random.default_rng(0)
    numbers = draw.standard_normal((2 * SAMPLES, 16)).astype("float32")
    return _parts({"numbers": numbers, "categories": draw.integers(0, 2000, (2 * SAMPLES, 3))})


# ---- parts of the above


def _parts(inputs: Any) -> Data:
    """The samples in two halves. The targets say nothing: what counts is how near answers are to the float model's."""
    targets = numpy.arange(SAMPLES) % 2

    def half(which: slice) -> Any:
        if isinstance(inputs, dict):
            return {name: item[which] for name, item in inputs.items()}
        return inputs[which]

    return {"train": (half(slice(SAMPLES)), targets), "validation": (half(slice(SAMPLES, None)), targets)}


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


def _torchvision(name: str, **settings: Any) -> Any:
    return _normalized(lambda: getattr(torchvision.models, name)(weights=None, num_classes=10, **settings))


def _timm(name: str, size: int = 64, **settings: Any) -> Any:
    import timm

    return _normalized(lambda: timm.create_model(name, num_classes=10, exportable=True, **settings), size)
