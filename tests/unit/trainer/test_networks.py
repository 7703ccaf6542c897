"""Every network: shapes, the unseen id, the base rate."""

import pytest
import torch

from services.trainer.networks import Embeddings, make_network
from shared.spec import NetworkSpec

KINDS = ["linear", "mlp", "dcn"]


def spec_of(kind: str, **settings: object) -> NetworkSpec:
    return NetworkSpec.model_validate({"kind": kind, "hidden": [8], **settings})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("numbers", "id_sizes"), [(3, [4, 5]), (3, []), (0, [4, 5]), (1, [1])])
def test_one_output_per_row_whatever_the_inputs(kind: str, numbers: int, id_sizes: list[int]) -> None:
    network = make_network(spec_of(kind), numbers, id_sizes)
    output = network(torch.randn(7, numbers), torch.zeros(7, len(id_sizes), dtype=torch.int64))
    assert output.shape == (7,)
    output.sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters() if parameter.ndim > 1 and numbers)


@pytest.mark.parametrize("kind", KINDS)
def test_the_base_rate_is_where_training_starts(kind: str) -> None:
    network = make_network(spec_of(kind), 3, [4])
    network.set_base_rate(-2.0)
    output = network.eval()(torch.randn(200, 3), torch.zeros(200, 1, dtype=torch.int64)).detach()
    assert float(output.mean()) == pytest.approx(-2.0, abs=0.3)


def test_columns_of_ids_do_not_share_rows() -> None:
    embeddings = Embeddings([2, 3], 4).eval()
    first, second = embeddings(torch.tensor([[1, 0]]))[0]
    assert torch.equal(first, embeddings.table.weight[1])
    assert torch.equal(second, embeddings.table.weight[2])


def test_the_unseen_id_learns_by_dropout_and_only_while_training() -> None:
    embeddings = Embeddings([3], 2)
    ids = torch.ones(5_000, 1, dtype=torch.int64)
    embeddings(ids).sum().backward()
    assert embeddings.table.weight.grad is not None
    unseen, seen, never = embeddings.table.weight.grad[:, 0].tolist()
    assert 0 < unseen < seen
    assert never == 0
    assert torch.equal(embeddings.eval()(ids)[:, 0], embeddings.table.weight[1].expand(5_000, 2))
