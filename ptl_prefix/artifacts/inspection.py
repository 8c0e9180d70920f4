"""What was found when a trained prefix was looked at: `inspection.json`.

In: an `Inspection`. Out: the same, for tables and pictures. Written by an atomic rename, and refused on reading unless
every key is known and of its type. Each number's meaning is stated in the file itself, under `definitions`.
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
# A sum of weights may miss 1 by its rounding.
Share = Annotated[float, Ge(0), Le(1 + 1e-4)]


@dataclass(frozen=True, kw_only=True)
class NearWord:
    """A word of the vocabulary, and how near it is: see `definitions.nearest`."""

    text: str
    token_id: Count
    cosine: float


@dataclass(frozen=True, kw_only=True)
class NearestWords:
    """The words nearest to each virtual token in one layer.

    Args:
        layer: Its index.
        by_key: For each virtual token the words whose keys are nearest to its key, best first.
        by_value: For each virtual token the words whose values are nearest to its value, best first.
        chance_by_key: See `definitions.chance`: a cosine that is not above it says nothing.
        chance_by_value: The same for values.
    """

    layer: Count
    by_key: tuple[tuple[NearWord, ...], ...]
    by_value: tuple[tuple[NearWord, ...], ...]
    chance_by_key: float
    chance_by_value: float


@dataclass(frozen=True, kw_only=True)
class SiteInspection:
    """One attention site.

    Args:
        layers: Indices of the layers that have a prefix; the tables below have a row for each.
        num_queries: Positions of the texts whose attention was measured: those that see the prefix.
        mass: Layers x heads; see `definitions.mass`.
        even_mass: For each layer; see `definitions.even_mass`.
        token_mass: Layers x virtual tokens; see `definitions.token_mass`.
        key_norms: Layers x virtual tokens; see `definitions.norms`.
        value_norms: Layers x virtual tokens; see `definitions.norms`.
        dead: Indices of the dead virtual tokens; see `definitions.dead`.
        nearest: The nearest words, in some layers; empty where words cannot be compared at this site.
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
        """Virtual tokens in each layer."""
        return len(self.token_mass[0])

    @property
    def peaks(self) -> list[tuple[float, int]]:
        """For each virtual token its greatest `token_mass`, and the layer where it is."""
        return [max(zip(column, self.layers, strict=True)) for column in zip(*self.token_mass, strict=True)]


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """One prefix, looked at.

    Args:
        schema_version: Version of this file format.
        bundle: The bundle's folder, as it was given.
        method: The bundle's method.
        task: The task it was trained for.
        backbone: The backbone's name.
        position_law: Where the text's positions start.
        texts: Where the texts came from, in words.
        num_texts: How many there were.
        num_words: Words of the vocabulary that were compared.
        vocabulary_words: Words that the vocabulary has.
        dead_below: The threshold of `definitions.dead`.
        sites: By name, those that have a prefix.
        definitions: What the numbers mean.
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
    when_unfit="look at the bundle's tensors.",
    when_unread="inspect the bundle again.",
)
write_inspection, read_inspection = _FILE.write, _FILE.read
