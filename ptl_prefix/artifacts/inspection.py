"""The result of an inspection of a trained prefix: `inspection.json`.

In: an `Inspection`. Out: the same, for tables and figures. It is written atomically, and reading refuses unknown keys
and wrong types. The file itself defines each of its numbers, under `definitions`.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Le
from pydantic import ConfigDict

from ptl_prefix.artifacts.document_file import DocumentFile
from ptl_prefix.artifacts.json_document import STRICT
from ptl_prefix.errors import BundleError

SCHEMA_VERSION = 1

Count = Annotated[int, Ge(0)]
Amount = Annotated[float, Ge(0)]
# Rounding can make a sum of weights slightly larger than 1.
Share = Annotated[float, Ge(0), Le(1 + 1e-4)]


@dataclass(frozen=True, kw_only=True)
class NearWord:
    """A word of the vocabulary, and its cosine: see `definitions.nearest`."""

    text: str
    token_id: Count
    cosine: float


@dataclass(frozen=True, kw_only=True)
class NearestWords:
    """The words nearest to each virtual token in one layer.

    Args:
        layer: Index of the layer.
        by_key: Words whose keys are nearest to the key of each virtual token, nearest first.
        by_value: Words whose values are nearest to the value of each virtual token, nearest first.
        chance_by_key: Chance level of `by_key`, see `definitions.chance`; a cosine below it carries no information.
        chance_by_value: Chance level of `by_value`.
    """

    layer: Count
    by_key: tuple[tuple[NearWord, ...], ...]
    by_value: tuple[tuple[NearWord, ...], ...]
    chance_by_key: float
    chance_by_value: float


@dataclass(frozen=True, kw_only=True)
class SiteInspection:
    """The numbers of one attention site.

    Args:
        layers: Indices of the layers with a prefix; each table below has a row for each.
        num_queries: Number of text positions that attend to the prefix.
        mass: Attention mass, layers x heads; see `definitions.mass`.
        even_mass: Attention mass of even attention, by layer; see `definitions.even_mass`.
        token_mass: Attention mass of each virtual token, layers x virtual tokens; see `definitions.token_mass`.
        key_norms: Relative norms of the keys, layers x virtual tokens; see `definitions.norms`.
        value_norms: Relative norms of the values, layers x virtual tokens; see `definitions.norms`.
        dead: Indices of the dead virtual tokens; see `definitions.dead`.
        nearest: Nearest words in some layers; empty where words cannot be compared at this site.
    """

    layers: tuple[Count, ...]
    num_queries: Count
    mass: tuple[tuple[Share, ...], ...]
    even_mass: tuple[Share, ...]
    token_mass: tuple[tuple[Share, ...], ...]
    key_norms: tuple[tuple[Amount, ...], ...]
    value_norms: tuple[tuple[Amount, ...], ...]
    dead: tuple[Count, ...]
    nearest: tuple[NearestWords, ...]

    @property
    def prefix_length(self) -> int:
        """Number of virtual tokens in each layer."""
        return len(self.token_mass[0])

    @property
    def peaks(self) -> list[tuple[float, int]]:
        """The greatest `token_mass` of each virtual token, and its layer."""
        return [max(zip(column, self.layers, strict=True)) for column in zip(*self.token_mass, strict=True)]


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """The inspection of one prefix.

    Args:
        schema_version: Version of this document's format.
        bundle: Folder of the bundle, as it was given.
        method: Name of the bundle's method.
        task: Name of the task that it was trained for.
        backbone: Name of the backbone.
        position_law: Start of the text positions: `shifted` by the prefix, or `unshifted`.
        texts: Origin of the texts, in words.
        num_texts: Number of texts.
        num_words: Number of vocabulary words that were compared.
        vocabulary_words: Number of words in the vocabulary.
        dead_below: Threshold of `definitions.dead`.
        sites: Numbers of each attention site with a prefix, by its name.
        definitions: Definitions of the numbers.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    schema_version: int = SCHEMA_VERSION
    bundle: str
    method: str
    task: str
    backbone: str
    position_law: str
    texts: str
    num_texts: Count
    num_words: Count
    vocabulary_words: Count
    dead_below: Amount
    sites: dict[str, SiteInspection]
    definitions: dict[str, str]


_FILE = DocumentFile(
    kind=Inspection,
    version=SCHEMA_VERSION,
    max_bytes=256 * 2**20,
    name="An inspection",
    error=BundleError,
    write_advice="check the bundle's tensors.",
    read_advice="inspect the bundle again.",
)
write_inspection, read_inspection = _FILE.write, _FILE.read
