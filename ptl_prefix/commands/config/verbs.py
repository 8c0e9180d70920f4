"""The verbs of the command line, with their help and settings.

In: nothing. Out: `VERBS`, which the command line, its help, its completion and the config check read. The groups of a
verb's config are in the defaults list of `conf/<verb>.yaml`; the other keys at the root of that file are the settings
of the verb, described by a dataclass. This file imports nothing heavy.
"""

from ptl_prefix.commands.config.bundle_settings import ExportSettings, ImportSettings, PushSettings
from ptl_prefix.commands.config.distill_settings import DistillSettings
from ptl_prefix.commands.config.examine_settings import ExamineSettings
from ptl_prefix.commands.config.join_settings import JoinSettings
from ptl_prefix.commands.config.mirror_settings import MirrorSettings
from ptl_prefix.commands.config.report_settings import (
    AdviseSettings,
    CompareSettings,
    RunsSettings,
    SweepActionSettings,
)
from ptl_prefix.commands.config.route_settings import RouteSettings
from ptl_prefix.commands.config.serve_settings import ServeSettings
from ptl_prefix.commands.config.verb import Verb
from ptl_prefix.commands.config.verb_settings import (
    EvaluateSettings,
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
            beside_folder=("resume_anyway", "trainer.devices", "trainer.max_steps"),
            study_module="ptl_prefix.commands.sweep.multirun",
            examples=(
                ("ptl-prefix train", "train on the embedded backbone and the built-in task"),
                ("ptl-prefix train dry_run=true", "print the config, parameters, steps and memory; train nothing"),
                ("ptl-prefix train method.prefix_length=20 trainer.max_steps=1000", "change settings of two groups"),
                ("ptl-prefix train backbone=models/mine", "use a backbone from a folder, or by its hub name"),
                ("ptl-prefix train -m optimizer.lr=1e-3,3e-3 seed=0,1,2", "train six runs as a study"),
                (
                    "ptl-prefix train experiment=e2e_gpt2_medium_prefix",
                    "reproduce a published run, see ptl-prefix experiments",
                ),
                ("ptl-prefix train resume=<run folder>", "resume a run that was stopped or killed"),
                ("ptl-prefix train outputs_url=s3://<bucket>/<path>", "mirror the run in an object store"),
                ("ptl-prefix train trainer=ddp trainer.devices=4", "train on four GPUs; ddp_cpu: in four processes"),
                ("ptl-prefix train --cfg job", "print the composed config and stop"),
            ),
        ),
        Verb(
            name="distill",
            summary="Train a prefix of a document, which answers questions on it.",
            settings=DistillSettings,
            folder_key="resume",
            examples=(
                ("ptl-prefix distill document=manual.txt backbone=smollm2", "self-study, training and the bundle"),
                (
                    "ptl-prefix distill document=manual.txt questions=questions.jsonl method.prefix_length=64",
                    "also ask questions, of the prefix and its controls",
                ),
                (
                    "ptl-prefix distill document=manual_2.txt update=<run folder>",
                    "a changed document: train the older prefix further",
                ),
                ("ptl-prefix distill document=manual.txt dry_run=true", "print what would be done; do nothing"),
                ("ptl-prefix distill resume=<run folder>", "resume a training that was stopped or killed"),
            ),
        ),
        Verb(
            name="generate",
            summary="Generate text with a bundle.",
            settings=GenerateSettings,
            arguments="[BUNDLE] [SOURCE]...",
            examples=(
                ("ptl-prefix generate <run folder>/bundle 'name : The Eagle'", "generate a text for one source"),
                (
                    "ptl-prefix generate <bundle> 'name : The Eagle' backbone=models/mine",
                    "with its backbone in another folder",
                ),
                ("ptl-prefix generate hub:<user>/<name> 'name : The Eagle'", "with a bundle on the Hugging Face hub"),
            ),
        ),
        Verb(
            name="serve",
            summary="Answer for many bundles over HTTP, with one backbone in memory.",
            settings=ServeSettings,
            examples=(
                ("ptl-prefix serve bundles=outputs/served", "serve every bundle of a folder to this machine"),
                (
                    "ptl-prefix serve bundles=<folder> backbone=models/mine api_keys_file=keys.txt host=0.0.0.0",
                    "serve other machines, to those who have a key",
                ),
            ),
        ),
        Verb(
            name="evaluate",
            summary="Decode a split and score it with the metrics of its papers.",
            settings=EvaluateSettings,
            examples=(
                ("ptl-prefix evaluate run=<run folder>", "evaluate the test split, decoded as the run was configured"),
                (
                    "ptl-prefix evaluate run=<run folder> num_beams=5 resamples=1000",
                    "with beam search and 95% intervals",
                ),
                (
                    "ptl-prefix evaluate bundle=<bundle> task=e2e_nlg task.data_dir=<folder>",
                    "evaluate a bundle on a task",
                ),
                ("ptl-prefix evaluate backbone=gpt2 task=table_to_text", "evaluate a bare backbone"),
            ),
        ),
        Verb(
            name="examine",
            summary="Ask questions about a document, of bundles and of their controls.",
            settings=ExamineSettings,
            arguments="[BUNDLE]...",
            examples=(
                (
                    "ptl-prefix examine <run folder> document=manual.txt questions=questions.jsonl",
                    "beside no context, parts of the document, attention matching and the whole document",
                ),
                (
                    "ptl-prefix examine prefix_64 prefix_256 document=manual.txt questions=questions.jsonl",
                    "two lengths of a prefix: the figure shows quality against memory",
                ),
                (
                    "ptl-prefix examine backbone=smollm2 document=manual.txt questions=questions.jsonl cost_rounds=5",
                    "the controls alone, with their times",
                ),
            ),
        ),
        Verb(
            name="export",
            summary="Export a bundle from a checkpoint of a run.",
            settings=ExportSettings,
            examples=(
                (
                    "ptl-prefix export run=<run folder> checkpoint=last out=<folder>",
                    "export the last checkpoint, not the best",
                ),
                ("ptl-prefix export run=<run folder> format=peft out=<folder>", "export an adapter for PEFT"),
                ("ptl-prefix export run=<run folder> merge=true out=<folder>", "export a merged model; LoRA and IA3"),
            ),
        ),
        Verb(
            name="import",
            summary="Make a bundle of an adapter that PEFT trained.",
            settings=ImportSettings,
            examples=(
                (
                    "ptl-prefix import peft=<folder> backbone=models/mine out=<folder>",
                    "import a prefix, prompt, LoRA or IA3",
                ),
            ),
        ),
        Verb(
            name="join",
            summary="Join two prefixes, if the result is not worse on either task.",
            settings=JoinSettings,
            arguments="BUNDLE BUNDLE",
            examples=(
                ("ptl-prefix join <run folder> <run folder> out=<folder>", "join the prefixes of two runs"),
                (
                    "ptl-prefix join <bundle> <run folder> first_run=<run folder> out=<folder>",
                    "name the run of a bundle that is outside of it",
                ),
                ("ptl-prefix join <run folder> <run folder> metrics=true out=<folder>", "decode and score, too"),
            ),
        ),
        Verb(
            name="push",
            summary="Upload a bundle to the Hugging Face hub.",
            settings=PushSettings,
            examples=(
                ("ptl-prefix push bundle=<run folder> repo=<user>/<name>", "upload a run's bundle with its model card"),
                (
                    "ptl-prefix push bundle=<bundle> repo=<user>/<name> private=true",
                    "to a private one",
                ),
            ),
        ),
        Verb(
            name="inspect",
            summary="Show what a trained prefix does, in tables and a figure.",
            settings=InspectSettings,
            arguments="[SOURCE]...",
            examples=(
                ("ptl-prefix inspect bundle=<run folder>", "inspect over sources of the validation split"),
                ("ptl-prefix inspect bundle=<run folder> 'name : The Eagle'", "inspect over one source"),
                (
                    "ptl-prefix inspect bundle=<bundle> input=sources.txt layer=3 top_k=10",
                    "inspect over the sources of a file",
                ),
            ),
        ),
        Verb(
            name="route",
            summary="Measure how well texts are routed to the tasks of a server.",
            settings=RouteSettings,
            arguments="evaluate",
            examples=(
                (
                    "ptl-prefix route evaluate bundles=<folder> foreign=<text file>",
                    "route test inputs of each run in the folder, and foreign texts",
                ),
                (
                    "ptl-prefix route evaluate bundles=<folder> routers=[ngrams,hidden_states] regret_examples=50",
                    "compare both routers, and measure what wrong choices cost",
                ),
            ),
        ),
        Verb(
            name="score",
            summary="Score a file of predictions, of any system.",
            settings=ScoreSettings,
            arguments="FILE",
            examples=(
                ("ptl-prefix score predictions.jsonl", "print the metrics of the E2E challenge as a table"),
                (
                    "ptl-prefix score predictions.jsonl metrics=[bleu,nist] format=json",
                    "print one JSON object, {metric: value}",
                ),
                (
                    "ptl-prefix score predictions.jsonl metrics=[rouge1,rouge2,rougeL] resamples=1000",
                    "with 95% intervals",
                ),
            ),
        ),
        Verb(
            name="sweep",
            summary="Search hyper-parameters: estimate, run, watch and resume a study.",
            settings=SweepActionSettings,
            arguments="ACTION STUDY",
            examples=(
                ("ptl-prefix sweep plan prefix_length", "estimate the cost of a predefined study"),
                ("ptl-prefix sweep run prefix_length hydra.sweeper.n_trials=8", "run it with 8 trials"),
                ("ptl-prefix sweep status prefix_length watch=true", "show its progress until no trial runs"),
                ("ptl-prefix sweep stop prefix_length now=true", "save its running trials and stop"),
                ("ptl-prefix sweep resume prefix_length", "resume it, also after a crash"),
                (
                    "ptl-prefix sweep worker outputs/sweeps/prefix_length",
                    "run trials of it, on any machine that shares the folder",
                ),
                ("ptl-prefix sweep export prefix_length slurm", "write a Slurm job array of workers"),
                (
                    "ptl-prefix sweep export prefix_length kubernetes kubernetes_image=image:1 kubernetes_claim=data",
                    "write a Kubernetes Job of workers",
                ),
            ),
        ),
        Verb(
            name="runs",
            summary="List runs with their status.",
            settings=RunsSettings,
            arguments="[FOLDER]...",
            examples=(
                ("ptl-prefix runs", "list all runs in outputs/"),
                ("ptl-prefix runs status=died", "list killed runs; resume= resumes them"),
                (
                    "ptl-prefix runs task_name=e2e_nlg sort=metric format=json",
                    "list the runs of a task as JSON, the best first",
                ),
            ),
        ),
        Verb(
            name="mirror",
            summary="Mirror run folders in an object store, or fetch them.",
            settings=MirrorSettings,
            arguments="RUN...",
            examples=(
                ("ptl-prefix mirror <run folder>", "upload again what the mirror of a run does not have"),
                ("ptl-prefix mirror outputs/e2e_nlg outputs_url=s3://<bucket>/<path>", "mirror runs that have none"),
                ("ptl-prefix mirror s3://<bucket>/<path> out=<folder>", "fetch a mirrored run with its checkpoints"),
                ("ptl-prefix mirror s3://<bucket>/<path> clean=true", "remove what killed uploads left"),
            ),
        ),
        Verb(
            name="compare",
            summary="Compare runs over seeds, in tables and a web page.",
            settings=CompareSettings,
            arguments="RUN...",
            examples=(
                ("ptl-prefix compare outputs/e2e_nlg", "compare every finished run below a folder"),
                (
                    "ptl-prefix compare 'outputs/*/gpt2_medium/lora/*' outputs/e2e_nlg/gpt2_medium/prefix_tuning",
                    "compare two methods",
                ),
                ("ptl-prefix compare outputs metric=test/bleu out=comparisons/e2e", "order by BLEU, write to a folder"),
            ),
        ),
        Verb(
            name="advise",
            summary="Say which method a comparison supports, and when not a prefix.",
            settings=AdviseSettings,
            arguments="[COMPARISON]...",
            examples=(
                ("ptl-prefix advise outputs/comparisons/e2e", "write advice.md beside a comparison"),
                (
                    "ptl-prefix advise outputs/comparisons/e2e max_stored_parameters=100_000 metric=test/bleu",
                    "consider only what stores at most 100,000 parameters",
                ),
                ("ptl-prefix advise comparisons/small comparisons/large", "with a larger backbone's comparison"),
            ),
        ),
        Verb(
            name="wandb",
            summary="Send offline runs to W&B, or build its dashboard.",
            settings=WandbSettings,
            arguments="sync|dashboard [FOLDER]...",
            examples=(
                ("ptl-prefix wandb sync", "list the runs in outputs/ that W&B does not have; send nothing"),
                ("ptl-prefix wandb sync <run folder> yes=true", "send one run, even if it was not tracked"),
                ("ptl-prefix wandb dashboard", "build a workspace that compares methods"),
            ),
        ),
    )
}
