import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.made_up_predictions import prediction, random_predictions
from support.tiny_encoder import write_tiny_encoder
from transformers import BertModel, PreTrainedTokenizerFast

from ptl_prefix.errors import BackboneError
from ptl_prefix.evaluation.metrics.bertscore import BERTScore
from ptl_prefix.evaluation.scoring import score


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random BERT and its tokenizer, one token a word."""
    return write_tiny_encoder(tmp_path_factory.mktemp("bert"))


def test_it_is_the_greedy_matching_of_the_paper(encoder: Path) -> None:
    one = prediction("the Eagle is cheap", "a cheap restaurant near the river")
    tokenizer, model = PreTrainedTokenizerFast.from_pretrained(encoder), BertModel.from_pretrained(encoder).eval()

    def states(text: str) -> list[torch.Tensor]:
        with torch.no_grad():
            hidden = model(torch.tensor([tokenizer(text)["input_ids"]])).last_hidden_state[0]
        return list(hidden[1:-1])

    ours, theirs = states(one.hypothesis), states(one.references[0])
    nearest = [max(float(torch.cosine_similarity(a, b, dim=0)) for b in theirs) for a in ours]
    covered = [max(float(torch.cosine_similarity(a, b, dim=0)) for a in ours) for b in theirs]
    precision, recall = sum(nearest) / len(nearest), sum(covered) / len(covered)

    assert BERTScore(str(encoder)).score([one]) == pytest.approx(
        2 * precision * recall / (precision + recall), rel=1e-5
    )


def test_what_is_the_same_gets_everything_and_nothing_gets_nothing(encoder: Path) -> None:
    metric = BERTScore(str(encoder))

    assert metric.values([prediction("a pub", "a pub"), prediction("", "a pub")]) == [pytest.approx(1), 0.0]


def test_the_best_reference_counts_and_a_row_does_not_depend_on_its_batch(encoder: Path) -> None:
    metric, some = BERTScore(str(encoder)), random_predictions(10)

    together = metric.values(some)

    assert together == pytest.approx([metric.values([one])[0] for one in some], abs=1e-5)
    each = [metric.values([prediction(some[0].hypothesis, text)])[0] for text in some[0].references]
    assert together[0] == pytest.approx(max(each), abs=1e-5)


def test_without_an_encoder_it_is_named_as_missing() -> None:
    assert "give bertscore_model=<folder>" in score(random_predictions(3), ["bertscore"]).unavailable["bertscore"]


def test_a_folder_without_an_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="An encoder must be a folder with a model and its tokenizer"):
        BERTScore(str(tmp_path)).score(random_predictions(3))


def leave_a_pointer(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\nsize 12345\n")


def leave_a_layer_out(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith("encoder.layer.1.")}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def remove_the_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


@pytest.mark.parametrize(
    ("damage", "fact"),
    [
        (leave_a_pointer, "is a Git LFS pointer"),
        (leave_a_layer_out, "lacks 16 weights"),
        (remove_the_tokenizer, "tokenizer"),
    ],
)
def test_an_encoder_that_would_compute_nonsense_is_refused(
    encoder: Path, tmp_path: Path, damage: Callable[[Path], None], fact: str
) -> None:
    copy = Path(shutil.copytree(encoder, tmp_path / "copy"))
    damage(copy)

    with pytest.raises(BackboneError, match=fact):
        BERTScore(str(copy)).score(random_predictions(3))
