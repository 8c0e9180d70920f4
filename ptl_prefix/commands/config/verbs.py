"""The verbs that read a config: what each is for, and the settings that belong to the verb itself.

In: nothing. Out: `VERBS`, read by the command line, its help, its completion and the check of a composed config. The
groups of a verb's config are listed in `conf/<verb>.yaml`; what remains at that file's root is its settings, a
dataclass. The body of a verb is `ptl_prefix/commands/<verb>/command.py`, imported when it runs: this file costs
nothing.
"""

from ptl_prefix.commands.config.report_settings import CompareSettings, RunsSettings, SweepActionSettings
from ptl_prefix.commands.config.verb import Verb
from ptl_prefix.commands.config.verb_settings import (
    EvaluateSettings,
    ExportSettings,
    GenerateSettings,
    InspectSettings,
    ScoreSettings,
    TrainSettings,
    WandbSettings,
)

VERBS = {
    verb.name: verb
    for verb in (
        Verb(
            name="train",
            summary="Train a method on a frozen backbone and evaluate it.",
            settings=TrainSettings,
            folder_key="resume",
            beside_folder=("trainer.devices",),
            study_module="ptl_prefix.commands.sweep.multirun",
            examples=(
                ("ptl-prefix train", "the embedded backbone on the built-in task"),
                ("ptl-prefix train dry_run=true", "the resolved config, parameters, steps and memory; trains nothing"),
                ("ptl-prefix train method.prefix_length=20 trainer.max_steps=1000", "settings of two groups"),
                ("ptl-prefix train backbone=local backbone.path=models/mine", "a backbone from a folder"),
                ("ptl-prefix train -m optimizer.lr=1e-3,3e-3 seed=0,1,2", "six runs, one after another"),
                ("ptl-prefix train experiment=e2e_gpt2_medium_prefix", "a published run, see ptl-prefix experiments"),
                ("ptl-prefix train resume=<run folder>", "go on with a run that was stopped"),
                (
                    "ptl-prefix train trainer=ddp trainer.devices=4",
                    "on four GPUs; ddp_cpu: four processes",
                ),
                ("ptl-prefix train --cfg job", "print the composed config and stop"),
            ),
        ),
        Verb(
            name="generate",
            summary="Write text with a bundle.",
            settings=GenerateSettings,
            arguments="[BUNDLE] [SOURCE]...",
            examples=(("ptl-prefix generate <run folder>/bundle 'name : The Eagle'", "text for one source"),),
        ),
        Verb(
            name="evaluate",
            summary="Decode a split and score it, by the measures that its papers use.",
            settings=EvaluateSettings,
            examples=(
                ("ptl-prefix evaluate run=<run folder>", "the test split, decoded as the run was configured"),
                ("ptl-prefix evaluate run=<run folder> num_beams=5 resamples=1000", "by beams, with 95% intervals"),
                ("ptl-prefix evaluate bundle=<bundle> task=e2e_nlg task.data_dir=<folder>", "a bundle on a task"),
                ("ptl-prefix evaluate backbone=gpt2 task=table_to_text", "a bare backbone"),
            ),
        ),
        Verb(
            name="export",
            summary="Write a bundle from a run's checkpoint.",
            settings=ExportSettings,
            examples=(
                ("ptl-prefix export run=<run folder> checkpoint=last out=<folder>", "not the best, but the last"),
                ("ptl-prefix export run=<run folder> merge=true out=<folder>", "LoRA and IA3: a plain model instead"),
            ),
        ),
        Verb(
            name="inspect",
            summary="Show what a trained prefix does, as tables and a picture.",
            settings=InspectSettings,
            arguments="[SOURCE]...",
            examples=(
                ("ptl-prefix inspect bundle=<run folder>", "over sources of the run's validation split"),
                ("ptl-prefix inspect bundle=<run folder> 'name : The Eagle'", "over one source"),
                ("ptl-prefix inspect bundle=<bundle> input=sources.txt layer=3 top_k=10", "over those of a file"),
            ),
        ),
        Verb(
            name="score",
            summary="Measure a file of predictions, of any system's.",
            settings=ScoreSettings,
            arguments="FILE",
            examples=(
                ("ptl-prefix score predictions.jsonl", "the metrics of the E2E challenge, as a table"),
                ("ptl-prefix score predictions.jsonl metrics=[bleu,nist] format=json", "one object {metric: value}"),
                ("ptl-prefix score predictions.jsonl metrics=[rouge1,rouge2,rougeL] resamples=1000", "with intervals"),
            ),
        ),
        Verb(
            name="sweep",
            summary="Search settings: plan, run, watch and go on with a study.",
            settings=SweepActionSettings,
            arguments="ACTION STUDY",
            examples=(
                ("ptl-prefix sweep plan prefix_length", "what a question of sweeps/ will take, measured"),
                ("ptl-prefix sweep run prefix_length hydra.sweeper.n_trials=8", "ask it"),
                ("ptl-prefix sweep status prefix_length watch=true", "how far it is"),
                ("ptl-prefix sweep stop prefix_length now=true", "stop it, saved"),
                ("ptl-prefix sweep resume prefix_length", "go on with it, also after a crash"),
                (
                    "ptl-prefix sweep worker outputs/sweeps/prefix_length",
                    "join it, from any machine that sees the folder",
                ),
                ("ptl-prefix sweep export prefix_length slurm", "a job array of workers"),
            ),
        ),
        Verb(
            name="runs",
            summary="List runs, with what has become of them.",
            settings=RunsSettings,
            arguments="[FOLDER]...",
            examples=(
                ("ptl-prefix runs", "all runs in outputs/"),
                ("ptl-prefix runs status=died", "those that ended without a record; resume= goes on with them"),
                (
                    "ptl-prefix runs task_name=e2e_nlg sort=metric format=json",
                    "those of a task, the best first, as JSON",
                ),
            ),
        ),
        Verb(
            name="compare",
            summary="Compare runs over seeds, as tables and one page.",
            settings=CompareSettings,
            arguments="RUN...",
            examples=(
                ("ptl-prefix compare outputs/e2e_nlg", "every finished run below a folder"),
                ("ptl-prefix compare 'outputs/*/gpt2_medium/lora/*' outputs/e2e_nlg/gpt2_medium/prefix_tuning", "some"),
                ("ptl-prefix compare outputs metric=test/bleu out=comparisons/e2e", "by BLEU, into a folder"),
            ),
        ),
        Verb(
            name="wandb",
            summary="Send to W&B what was tracked offline, or build its dashboard.",
            settings=WandbSettings,
            arguments="sync|dashboard [FOLDER]...",
            examples=(
                ("ptl-prefix wandb sync", "what of outputs/ W&B does not have; sends nothing"),
                ("ptl-prefix wandb sync <run folder> yes=true", "send one run, also one that was not tracked"),
                ("ptl-prefix wandb dashboard", "a workspace that compares methods; pushed if a server answers"),
            ),
        ),
    )
}
