"""BERTScore: similarity of tokens in the representation of an encoder. Needs a local encoder.

Zhang et al., ICLR 2020: each token is matched with the token of the greatest cosine; the mean over the hypothesis'
tokens is precision, the mean over the reference's tokens recall. There is no idf weighting and no rescaling; of several
references, the best F-measure counts. The layer is the one that the authors' package uses for an encoder of that family
and depth, else the last one. It is implemented here because that package needs a tokenizer interface that transformers
no longer has.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ptl_prefix.artifacts.predictions import Prediction
from ptl_prefix.artifacts.run_record import MetricInfo
from ptl_prefix.evaluation.metric import MeanMetric, library

_LAYERS = {
    ("bert", 12): 9,
    ("bert", 24): 18,
    ("roberta", 12): 10,
    ("roberta", 24): 17,
    ("distilbert", 6): 5,
    ("xlm-roberta", 12): 9,
    ("xlm-roberta", 24): 17,
}


class BERTScore(MeanMetric):
    """The mean F-measure.

    Args:
        model: Folder of the encoder; `None`: the metric is skipped.
    """

    info = MetricInfo(scale="0-1", direction="maximize", version="1", library=f"ptl_prefix, {library('transformers')}")

    def __init__(self, model: str | None = None) -> None:
        self._folder = model

    @property
    def unavailable_reason(self) -> str | None:
        """The reason why BERTScore cannot be computed: no encoder."""
        if self._folder is None:
            return "it needs an encoder, but none is configured; give bertscore_model=<folder>."
        return None

    def values(self, predictions: Sequence[Prediction]) -> list[float]:
        """The F-measure of each prediction with its best reference."""
        assert self._folder is not None, "`unavailable_reason` is checked first."
        # Imported here: the other metrics need no torch.
        from ptl_prefix.backbones.encoder import Encoder

        encoder = Encoder(Path(self._folder))
        layer = _LAYERS.get((encoder.config.model_type, encoder.num_layers), encoder.num_layers)
        texts = list(dict.fromkeys(text for one in predictions for text in (one.hypothesis, *one.references)))
        states = dict(zip(texts, encoder.states(texts, layer=layer), strict=True))
        measure = functools.partial(_f_measure, states)
        return [max(measure(one.hypothesis, reference) for reference in one.references) for one in predictions]


def _f_measure(states: dict[str, Any], hypothesis: str, reference: str) -> float:
    ours, theirs = states[hypothesis], states[reference]
    if not len(ours) or not len(theirs):
        return 0.0
    cosines = (ours / ours.norm(dim=1, keepdim=True)) @ (theirs / theirs.norm(dim=1, keepdim=True)).T
    precision, recall = float(cosines.amax(dim=1).mean()), float(cosines.amax(dim=0).mean())
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0
