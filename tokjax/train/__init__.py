"""Training: one loop, one step, one checkpoint format for every system."""

from tokjax.train.checkpoint import load_for_inference, load_system_state
from tokjax.train.loop import TrainSpec, fit
from tokjax.train.metrics import read_evaluations, read_metrics
from tokjax.train.optimizer import OptimizerSpec, learning_rates, make_schedule, make_transform
from tokjax.train.state import TrainState

__all__ = [
    "OptimizerSpec",
    "TrainSpec",
    "TrainState",
    "fit",
    "learning_rates",
    "load_for_inference",
    "load_system_state",
    "make_schedule",
    "make_transform",
    "read_evaluations",
    "read_metrics",
]
