"""What an API key may do. Every route declares one of these; a key holds a set of them and, optionally, a list of pipelines."""

from enum import StrEnum


class Scope(StrEnum):
    """One permission; keys are given exactly what they need."""

    READ = "read"  #: look at pipelines, datasets, cycles, runs, validations, monitoring, deployments
    INGEST = "ingest"  #: send events and labels
    DATASETS = "datasets"  #: build datasets and download their rows
    PIPELINES = "pipelines"  #: apply pipeline specs
    TRAIN = "train"  #: start and cancel cycles and runs, change schedules
    VALIDATE = "validate"  #: ask for validations, approve or reject what is held, acknowledge alerts
    PREDICT = "predict"  #: ask the live model for predictions
    PREDICT_VERSION = "predict:version"  #: name another version than the live one in a prediction request
    PREDICT_PRIORITY = "predict:priority"  #: ask for predictions that go before those of others
    PRECOMPUTE = "precompute"  #: start generations of offline predictions
    FEEDBACK = "feedback"  #: send the truth about predictions
    DEPLOY = "deploy"  #: promote a version, roll back
    KEYS = "keys"  #: create, list and revoke API keys, never beyond one's own scopes and pipelines


ADMIN = frozenset(Scope)
"""Everything: what the bootstrap admin key holds."""

OFFLINE = frozenset({Scope.PREDICT, Scope.PREDICT_VERSION, Scope.PREDICT_PRIORITY, Scope.FEEDBACK})
"""Scopes that go on, for a while, when PostgreSQL is away and keys cannot be read anew. All others fail closed."""
