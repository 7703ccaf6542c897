"""The transform: fitted on the train split, compiled to the ONNX graph that training and serving both run."""

from services.trainer.transform.build import Transform, fit_transform
from services.trainer.transform.feeds import feeds_of, inputs_of, read_keys, read_labels

__all__ = ["Transform", "feeds_of", "fit_transform", "inputs_of", "read_keys", "read_labels"]
