"""The networks: numbers and ids in, one logit (binary) or one standardised value (regression) out."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from shared.spec import NetworkSpec

ID_DROPOUT = 0.1
"""Share of ids replaced by 0 while training: it teaches row 0 of every embedding, which stands for the unseen."""
_EMBEDDING_STD = 0.05


def make_network(spec: NetworkSpec, number_count: int, id_sizes: Sequence[int]) -> "Network":
    """A network with fresh weights, drawn from torch's global generator.

    Args:
        spec: kind and sizes.
        number_count: columns of `numbers`.
        id_sizes: for each column of `ids`, the number of ids.
    """
    kinds: dict[str, type[Network]] = {"linear": LinearNetwork, "mlp": MlpNetwork, "dcn": DcnNetwork}
    return kinds[spec.kind](spec, number_count, id_sizes)


class Network(nn.Module):
    """`forward(numbers float32 [n, d], ids int64 [n, k]) -> float32 [n]`; `output` is the last layer."""

    output: nn.Linear

    def set_base_rate(self, bias: float) -> None:
        """Start from the train split's mean: the first epochs are not spent on finding it."""
        with torch.no_grad():
            self.output.weight.mul_(0.1)
            self.output.bias.fill_(bias)


class Embeddings(nn.Module):
    """One table for all id columns: ids int64 [n, k] to float32 [n, k, width]."""

    offsets: Tensor

    def __init__(self, id_sizes: Sequence[int], width: int) -> None:
        super().__init__()
        starts = torch.tensor([0, *id_sizes], dtype=torch.int64).cumsum(0)
        self.register_buffer("offsets", starts[:-1])
        self.table = nn.Embedding(int(starts[-1]), width)
        nn.init.normal_(self.table.weight, std=_EMBEDDING_STD)

    def forward(self, ids: Tensor) -> Tensor:
        if self.training:
            ids = torch.where(torch.rand(ids.shape, device=ids.device) < ID_DROPOUT, 0, ids)
        return self.table(ids + self.offsets)


class Inputs(nn.Module):
    """Numbers beside the embedded ids: float32 [n, width]."""

    def __init__(self, number_count: int, id_sizes: Sequence[int], embedding: int) -> None:
        super().__init__()
        self.embeddings = Embeddings(id_sizes, embedding) if id_sizes else None
        self.width = number_count + len(id_sizes) * embedding

    def forward(self, numbers: Tensor, ids: Tensor) -> Tensor:
        if self.embeddings is None:
            return numbers
        return torch.cat([numbers, self.embeddings(ids).flatten(1)], dim=1)


class LinearNetwork(Network):
    """A weight for each number and each id: logistic or linear regression."""

    def __init__(self, spec: NetworkSpec, number_count: int, id_sizes: Sequence[int]) -> None:
        super().__init__()
        self.embeddings = Embeddings(id_sizes, 1) if id_sizes else None
        self.output = nn.Linear(max(number_count, 1), 1)
        self.number_count = number_count

    def forward(self, numbers: Tensor, ids: Tensor) -> Tensor:
        if self.number_count == 0:
            numbers = torch.zeros_like(ids[:, :1], dtype=torch.float32)
        total = self.output(numbers).squeeze(1)
        return total if self.embeddings is None else total + self.embeddings(ids).sum(dim=(1, 2))


class MlpNetwork(Network):
    """Embeddings and numbers through hidden layers."""

    def __init__(self, spec: NetworkSpec, number_count: int, id_sizes: Sequence[int]) -> None:
        super().__init__()
        self.inputs = Inputs(number_count, id_sizes, spec.embedding)
        self.tower, width = _tower(self.inputs.width, spec)
        self.output = nn.Linear(width, 1)

    def forward(self, numbers: Tensor, ids: Tensor) -> Tensor:
        return self.output(self.tower(self.inputs(numbers, ids))).squeeze(1)


class DcnNetwork(Network):
    """Cross layers beside hidden layers: DCN V2, parallel form (Wang et al. 2021, equation 1)."""

    def __init__(self, spec: NetworkSpec, number_count: int, id_sizes: Sequence[int]) -> None:
        super().__init__()
        self.inputs = Inputs(number_count, id_sizes, spec.embedding)
        self.crosses = nn.ModuleList(nn.Linear(self.inputs.width, self.inputs.width) for _ in range(spec.cross_layers))
        self.tower, width = _tower(self.inputs.width, spec)
        self.output = nn.Linear(self.inputs.width + width, 1)

    def forward(self, numbers: Tensor, ids: Tensor) -> Tensor:
        first = self.inputs(numbers, ids)
        crossed = first
        for cross in self.crosses:
            crossed = first * cross(crossed) + crossed
        return self.output(torch.cat([crossed, self.tower(first)], dim=1)).squeeze(1)


class Scorer(nn.Module):
    """The network's output as a score: a probability, or a value in the label's own unit."""

    def __init__(self, network: Network, task: str, label_mean: float, label_std: float) -> None:
        super().__init__()
        self.network, self.task = network, task
        self.label_mean, self.label_std = label_mean, label_std

    def forward(self, numbers: Tensor, ids: Tensor) -> Tensor:
        raw = self.network(numbers, ids)
        return torch.sigmoid(raw) if self.task == "binary" else raw * self.label_std + self.label_mean


def _tower(width: int, spec: NetworkSpec) -> tuple[nn.Sequential, int]:
    layers: list[nn.Module] = []
    for hidden in spec.hidden:
        layers += [nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(spec.dropout)]
        width = hidden
    return nn.Sequential(*layers), width
