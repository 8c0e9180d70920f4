"""How a prefix's keys and values are produced while they are trained.

Directly, by an MLP, by low-rank factors, or from embeddings by the frozen layers themselves.

In: nothing but parameters. Out: one table of keys and values for the layers of one site, computed once per step, never
per row of a batch. Whatever produced it, it is exported as a plain table.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ptl_prefix.backbones.attention_sites import SiteGeometry
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.observation import keys_values_of_embeddings

KeyValueTable = Float[Tensor, "layers two kv_heads prefix head_dim"]
"""Keys (index 0 of the second axis) and values (index 1) of one site."""


class PrefixTable(nn.Module, ABC):
    """Produces the keys and values of one site.

    Args:
        geometry: The site's shape; `num_layers` counts only the layers that receive a prefix.
        prefix_length: Positions per layer.
    """

    def __init__(self, geometry: SiteGeometry, prefix_length: int) -> None:
        super().__init__()
        self.geometry = geometry
        self.prefix_length = prefix_length

    @abstractmethod
    def forward(self) -> KeyValueTable:
        """The table, in float32."""

    @abstractmethod
    def match(self, scale: Tensor) -> None:
        """Set the starting point so that what `forward` gives is centred and as large as `scale`.

        Args: scale: Standard deviation of the keys and of the values of each layer, (layers, 2, 1, 1, 1); 0 makes them
            start at 0.
        """

    @abstractmethod
    def fit(self, target: KeyValueTable) -> float:
        """Set the starting point so that `forward` gives `target`, or comes as near as it can.

        Returns:
            What is missing, as a share of the target's length (Frobenius norm).
        """

    def _missing(self, target: KeyValueTable) -> float:
        """The share of `target` that `forward` does not give."""
        return float((self.forward() - target).norm() / target.norm())

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """(layers, 2, kv_heads, prefix, head_dim)."""
        g = self.geometry
        return g.num_layers, 2, g.num_kv_heads, self.prefix_length, g.head_dim


class PlainTable(PrefixTable):
    """`reparam: none`. The table itself is trained."""

    def __init__(self, geometry: SiteGeometry, prefix_length: int) -> None:
        super().__init__(geometry, prefix_length)
        self.table = nn.Parameter(torch.randn(self.shape))

    def forward(self) -> KeyValueTable:
        """The parameter itself."""
        return self.table

    @torch.no_grad()
    def match(self, scale: Tensor) -> None:
        """Widen the table where the backbone spreads more than 1; a scale of 0 empties it.

        Where it spreads less the table stays as drawn, from N(0, 1): every number moves by about a learning rate a
        step, however small it began, and rows that begin close together are told apart late.
        """
        self.table.mul_(torch.where(scale > 0, scale.clamp(min=1.0), scale))

    @torch.no_grad()
    def fit(self, target: KeyValueTable) -> float:
        """Copy it."""
        self.table.copy_(target)
        return 0.0


class MlpTable(PrefixTable):
    """`reparam: mlp`. Rows -> linear -> tanh -> linear to all layers' keys and values (Li & Liang 2021, section 4.3).

    As in the authors' code, rows are drawn from N(0, 1) and the output layer is shared by nobody: every layer, key and
    value has its own columns. The authors' code runs the MLP once per row of the batch; this one once per step.

    Args:
        geometry: As in `PrefixTable`.
        prefix_length: As in `PrefixTable`.
        embedding_size: Width of the rows.
        hidden_size: Width of the hidden layer.
    """

    def __init__(self, geometry: SiteGeometry, prefix_length: int, embedding_size: int, hidden_size: int) -> None:
        super().__init__(geometry, prefix_length)
        self.rows = nn.Parameter(torch.randn(prefix_length, embedding_size))
        self.hidden = nn.Linear(embedding_size, hidden_size)
        self.output = nn.Linear(hidden_size, 2 * geometry.num_layers * geometry.kv_width)

    def forward(self) -> KeyValueTable:
        """Every row through the MLP, once."""
        layers, two, kv_heads, prefix, head_dim = self.shape
        numbers = self.output(torch.tanh(self.hidden(self.rows)))  # (prefix, layers * 2 * kv_heads * head_dim)
        table: Tensor = numbers.view(prefix, layers, two, kv_heads, head_dim).permute(1, 2, 3, 0, 4)
        return table

    @torch.no_grad()
    def match(self, scale: Tensor) -> None:
        """Scale the output layer's columns, without a bias at first."""
        layers, two, kv_heads, _, head_dim = self.shape
        self.output.bias.zero_()
        # The size that the freshly drawn layers give, one number for the whole output.
        size = self.forward().square().mean().sqrt()
        per_column = scale.expand(layers, two, kv_heads, 1, head_dim).reshape(-1, 1)
        self.output.weight.mul_(per_column / size)

    @torch.no_grad()
    def fit(self, target: KeyValueTable) -> float:
        """Solve for the output layer, the rows and the hidden layer as they were drawn.

        The authors' low-data runs come near the words' activations by gradient descent on the whole MLP; least squares
        reach them, where the hidden layer is at least as wide as the prefix is long.
        """
        numbers = target.permute(3, 0, 1, 2, 4).flatten(1).double().cpu()  # (prefix, layers * 2 * kv_heads * head_dim)
        hidden = torch.tanh(self.hidden(self.rows)).double().cpu()
        bias = numbers.mean(dim=0)
        weight = torch.linalg.lstsq(hidden, numbers - bias, driver="gelsd").solution
        self.output.bias.copy_(bias)
        self.output.weight.copy_(weight.T)
        return self._missing(target)


class LinearTable(PrefixTable):
    """`reparam: linear`. In each layer its own P' (prefix_length x e) times W_K and W_V (e x kv_width).

    e (L + 2 kv_width) numbers a layer: fewer than `none` only if e < 2 L kv_width / (L + 2 kv_width), L the prefix
    length.

    Args:
        geometry: As in `PrefixTable`.
        prefix_length: As in `PrefixTable`.
        embedding_size: e, the width of P'.
    """

    def __init__(self, geometry: SiteGeometry, prefix_length: int, embedding_size: int) -> None:
        super().__init__(geometry, prefix_length)
        self.rows = nn.Parameter(torch.randn(geometry.num_layers, prefix_length, embedding_size))
        # Columns whose products have unit variance, so that `match` may scale them as it scales a plain table.
        scale = embedding_size**-0.5
        self.columns = nn.Parameter(torch.randn(geometry.num_layers, 2, embedding_size, geometry.kv_width) * scale)

    def forward(self) -> KeyValueTable:
        """P' W in every layer."""
        layers, two, kv_heads, prefix, head_dim = self.shape
        numbers = torch.einsum("lpe,ltew->ltpw", self.rows, self.columns)
        return numbers.reshape(layers, two, prefix, kv_heads, head_dim).transpose(2, 3)

    @torch.no_grad()
    def match(self, scale: Tensor) -> None:
        """Scale W_K and W_V."""
        self.columns.mul_(scale[:, :, 0])

    @torch.no_grad()
    def fit(self, target: KeyValueTable) -> float:
        """Take the e greatest singular directions of each layer's table.

        Where e is more than a table can have, the P' of the others is 0: their W stays as drawn, so that they learn.
        """
        layers, two, kv_heads, prefix, head_dim = self.shape
        numbers = (
            target.transpose(2, 3).permute(0, 2, 1, 3, 4).flatten(2).double().cpu()
        )  # (layers, prefix, 2 kv_width)
        left, sizes, right = torch.linalg.svd(numbers, full_matrices=False)
        rank = min(self.rows.shape[2], sizes.shape[1])
        unit = prefix**0.5  # rows of about unit size, as they are when drawn
        self.rows.zero_()
        self.rows[:, :, :rank] = (left[:, :, :rank] * unit).to(self.rows)
        columns = (sizes[:, :rank, None] * right[:, :rank] / unit).view(layers, rank, two, kv_heads * head_dim)
        self.columns[:, :, :rank] = columns.transpose(1, 2).to(self.columns)
        return self._missing(target)


class EmbeddingTable(PrefixTable):
    """`reparam: embedding`. What the frozen layers make of trained embeddings (Li & Liang 2021, section 7.2).

    The "embedding-only" ablation: one trained vector a position, in place of a token's embedding, and no freedom above
    it. In a causal backbone nothing of the text reaches the prefix, so its keys and values are computed once per step,
    by a forward over the prefix alone, and fold into a table like any other.

    Args:
        geometry: As in `PrefixTable`.
        prefix_length: As in `PrefixTable`.
        backbone: Whose layers they pass through.
    """

    def __init__(self, geometry: SiteGeometry, prefix_length: int, backbone: Backbone) -> None:
        super().__init__(geometry, prefix_length)
        self.backbone = backbone
        words = backbone.embed(torch.arange(backbone.config.vocab_size))
        size = torch.ones(()) if backbone.is_shape_only else words.float().std()
        self.rows = nn.Parameter(torch.randn(prefix_length, words.shape[1]) * size)

    def forward(self) -> KeyValueTable:
        """One forward of the backbone over the prefix."""
        return keys_values_of_embeddings(self.backbone, self.rows)

    def match(self, scale: Tensor) -> None:
        """The rows were drawn as large as words' embeddings, which is all that there is to choose."""

    @torch.no_grad()
    def start_from(self, ids: Sequence[int]) -> None:
        """Begin with the embeddings of tokens."""
        self.rows.copy_(self.backbone.embed(torch.tensor(list(ids))))

    def fit(self, target: KeyValueTable) -> float:
        """Keys and values of one's own choice are just what embeddings cannot give."""
        raise ValueError("Embeddings cannot start from keys and values; choose another `method.init`.")


def make_table(
    reparam: str,
    geometry: SiteGeometry,
    backbone: Backbone,
    *,
    prefix_length: int,
    embedding_size: int | None,
    hidden_size: int,
) -> PrefixTable:
    """The table that `reparam` names: `none`, `mlp`, `linear` or `embedding`."""
    if reparam == "none":
        return PlainTable(geometry, prefix_length)
    if reparam == "mlp":
        return MlpTable(geometry, prefix_length, embedding_size or backbone.hidden_size, hidden_size)
    if reparam == "linear":
        return LinearTable(geometry, prefix_length, embedding_size or backbone.hidden_size)
    assert reparam == "embedding", reparam
    return EmbeddingTable(geometry, prefix_length, backbone)
