"""What in its input a net's answer rests on, by methods of Captum."""

from estimator.explain.handler import ExplanationHandler
from estimator.explain.methods import (
    Attribution,
    grad_cam,
    guided_backpropagation,
    integrated_gradients,
    occlusion,
)

__all__ = [
    "Attribution",
    "ExplanationHandler",
    "grad_cam",
    "guided_backpropagation",
    "integrated_gradients",
    "occlusion",
]
