from support.no_task import NoTask

from ptl_prefix.commands.sweep.objective import objective_problems


class Tested(NoTask):
    metrics = ("bleu",)


def test_the_metric_that_chooses_each_trials_checkpoint_can_be_searched() -> None:
    task = Tested()

    assert objective_problems("val/bleu", None, task, select_by="val/bleu", prunes=False) == []
    assert objective_problems("val/bleu", "maximize", task, select_by="val/bleu", prunes=False) == []
    assert len(objective_problems("val/bleu", "minimize", task, select_by="val/bleu", prunes=False)) == 1
    assert len(objective_problems("val/bleu", None, task, select_by="val/loss", prunes=False)) == 1
    (problem,) = objective_problems("val/bleu", None, task, select_by="val/bleu", prunes=True)
    assert "must be val/loss with a pruner" in problem
