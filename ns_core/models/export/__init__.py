"""A checkpoint in the formats of others, each checked by its own reader before it appears.

In: a folder with `model.safetensors` and `model.json`. Out: a folder that needs nothing of this package.

    request.py        what is asked and answered: no torch
    __main__.py       `python -m ns_core.models.export`: one request in a process of its own
    exporter.py       loads, writes, checks, and only then lets the folder appear
    timm_folder.py    timm, hf: weights and a configuration for plain timm
    model_card.py     the page that a Hugging Face Hub repository opens with
    programs.py       torch-export, onnx: the network and its normalisation as one program

This module stays light: the command line's help reads it.
"""

FORMATS = {
    "timm": "weights under timm's names and a config.json: all that timm.create_model needs, and nothing else",
    "hf": "the same with a model card: a Hugging Face Hub repository, to be uploaded as it stands",
    "torch-export": "model.pt2 for torch.export.load, with the normalisation inside",
    "onnx": "model.onnx, with the normalisation inside",
}
"""Name -> what it is, in a line."""
