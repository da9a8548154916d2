"""Architectures that people bring, with random weights and small inputs: what the table of coverage is made of.

`model` and `data` are factories as a study names them. Weights are random, but not as they begin: norms have seen
data, and no scale or bias is a constant, so that a layer that is handled wrongly changes the answers.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

CLASSES = 10
TRAIN, VALIDATION = 24, 6

Made = Callable[[], nn.Module]


# ---- libraries


def torchvision_module() -> Any:
    """torchvision; next to a torch of another build its kernels do not load, and no model here calls one."""
    try:
        import torchvision
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(library)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import torchvision
    return torchvision


_KEPT: list[Any] = []


def timm_model(name: str, **arguments: Any) -> Made:
    """A model of timm by its name there."""

    def made() -> nn.Module:
        torchvision_module()
        import timm

        return timm.create_model(name, pretrained=False, num_classes=CLASSES, **arguments)

    return made


def vision(name: str, **arguments: Any) -> Made:
    """A classifier of torchvision by its name there."""

    def made() -> nn.Module:
        return getattr(torchvision_module().models, name)(weights=None, num_classes=CLASSES, **arguments)

    return made


def hugging(model: str, config: str, **arguments: Any) -> Made:
    """A model of transformers by its class, with a tiny configuration."""

    def made() -> nn.Module:
        torchvision_module()
        import transformers

        settings = getattr(transformers, config)(**arguments)
        return getattr(transformers, model)(settings)

    return made


# ---- inputs: tensors as a data factory returns them


def image(side: int = 64, channels: int = 3) -> Callable[[int], Any]:
    """Images with structure at several scales, as convolutions are made for."""

    def made(count: int) -> Tensor:
        layers = [
            nn.functional.interpolate(torch.randn(count, channels, side // step, side // step), size=(side, side))
            for step in (1, 4, 16)
        ]
        return torch.stack(layers).sum(0)

    return made


def tokens(length: int = 16, vocabulary: int = 100, *, mask: bool = True) -> Callable[[int], Any]:
    """Token ids by transformers' names, some of the texts shorter than the others."""

    def made(count: int) -> dict[str, Tensor]:
        ids = torch.randint(3, vocabulary, (count, length))
        if not mask:
            return {"input_ids": ids}
        lengths = torch.randint(length // 2, length + 1, (count, 1))
        seen = (torch.arange(length)[None, :] < lengths).long()
        return {"input_ids": ids * seen + (1 - seen), "attention_mask": seen}

    return made


def normal(*shape: int) -> Callable[[int], Any]:
    """Numbers of a normal distribution."""

    def made(count: int) -> Tensor:
        return torch.randn(count, *shape)

    return made


def named(**parts: Callable[[int], Any]) -> Callable[[int], Any]:
    """Several inputs by name."""

    def made(count: int) -> dict[str, Tensor]:
        return {name: part(count) for name, part in parts.items()}

    return made


def whole(limit: int, *shape: int) -> Callable[[int], Any]:
    """Whole numbers below a limit."""

    def made(count: int) -> Tensor:
        return torch.randint(0, limit, (count, *shape))

    return made


# ---- tasks


def labels(outputs: Tensor) -> Tensor:
    """A class for each sample."""
    return torch.randint(0, CLASSES, (len(outputs),))


def maps(outputs: Tensor) -> Tensor:
    """A class for each pixel."""
    return torch.randint(0, outputs.shape[1], (len(outputs), *outputs.shape[2:]))


class Features:
    """What stands in for the task of a model that returns features: their size, which a training can lower."""

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """The mean square of all features."""
        found = outputs.values() if isinstance(outputs, Mapping) else outputs
        found = [found] if isinstance(found, Tensor) else found
        return torch.stack([item.square().mean() for item in found]).mean()

    def metrics(self, outputs: Any, targets: Any) -> dict[str, float]:
        """The loss as a metric."""
        found = outputs if isinstance(outputs, Mapping) else {"output": outputs}
        return {"energy": float(self.loss({name: torch.as_tensor(item) for name, item in found.items()}, targets))}


# ---- own nets, as people write them


class Recurrent(nn.Module):
    """Ids → embedding → LSTM or GRU, in both directions → the last step → classes."""

    def __init__(self, cell: type[nn.RNNBase], both: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, 24)
        self.rnn = cell(24, 32, num_layers=2, batch_first=True, bidirectional=both)
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(64 if both else 32, CLASSES)

    def forward(self, input_ids: Tensor) -> Tensor:
        states, _ = self.rnn(self.embed(input_ids))
        return self.head(self.dropout(states[:, -1]))


def _double(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True),
    )


class UNet(nn.Module):
    """Ronneberger's net, small, with concatenations and transposed convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([_double(3, 16), _double(16, 32), _double(32, 64)])
        self.pool = nn.MaxPool2d(2)
        self.up = nn.ModuleList([nn.ConvTranspose2d(64, 32, 2, 2), nn.ConvTranspose2d(32, 16, 2, 2)])
        self.join = nn.ModuleList([_double(64, 32), _double(32, 16)])
        self.head = nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down[0](x)
        second = self.down[1](self.pool(first))
        x = self.down[2](self.pool(second))
        x = self.join[0](torch.cat([self.up[0](x), second], dim=1))
        x = self.join[1](torch.cat([self.up[1](x), first], dim=1))
        return self.head(x)


class Graph(nn.Module):
    """Message passing over a batch of small graphs: gathered along the edges, summed at the nodes by scatter."""

    def __init__(self, width: int = 32, inputs: int = 8, rounds: int = 2) -> None:
        super().__init__()
        self.embed = nn.Linear(inputs, width)
        self.messages = nn.ModuleList([nn.Linear(2 * width, width) for _ in range(rounds)])
        self.updates = nn.ModuleList([nn.Linear(2 * width, width) for _ in range(rounds)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, nodes: Tensor, sources: Tensor, ends: Tensor) -> Tensor:
        x = torch.relu(self.embed(nodes))
        for message, update in zip(self.messages, self.updates, strict=True):
            begin = sources.unsqueeze(-1).expand(-1, -1, x.shape[-1])
            end = ends.unsqueeze(-1).expand(-1, -1, x.shape[-1])
            sent = torch.relu(message(torch.cat([x.gather(1, begin), x.gather(1, end)], dim=-1)))
            got = torch.zeros_like(x).scatter_add(1, end, sent)
            x = self.norm(x + torch.relu(update(torch.cat([x, got], dim=-1))))
        return self.head(x.mean(dim=1))


class Table(nn.Module):
    """Numbers and categories of a table, each category through an embedding of its own."""

    def __init__(
        self, sizes: tuple[int, ...] = (7, 12, 31), columns: int = 8, numbers: int = 6, width: int = 64
    ) -> None:
        super().__init__()
        self.tables = nn.ModuleList([nn.Embedding(size, columns) for size in sizes])
        self.norm = nn.BatchNorm1d(numbers)
        self.body = nn.Sequential(
            nn.Linear(numbers + columns * len(sizes), width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.1),
            nn.Linear(width, width), nn.ReLU(), nn.Identity(), nn.Linear(width, CLASSES),
        )

    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        parts = [table(categories[:, index]) for index, table in enumerate(self.tables)]
        return self.body(torch.cat([self.norm(numbers), *parts], dim=1))


class Encoder(nn.Module):
    """torch's own TransformerEncoder over patches, with a padding mask."""

    def __init__(self, width: int = 32, hidden: int = 64, inputs: int = 12, layers: int = 2) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, 4, hidden, batch_first=True, norm_first=True)
        self.embed = nn.Linear(inputs, width)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, steps: Tensor, padding: Tensor) -> Tensor:
        states = self.encoder(self.embed(steps), src_key_padding_mask=padding)
        kept = (~padding).unsqueeze(-1).float()
        return self.head((states * kept).sum(1) / kept.sum(1).clamp(min=1))


class Wave(nn.Module):
    """Dilated one-dimensional convolutions with gates and weight norm, as in WaveNet and TCN."""

    def __init__(self, width: int = 32, inputs: int = 4, steps: int = 3) -> None:
        super().__init__()
        norm = nn.utils.parametrizations.weight_norm
        self.begin = nn.Conv1d(inputs, width, 1)
        self.gates = nn.ModuleList([
            norm(nn.Conv1d(width, 2 * width, 3, padding=2**step, dilation=2**step)) for step in range(steps)
        ])
        self.mix = nn.ModuleList([nn.Conv1d(width, width, 1) for _ in range(steps)])
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.begin(x)
        for gate, mix in zip(self.gates, self.mix, strict=True):
            one, other = gate(x).chunk(2, dim=1)
            x = x + mix(torch.tanh(one) * torch.sigmoid(other))
        return self.head(x.mean(dim=-1))


class Inner(nn.Module):
    """A part of a model of transformers: called by names, its `answer` returned."""

    def __init__(self, inner: nn.Module, answer: str, classes: bool = False, width: int = 0) -> None:
        super().__init__()
        self.inner, self.answer = inner, answer
        self.head = nn.Linear(width, CLASSES) if classes else nn.Identity()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        found = getattr(self.inner(input_ids=input_ids, attention_mask=attention_mask), self.answer)
        return self.head(found[:, 0])


def t5() -> nn.Module:
    """T5's encoder with a head on the first token."""
    inner = hugging(
        "T5EncoderModel", "T5Config", vocab_size=100, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4,
    )()
    return Inner(inner, "last_hidden_state", classes=True, width=32)


def segmenter(name: str, **arguments: Any) -> Made:
    """A model of torchvision for segmentation: it answers with a dictionary."""

    def made() -> nn.Module:
        segmentation = torchvision_module().models.segmentation
        return getattr(segmentation, name)(weights=None, weights_backbone=None, num_classes=5, **arguments)

    return made


def pyramid() -> nn.Module:
    """The backbone of torchvision's detectors: ResNet-18 with a feature pyramid, a dictionary of five maps."""
    torchvision_module()
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    return resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, trainable_layers=5, norm_layer=nn.BatchNorm2d,
    )


def ssd() -> nn.Module:
    """The backbone of torchvision's SSDLite: MobileNetV3 with extra layers, a dictionary of six maps."""
    vision_models = torchvision_module().models
    from torchvision.models.detection.ssdlite import _mobilenet_extractor

    return _mobilenet_extractor(vision_models.mobilenet_v3_small(weights=None), 6, nn.BatchNorm2d)


def vgg() -> nn.Module:
    """torchvision's VGG with few channels, and a classifier of that size."""
    family = torchvision_module().models.vgg
    made = family.VGG(family.make_layers([16, "M", 32, "M", 64, 64, "M"], batch_norm=True), init_weights=False)
    made.classifier = nn.Sequential(
        nn.Linear(64 * 49, 64), nn.ReLU(True), nn.Dropout(), nn.Linear(64, 64), nn.ReLU(True), nn.Dropout(),
        nn.Linear(64, CLASSES),
    )
    return made


def mixer(**arguments: Any) -> Made:
    """timm's MLP-Mixer, and with other blocks ResMLP."""

    def made() -> nn.Module:
        torchvision_module()
        from timm.models import mlp_mixer

        found = {name: getattr(mlp_mixer, item) if isinstance(item, str) else item for name, item in arguments.items()}
        return mlp_mixer.MlpMixer(
            num_classes=CLASSES, img_size=64, patch_size=16, num_blocks=2, embed_dim=64, **found
        )

    return made


# ---- the list


@dataclass(frozen=True, slots=True)
class Architecture:
    """A model with what it takes; `attention` says that it has attention heads, whoever wrote the layer."""

    make: Made
    inputs: Callable[[int], Any]
    family: str
    task: Any = "classification"
    targets: Callable[[Tensor], Tensor] = labels
    attention: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)


def _see(make: Made, side: int = 64, **facts: Any) -> Architecture:
    return Architecture(make, image(side), **facts)


_SMALL: Mapping[str, Any] = {
    "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 64, "num_labels": CLASSES, "pad_token_id": 1,
}


def _read(model: str, config: str, **arguments: Any) -> Architecture:
    return Architecture(hugging(model, config, **arguments), tokens(), "transformers", attention=True)


_TORCHVISION = {
    "resnet18": _see(vision("resnet18"), family="torchvision"),
    "mobilenet_v2": _see(vision("mobilenet_v2", width_mult=0.5), family="torchvision"),
    "mobilenet_v3_small": _see(vision("mobilenet_v3_small"), family="torchvision"),
    "efficientnet_b0": _see(vision("efficientnet_b0"), family="torchvision"),
    "shufflenet_v2_x0_5": _see(vision("shufflenet_v2_x0_5"), family="torchvision"),
    "squeezenet1_1": _see(vision("squeezenet1_1"), family="torchvision"),
    "regnet_y_400mf": _see(vision("regnet_y_400mf"), family="torchvision"),
    "mnasnet0_5": _see(vision("mnasnet0_5"), family="torchvision"),
    "densenet": _see(
        lambda: torchvision_module().models.DenseNet(
            growth_rate=12, block_config=(2, 2, 2), num_init_features=24, num_classes=CLASSES
        ), family="torchvision",
    ),
    "googlenet": _see(vision("googlenet", aux_logits=False, init_weights=False), family="torchvision"),
    "vgg": _see(vgg, 32, family="torchvision"),
    "convnext": _see(
        lambda: torchvision_module().models.ConvNeXt(
            [
                torchvision_module().models.convnext.CNBlockConfig(24, 48, 1),
                torchvision_module().models.convnext.CNBlockConfig(48, 96, 1),
                torchvision_module().models.convnext.CNBlockConfig(96, None, 1),
            ], num_classes=CLASSES,
        ), family="torchvision",
    ),
    "vit": _see(
        lambda: torchvision_module().models.VisionTransformer(
            image_size=32, patch_size=8, num_layers=2, num_heads=4, hidden_dim=32, mlp_dim=64, num_classes=CLASSES
        ), 32, family="torchvision", attention=True,
    ),
    "swin": _see(
        lambda: torchvision_module().models.SwinTransformer(
            patch_size=[4, 4], embed_dim=24, depths=[2, 2], num_heads=[2, 4], window_size=[4, 4], num_classes=CLASSES
        ), family="torchvision", attention=True,
    ),
    "lraspp_mobilenet_v3": Architecture(
        segmenter("lraspp_mobilenet_v3_large"), image(64), "torchvision", Features(), labels
    ),
    "deeplabv3_mobilenet_v3": Architecture(
        segmenter("deeplabv3_mobilenet_v3_large"), image(64), "torchvision", Features(), labels
    ),
    "resnet18_fpn": Architecture(pyramid, image(64), "torchvision", Features(), labels),
    "ssdlite_backbone": Architecture(ssd, image(128), "torchvision", Features(), labels),
}

_TIMM = {
    name: _see(timm_model(model, **arguments), side, family="timm", attention=attention)
    for name, model, side, attention, arguments in (
        ("resnet10t", "resnet10t", 64, False, {}),
        ("seresnet", "seresnet18", 64, False, {}),
        ("convnext_atto", "convnext_atto", 64, False, {}),
        ("vit_tiny", "vit_tiny_patch16_224", 64, True, {"img_size": 64, "depth": 2}),
        ("deit_tiny_distilled", "deit_tiny_distilled_patch16_224", 64, True, {"img_size": 64, "depth": 2}),
        ("swin_tiny", "swin_tiny_patch4_window7_224", 56, True, {
            "img_size": 56, "embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4),
        }),
        ("ghostnet", "ghostnet_050", 64, False, {}),
        ("repvgg_a0", "repvgg_a0", 64, False, {}),
        ("efficientvit_b0", "efficientvit_b0", 64, True, {}),
        ("efficientvit_m0", "efficientvit_m0", 64, True, {"img_size": 64}),
        ("mobileone_s0", "mobileone_s0", 64, False, {}),
        ("levit_128s", "levit_128s", 64, True, {"img_size": 64}),
        ("fastvit_t8", "fastvit_t8", 64, False, {}),
        ("edgenext_xx_small", "edgenext_xx_small", 64, True, {}),
        ("hrnet_w18_small", "hrnet_w18_small", 64, False, {}),
        ("coatnet_pico", "coatnet_pico_rw_224", 64, True, {"img_size": 64}),
        ("mobilevit_xxs", "mobilevit_xxs", 64, True, {}),
        ("mobilenetv4_small", "mobilenetv4_conv_small", 64, False, {}),
        ("regnetx_002", "regnetx_002", 64, False, {}),
        ("res2net", "res2net50_14w_8s", 64, False, {"layers": (1, 1, 1, 1)}),
        ("poolformer", "poolformer_s12", 64, False, {}),
        ("repvit_m0_9", "repvit_m0_9", 64, False, {}),
        ("starnet_s1", "starnet_s1", 64, False, {}),
        ("lcnet_050", "lcnet_050", 64, False, {}),
        ("pvt_v2_b0", "pvt_v2_b0", 64, True, {}),
        ("nf_regnet_b0", "nf_regnet_b0", 64, False, {}),
    )
} | {
    "mixer": _see(mixer(), family="timm"),
    "resmlp": _see(mixer(block_layer="ResBlock", norm_layer="Affine", mlp_ratio=4), family="timm"),
}

_TRANSFORMERS = {
    "bert": _read("BertForSequenceClassification", "BertConfig", **_SMALL),
    "distilbert": _read(
        "DistilBertForSequenceClassification", "DistilBertConfig", vocab_size=100, dim=32, n_layers=2, n_heads=4,
        hidden_dim=64, max_position_embeddings=64, num_labels=CLASSES, pad_token_id=1,
    ),
    "roberta": _read("RobertaForSequenceClassification", "RobertaConfig", **_SMALL),
    "albert": _read("AlbertForSequenceClassification", "AlbertConfig", embedding_size=16, **_SMALL),
    "electra": _read("ElectraForSequenceClassification", "ElectraConfig", embedding_size=16, **_SMALL),
    "deberta_v2": _read(
        "DebertaV2ForSequenceClassification", "DebertaV2Config", relative_attention=True, position_buckets=8,
        pos_att_type=["p2c", "c2p"], **_SMALL,
    ),
    "mpnet": _read("MPNetForSequenceClassification", "MPNetConfig", **_SMALL),
    "gpt2": _read(
        "GPT2ForSequenceClassification", "GPT2Config", vocab_size=100, n_embd=32, n_layer=2, n_head=4, n_positions=64,
        num_labels=CLASSES, pad_token_id=1,
    ),
    "llama": _read(
        "LlamaForSequenceClassification", "LlamaConfig", num_key_value_heads=2, use_cache=False, **_SMALL,
    ),
    "t5_encoder": Architecture(t5, tokens(), "transformers", attention=True),
    "hf_vit": _see(hugging(
        "ViTForImageClassification", "ViTConfig", hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, image_size=32, patch_size=8, num_labels=CLASSES,
    ), 32, family="transformers", attention=True),
    "segformer": Architecture(hugging(
        "SegformerForSemanticSegmentation", "SegformerConfig", depths=[1, 1, 1, 1], hidden_sizes=[16, 32, 48, 64],
        decoder_hidden_size=32, num_attention_heads=[1, 2, 3, 4], num_labels=5,
    ), image(64), "transformers", "classification", maps, attention=True),
    "wav2vec2": Architecture(hugging(
        "Wav2Vec2ForSequenceClassification", "Wav2Vec2Config", hidden_size=32, num_hidden_layers=2,
        num_attention_heads=4, intermediate_size=64, conv_dim=(16, 16, 16), conv_kernel=(10, 3, 3),
        conv_stride=(5, 2, 2), num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, num_labels=CLASSES,
        classifier_proj_size=16,
    ), named(input_values=normal(1600)), "transformers", attention=True),
    "whisper": Architecture(hugging(
        "WhisperForAudioClassification", "WhisperConfig", d_model=32, encoder_layers=2, decoder_layers=1,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64,
        num_mel_bins=16, max_source_positions=50, num_labels=CLASSES, classifier_proj_size=16, vocab_size=100,
        pad_token_id=1, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    ), named(input_features=normal(16, 100)), "transformers", attention=True),
}

_OWN = {
    "lstm": Architecture(lambda: Recurrent(nn.LSTM), tokens(mask=False), "own"),
    "gru_both_ways": Architecture(lambda: Recurrent(nn.GRU, both=True), tokens(mask=False), "own"),
    "unet": Architecture(UNet, image(32), "own", "classification", maps),
    "graph_net": Architecture(
        Graph, named(nodes=normal(12, 8), sources=whole(12, 30), ends=whole(12, 30)), "own",
    ),
    "table_net": Architecture(Table, named(numbers=normal(6), categories=whole(7, 3)), "own"),
    "torch_encoder": Architecture(
        Encoder, named(steps=normal(10, 12), padding=lambda count: torch.arange(10)[None] >= torch.randint(
            5, 11, (count, 1)
        )), "own", attention=True,
    ),
    "wavenet": Architecture(Wave, normal(4, 64), "own"),
}

ARCHITECTURES: Mapping[str, Architecture] = {**_TORCHVISION, **_TIMM, **_TRANSFORMERS, **_OWN}


# ---- factories


def data(name: str) -> dict[str, Any]:
    """A few random samples with targets that fit the model's answers."""
    item = ARCHITECTURES[name]
    torch.manual_seed(1)
    parts = {"train": item.inputs(TRAIN), "validation": item.inputs(VALIDATION)}
    if item.targets is labels:
        targets = {split: torch.randint(0, CLASSES, (count,)) for split, count in _COUNTS.items()}
    else:
        module = item.make().eval()
        targets = {split: item.targets(_first(_called(module, parts[split]))) for split in _COUNTS}
    return {**{split: (parts[split], targets[split]) for split in _COUNTS}, "task": item.task}


_COUNTS = {"train": TRAIN, "validation": VALIDATION}


def model(name: str) -> nn.Module:
    """The architecture with weights as a training might leave them."""
    item = ARCHITECTURES[name]
    module = item.make()
    torch.manual_seed(2)
    lived_in(module)
    inputs = item.inputs(16)
    norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    module.eval()
    for norm in norms:
        norm.train()
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None
    _called(module, inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return module.eval()


def lived_in(module: nn.Module) -> None:
    """Give weights that begin as a constant (scales, biases, learned residual scales) random values, in place.

    Layers that begin small become so large that what they give has the variance of what they take.
    """
    with torch.no_grad():
        for parameter in module.parameters():
            if not parameter.is_floating_point() or parameter.numel() < 2:
                continue
            value = float(parameter.flatten()[0])
            if bool((parameter != value).any()):
                continue
            if value == 0:
                parameter.normal_(0, 0.1)
            else:
                parameter.uniform_(0.5, 1.5).mul_(1 if abs(value) > 0.01 else 0.2)
        for layer in module.modules():
            weight = getattr(layer, "weight", None)
            if isinstance(layer, nn.Embedding) and float(weight.std()) < 0.5:
                weight.mul_(0.5 / float(weight.std()))
            elif isinstance(weight, nn.Parameter) and weight.ndim > 1:
                size = float(weight.std()) * (weight.numel() / len(weight)) ** 0.5
                weight.mul_(max(1.0, 1.0 / size))


def _called(module: nn.Module, inputs: Any) -> Any:
    with torch.no_grad():
        return module(**inputs) if isinstance(inputs, dict) else module(inputs)


def _first(answer: Any) -> Tensor:
    if isinstance(answer, Tensor):
        return answer
    with contextlib.suppress(KeyError, TypeError):
        return answer["logits"]
    return next(iter(answer.values() if isinstance(answer, Mapping) else answer))
