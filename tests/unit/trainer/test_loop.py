"""The loop: what it yields, when it stops, which weights it leaves."""

import itertools

import pytest
import torch

from services.trainer.loop import Epoch, Examples, TrainingDiverged, TrainingStopped, mean_loss, train_epochs
from services.trainer.networks import Network, make_network
from shared.spec import NetworkSpec, TrainingSpec


def examples(rows: int, seed: int, noise: float = 1.0) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randn(rows, 4, generator=generator)
    labels = (numbers[:, 0] + noise * torch.randn(rows, generator=generator) > 0).float()
    return Examples(numbers, torch.zeros(rows, 0, dtype=torch.int64), labels)


def fresh(seed: int = 0) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make_network(NetworkSpec(hidden=[16], dropout=0), 4, [])


def run(network: Network, fit: Examples, held_out: Examples, **settings: object) -> list[Epoch]:
    spec = TrainingSpec.model_validate({"batch_size": 64, "learning_rate": 0.02, **settings})
    return list(train_epochs(network, fit, held_out, spec=spec, task="binary", should_stop=lambda: False))


def test_the_loss_falls_and_epochs_are_counted_from_one() -> None:
    epochs = run(fresh(), examples(500, 1), examples(100, 2), epochs=4)
    assert [epoch.epoch for epoch in epochs] == [1, 2, 3, 4]
    assert epochs[-1].train_loss < epochs[0].train_loss
    assert epochs[0].is_best


def test_the_best_weights_are_restored_after_patience_runs_out() -> None:
    network, held_out = fresh(), examples(60, 2, noise=3.0)
    epochs = run(network, examples(40, 1, noise=3.0), held_out, epochs=200, patience=3, learning_rate=0.1)
    assert len(epochs) < 200
    best = max(epoch.epoch for epoch in epochs if epoch.is_best)
    assert len(epochs) == best + 3
    assert mean_loss(network, held_out, "binary") == pytest.approx(epochs[best - 1].valid_loss)
    assert not network.training


def test_without_held_out_rows_the_last_epoch_counts() -> None:
    fit = examples(300, 1)
    epochs = run(fresh(), fit, examples(0, 2), epochs=3)
    assert [(epoch.valid_loss, epoch.is_best) for epoch in epochs] == [(None, True)] * 3


def test_the_same_seed_gives_the_same_weights() -> None:
    networks = [fresh(), fresh()]
    for network in networks:
        run(network, examples(300, 1), examples(50, 2), epochs=2)
    first, second = (network.state_dict() for network in networks)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_it_stops_between_batches_when_asked() -> None:
    asked = itertools.count()
    spec = TrainingSpec(epochs=5, batch_size=10)
    loop = train_epochs(
        fresh(), examples(100, 1), examples(20, 2), spec=spec, task="binary", should_stop=lambda: next(asked) >= 14
    )
    assert next(loop).epoch == 1
    with pytest.raises(TrainingStopped, match="asked to stop"):
        next(loop)
    assert next(asked) == 15


def test_a_loss_that_is_not_finite_is_an_error_that_names_the_setting() -> None:
    fit = examples(100, 1)
    fit.numbers[0, 0] = float("nan")
    with pytest.raises(TrainingDiverged, match=r"training\.learning_rate"):
        run(fresh(), fit, examples(0, 2))


def test_a_held_out_loss_that_is_never_finite_is_a_divergence() -> None:
    held_out = examples(20, 2)
    held_out.numbers[0, 0] = torch.inf
    with pytest.raises(TrainingDiverged, match="held-out rows"):
        run(fresh(), examples(100, 1), held_out, epochs=2)
