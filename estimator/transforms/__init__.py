"""Transforms of batches of tensors, joint over images, masks and boxes, each sample on its own."""

from estimator.transforms.adapt import Adapt
from estimator.transforms.affine import RandomAffine
from estimator.transforms.base import FieldKeys, FieldTransform, Scene, Transform
from estimator.transforms.compose import Compose
from estimator.transforms.crop import RandomCrop
from estimator.transforms.cutout import RandomCutout
from estimator.transforms.flip import RandomFlip
from estimator.transforms.normalize import Normalize, NormalizeLayer
from estimator.transforms.one_of import OneOf
from estimator.transforms.resize import Resize

__all__ = [
    "Adapt",
    "Compose",
    "FieldKeys",
    "FieldTransform",
    "Normalize",
    "NormalizeLayer",
    "OneOf",
    "RandomAffine",
    "RandomCrop",
    "RandomCutout",
    "RandomFlip",
    "Resize",
    "Scene",
    "Transform",
]
