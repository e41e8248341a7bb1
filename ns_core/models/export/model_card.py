"""The page of a Hugging Face Hub repository: how to load the network, how to prepare its images, what was measured.

In: a network, its card and what is known of it. Out: Markdown with the Hub's YAML head.
"""

from collections.abc import Sequence

from torch import nn

from ns_core.models.checkpoint import ModelCard
from ns_core.models.export.request import Facts

_HEAD = """---
tags:
- image-classification
- timm
- noisy-student
pipeline_tag: image-classification
library_name: timm
---
"""

_USAGE = """```python
import timm
from PIL import Image

model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()  # or hf-hub:OWNER/NAME once it is uploaded
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
probabilities = model(transform(Image.open("image.jpg").convert("RGB"))[None]).softmax(dim=1)
name = model.pretrained_cfg["label_names"][int(probabilities.argmax())]
```"""

_CITATION = """```bibtex
@inproceedings{xie2020self,
  title={Self-training with Noisy Student improves ImageNet classification},
  author={Xie, Qizhe and Luong, Minh-Thang and Hovy, Eduard and Le, Quoc V.},
  booktitle={CVPR},
  year={2020}
}
```"""

_SHARES = {
    "holdout_top1": "holdout top-1 accuracy",
    "test_top1": "test top-1 accuracy",
    "mean_corruption_error": "mean error under corruptions (not comparable with published mCE)",
    "mean_flip_probability": "mean flip probability along perturbed sequences (not comparable with published mFR)",
    "fgsm_strongest_top1": "top-1 accuracy under FGSM",
    "pgd_strongest_top1": "top-1 accuracy under PGD",
}
_PLAIN = {"ece": "expected calibration error"}
_LISTED_CLASSES = 100


def model_card(network: nn.Module, card: ModelCard, facts: Facts) -> str:
    """The whole page. Figures that the facts do not hold are left out."""
    parameters = sum(parameter.numel() for parameter in network.parameters())
    origin = [("architecture", card.model), ("parameters", f"{parameters:,}"), ("from", facts.source)]
    origin += [] if facts.recipe is None else [("recipe", f"{facts.recipe}, seed {facts.seed}")]
    parts = [
        f"{_HEAD}# {card.model} for {len(card.class_names)} classes",
        _table(("", ""), origin),
        f"## Use\n\n{_USAGE}",
        f"## Images\n\n{_table(('', ''), _preparation(card))}",
        f"## Classes\n\n{_classes(card.class_names)}",
    ]
    if rows := _measured(facts):
        parts.append(f"## Measured\n\n{_table(('figure', 'value'), rows)}")
    parts.append(f"## Citation\n\n{_CITATION}")
    return "\n\n".join(parts) + "\n"


def _preparation(card: ModelCard) -> list[tuple[str, str]]:
    side = card.test_size
    return [
        ("side", f"{side} pixels; trained at {card.train_size}"),
        ("resize", f"short side to {round(side / card.crop_pct)} pixels (crop_pct {card.crop_pct:g}), then the centre"),
        ("interpolation", "bicubic here; while training and measuring, area where it shrinks and cubic where it grows"),
        ("channels", "RGB, scaled to [0, 1], then (x - mean) / std"),
        ("mean", ", ".join(f"{value:g}" for value in card.mean)),
        ("std", ", ".join(f"{value:g}" for value in card.std)),
    ]


def _measured(facts: Facts) -> list[tuple[str, str]]:
    shares = [(words, f"{100 * facts.figures[name]:.1f} %") for name, words in _SHARES.items() if name in facts.figures]
    plain = [(words, f"{facts.figures[name]:.3f}") for name, words in _PLAIN.items() if name in facts.figures]
    return shares + plain


def _classes(names: Sequence[str]) -> str:
    listed = ", ".join(f"`{name}`" for name in names[:_LISTED_CLASSES])
    more = len(names) - _LISTED_CLASSES
    return f"{listed} and {more} more, see `config.json`" if more > 0 else listed


def _table(head: tuple[str, str], rows: Sequence[tuple[str, str]]) -> str:
    lines = [f"| {left} | {right.replace('|', '/')} |" for left, right in rows]
    return "\n".join([f"| {head[0]} | {head[1]} |", "|---|---|", *lines])
