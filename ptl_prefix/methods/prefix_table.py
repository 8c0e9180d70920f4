"""Reparametrisations of a prefix: how its keys and values are computed from trainable parameters.

In: parameters. Out: one table of keys and values for the layers of one attention site, computed once per step, not per
row of a batch. Every reparametrisation is exported as a plain table.
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
    """Computes the keys and values of one attention site.

    Args:
        geometry: Shape of the site; `num_layers` counts only the layers that get a prefix.
        prefix_length: Number of prefix positions per layer.
        num_parts: 2 for keys and values, 1 for a table that computes only one of them.
    """

    def __init__(self, geometry: SiteGeometry, prefix_length: int, num_parts: int = 2) -> None:
        super().__init__()
        self.geometry = geometry
        self.prefix_length = prefix_length
        self.num_parts = num_parts

    @abstractmethod
    def forward(self) -> KeyValueTable:
        """The table, in float32."""

    @abstractmethod
    def match(self, scale: Tensor) -> None:
        """Scale newly drawn parameters so that the table has mean 0 and the given standard deviations.

        Args:
            scale: Standard deviations of the keys and of the values of each layer, (layers, 2, 1, 1, 1); 0 sets them
                to 0.
        """

    @abstractmethod
    def fit(self, target: KeyValueTable) -> float:
        """Set the parameters so that the table equals `target`, or is as close to it as possible.

        Returns:
            The relative error: the Frobenius norm of the difference over that of the target.
        """

    def _relative_error(self, target: KeyValueTable) -> float:
        return float((self.forward() - target).norm() / target.norm())

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """(layers, num_parts, kv_heads, prefix, head_dim)."""
        g = self.geometry
        return g.num_layers, self.num_parts, g.num_kv_heads, self.prefix_length, g.head_dim


def widened(scale: Tensor) -> Tensor:
    """Standard deviations of which none is less than 1, except those that are 0."""
    return torch.where(scale > 0, scale.clamp(min=1.0), scale)


class PlainTable(PrefixTable):
    """`reparam: none`. The table is the parameter."""

    def __init__(self, geometry: SiteGeometry, prefix_length: int, num_parts: int = 2) -> None:
        super().__init__(geometry, prefix_length, num_parts)
        self.table = nn.Parameter(torch.randn(self.shape))

    def forward(self) -> KeyValueTable:
        """The parameter itself."""
        return self.table

    @torch.no_grad()
    def match(self, scale: Tensor) -> None:
        """Scale the table where the standard deviation is more than 1; a scale of 0 sets it to 0.

        Below 1 the table stays as drawn from N(0, 1): Adam changes every number by about the learning rate per step,
        however small it is, so rows that start close to each other would stay similar for long.
        """
        self.table.mul_(widened(scale))

    @torch.no_grad()
    def fit(self, target: KeyValueTable) -> float:
        """Copy the target."""
        self.table.copy_(target)
        return 0.0


class MlpTable(PrefixTable):
    """`reparam: mlp`. P[i] = MLP(P'[i]): linear, tanh, linear to all layers' keys and values.

    Li & Liang (2021), section 4.3. As in the authors' code, the rows P' are drawn from N(0, 1), and every layer's keys
    and values have their own columns of the output layer. The authors' code runs the MLP once per row of the batch,
    this one once per step.

    Args:
        geometry: As in `PrefixTable`.
        prefix_length: As in `PrefixTable`.
        embedding_size: Width of the rows P'.
        hidden_size: Width of the hidden layer.
        num_parts: As in `PrefixTable`.
    """

    def __init__(
        self, geometry: SiteGeometry, prefix_length: int, embedding_size: int, hidden_size: int, num_parts: int = 2
    ) -> None:
        super().__init__(geometry, prefix_length, num_parts)
        self.rows = nn.Parameter(torch.randn(prefix_length, embedding_size))
        self.hidden = nn.Linear(embedding_size, hidden_size)
        self.output = nn.Linear(hidden_size, num_parts * geometry.num_layers * geometry.kv_width)

    def forward(self) -> KeyValueTable:
        """The MLP of all rows."""
        layers, two, kv_heads, prefix, head_dim = self.shape
        numbers = self.output(torch.tanh(self.hidden(self.rows)))  # (prefix, layers * 2 * kv_heads * head_dim)
        table: Tensor = numbers.view(prefix, layers, two, kv_heads, head_dim).permute(1, 2, 3, 0, 4)
        return table

    @torch.no_grad()
    def match(self, scale: Tensor) -> None:
        """Scale the columns of the output layer, and set its bias to 0."""
        layers, two, kv_heads, _, head_dim = self.shape
        self.output.bias.zero_()
        # Root mean square of the whole output as drawn.
        size = self.forward().square().mean().sqrt()
        per_column = scale.expand(layers, two, kv_heads, 1, head_dim).reshape(-1, 1)
        self.output.weight.mul_(per_column / size)

    @torch.no_grad()
    def fit(self, target: KeyValueTable) -> float:
        """Solve for the output layer by least squares; the rows and the hidden layer stay as drawn.

        The authors' low-data runs approximate the activations of words by gradient descent on the whole MLP. Least
        squares reproduce them exactly if the hidden layer is at least as wide as the prefix is long.
        """
        numbers = target.permute(3, 0, 1, 2, 4).flatten(1).double().cpu()  # (prefix, layers * 2 * kv_heads * head_dim)
        hidden = torch.tanh(self.hidden(self.rows)).double().cpu()
        bias = numbers.mean(dim=0)
        weight = torch.linalg.lstsq(hidden, numbers - bias, driver="gelsd").solution
        self.output.bias.copy_(bias)
        self.output.weight.copy_(weight.T)
        return self._relative_error(target)


class LinearTable(PrefixTable):
    """`reparam: linear`. P_K = P' W_K and P_V = P' W_V in each layer; P' is (prefix_length, e), W are (e, kv_width).

    It has e (L + 2 kv_width) parameters per layer, L the prefix length: fewer than `none` only if
    e < 2 L kv_width / (L + 2 kv_width).

    Args:
        geometry: As in `PrefixTable`.
        prefix_length: As in `PrefixTable`.
        embedding_size: e, the width of P'.
        num_parts: As in `PrefixTable`.
    """

    def __init__(self, geometry: SiteGeometry, prefix_length: int, embedding_size: int, num_parts: int = 2) -> None:
        super().__init__(geometry, prefix_length, num_parts)
        self.rows = nn.Parameter(torch.randn(geometry.num_layers, prefix_length, embedding_size))
        # The products have unit variance, so that `match` can scale them like a plain table.
        scale = embedding_size**-0.5
        self.columns = nn.Parameter(
            torch.randn(geometry.num_layers, num_parts, embedding_size, geometry.kv_width) * scale
        )

    def forward(self) -> KeyValueTable:
        """P' W of every layer."""
        layers, two, kv_heads, prefix, head_dim = self.shape
        numbers = torch.einsum("lpe,ltew->ltpw", self.rows, self.columns)
        return numbers.reshape(layers, two, prefix, kv_heads, head_dim).transpose(2, 3)

    @torch.no_grad()
    def match(self, scale: Tensor) -> None:
        """Scale W_K and W_V."""
        self.columns.mul_(scale[:, :, 0])

    @torch.no_grad()
    def fit(self, target: KeyValueTable) -> float:
        """Set P' and W to the e largest singular components of each layer's table.

        If e is larger than the rank of a table, the remaining columns of P' are 0 and those of W stay as drawn, so that
        they can be trained.
        """
        layers, two, kv_heads, prefix, head_dim = self.shape
        numbers = (
            target.transpose(2, 3).permute(0, 2, 1, 3, 4).flatten(2).double().cpu()
        )  # (layers, prefix, 2 kv_width)
        left, sizes, right = torch.linalg.svd(numbers, full_matrices=False)
        rank = min(self.rows.shape[2], sizes.shape[1])
        unit = prefix**0.5  # the rows of P' have about unit size, as when drawn
        self.rows.zero_()
        self.rows[:, :, :rank] = (left[:, :, :rank] * unit).to(self.rows)
        columns = (sizes[:, :rank, None] * right[:, :rank] / unit).view(layers, rank, two, kv_heads * head_dim)
        self.columns[:, :, :rank] = columns.transpose(1, 2).to(self.columns)
        return self._relative_error(target)


class EmbeddingTable(PrefixTable):
    """`reparam: embedding`. The keys and values of trained embeddings in the frozen layers.

    The "embedding-only" ablation of Li & Liang (2021), section 7.2: one trainable vector per position, in place of a
    token's embedding, and none in the layers above. In a causal backbone no text reaches the prefix, so its keys and
    values are computed once per step by a forward pass over the prefix alone.

    Args:
        geometry: As in `PrefixTable`.
        prefix_length: As in `PrefixTable`.
        backbone: The backbone whose layers compute the keys and values.
    """

    def __init__(self, geometry: SiteGeometry, prefix_length: int, backbone: Backbone) -> None:
        super().__init__(geometry, prefix_length)
        self.backbone = backbone
        words = backbone.embed(torch.arange(backbone.config.vocab_size))
        size = torch.ones(()) if backbone.is_shape_only else words.float().std()
        self.rows = nn.Parameter(torch.randn(prefix_length, words.shape[1]) * size)

    def forward(self) -> KeyValueTable:
        """A forward pass of the backbone over the prefix."""
        return keys_values_of_embeddings(self.backbone, self.rows)

    def match(self, scale: Tensor) -> None:
        """Nothing to scale: the rows are drawn with the standard deviation of the token embeddings."""

    @torch.no_grad()
    def start_from(self, ids: Sequence[int]) -> None:
        """Set the rows to the embeddings of tokens."""
        self.rows.copy_(self.backbone.embed(torch.tensor(list(ids))))

    def fit(self, target: KeyValueTable) -> float:
        """Refused: embeddings cannot represent arbitrary keys and values.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            "`method.init` must be random or a text with `method.reparam=embedding`, but keys and values were given."
        )
