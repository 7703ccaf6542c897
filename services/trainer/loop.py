"""The training loop as a recipe: no files, no database. It yields an `Epoch` at a time; whoever drives it may stop."""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from services.trainer.networks import Network
from shared.errors import RelevoError
from shared.spec import Task, TrainingSpec

WARM_UP = 0.1
"""Share of the steps in which the learning rate rises from zero; it falls along a cosine after that."""
GRADIENT_NORM = 5.0
EVALUATION_ROWS = 65_536
STEPS_PER_EPOCH = 100
"""A batch is never so large that an epoch has fewer steps, down to `SMALLEST_BATCH` rows: small tables learn too."""
SMALLEST_BATCH = 32


class TrainingStopped(RelevoError):
    """The driver asked for the training to stop; there is no model."""

    slug, title = "training-stopped", "Training stopped"


class TrainingDiverged(RelevoError):
    """The loss became NaN or infinite."""

    slug, title = "training-diverged", "Training diverged"


@dataclass(frozen=True)
class Examples:
    """Rows as tensors: numbers float32 [n, d], ids int64 [n, k], labels float32 [n] (standardised for regression)."""

    numbers: Tensor
    ids: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "Examples":
        return Examples(self.numbers.to(device), self.ids.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Epoch:
    """One pass over the train rows. Losses are means per row: log loss, or squared error of standardised labels."""

    epoch: int
    """Counted from 1; a refit counts on from the epochs before it."""
    train_loss: float
    valid_loss: float | None
    """None without held-out rows."""
    is_best: bool
    """These weights are the best so far."""


def train_epochs(
    network: Network,
    examples: Examples,
    held_out: Examples,
    *,
    spec: TrainingSpec,
    task: Task,
    should_stop: Callable[[], bool],
) -> Iterator[Epoch]:
    """Fit the network in place with AdamW. When the iterator ends, the network has its best weights.

    Args:
        network: on the device of the examples.
        examples: at least one row.
        held_out: rows for early stopping; may be empty, then every epoch runs and the last one counts.
        spec: epochs, batch size, rates, patience, seed (of the row order).
        task: which loss.
        should_stop: asked before each batch.

    Raises:
        TrainingStopped: `should_stop` said so.
        TrainingDiverged: the loss became NaN or infinite.
    """
    generator = torch.Generator().manual_seed(spec.seed)
    optimizer = torch.optim.AdamW(_parameter_groups(network, spec.weight_decay), lr=spec.learning_rate)
    batch_size = min(spec.batch_size, max(SMALLEST_BATCH, len(examples) // STEPS_PER_EPOCH))
    steps = math.ceil(len(examples) / batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps * spec.epochs))
    best, best_loss, bad_epochs = copy.deepcopy(network.state_dict()), math.inf, 0
    for number in range(1, spec.epochs + 1):
        train_loss = _run_epoch(
            network,
            examples,
            batch_size=batch_size,
            task=task,
            optimizer=optimizer,
            schedule=schedule,
            generator=generator,
            should_stop=should_stop,
        )
        if not math.isfinite(train_loss):
            raise TrainingDiverged(
                f"The training loss became {train_loss} in epoch {number}; lower training.learning_rate."
            )
        valid_loss = mean_loss(network, held_out, task) if len(held_out) else None
        is_best = valid_loss is None or valid_loss < best_loss
        if is_best:
            best, bad_epochs = copy.deepcopy(network.state_dict()), 0
            best_loss = math.inf if valid_loss is None else valid_loss
        else:
            bad_epochs += 1
        yield Epoch(number, train_loss, valid_loss, is_best)
        if bad_epochs >= spec.patience:
            break
    if len(held_out) and best_loss == math.inf:
        raise TrainingDiverged("No epoch had a finite loss on the held-out rows; lower training.learning_rate.")
    network.load_state_dict(best)
    network.eval()


def mean_loss(network: nn.Module, examples: Examples, task: Task) -> float:
    """The mean loss per row, without dropout."""
    network.eval()
    total = 0.0
    with torch.inference_mode():
        for start in range(0, len(examples), EVALUATION_ROWS):
            rows = slice(start, start + EVALUATION_ROWS)
            output = network(examples.numbers[rows], examples.ids[rows])
            total += float(_loss(output, examples.labels[rows], task)) * len(output)
    return total / len(examples)


def _run_epoch(
    network: Network,
    examples: Examples,
    *,
    batch_size: int,
    task: Task,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    generator: torch.Generator,
    should_stop: Callable[[], bool],
) -> float:
    network.train()
    device = examples.labels.device
    order = torch.randperm(len(examples), generator=generator).to(device)
    total = torch.zeros((), device=device)
    for rows in order.split(batch_size):
        if should_stop():
            raise TrainingStopped("The training was asked to stop; no model was made.")
        loss = _loss(network(examples.numbers[rows], examples.ids[rows]), examples.labels[rows], task)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), GRADIENT_NORM)
        optimizer.step()
        schedule.step()
        total += loss.detach() * len(rows)
    return float(total) / len(examples)


def _loss(output: Tensor, labels: Tensor, task: Task) -> Tensor:
    if task == "binary":
        return functional.binary_cross_entropy_with_logits(output, labels)
    return functional.mse_loss(output, labels)


def _rate(step: int, steps: int) -> float:
    warm_up = max(1, round(steps * WARM_UP))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def _parameter_groups(network: Network, weight_decay: float) -> list[dict[str, object]]:
    """Decay matrices and embeddings, never biases."""
    decayed = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    plain = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
