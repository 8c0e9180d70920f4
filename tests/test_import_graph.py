"""Which room may import which library, and how deep `commands/` is. `lint-imports` checks the floors."""

import pytest
from support.import_graph import edges, imports, levels, modules, reached

ANYWHERE = {"annotated_types", "jaxtyping", "numpy", "pydantic", "yaml"}
"""Libraries that any room may import: arrays, types and their checks, YAML."""

LIBRARIES = {
    "IPython": {"training.notebook_output"},
    "absl": {"evaluation"},
    "bitsandbytes": {"backbones"},
    "click": {"commands"},
    "datasets": {"data"},
    "fsspec": {"artifacts.remote.object_store"},
    "gguf": {"backbones"},
    "httpx2": {"serving.vllm_engine"},
    "huggingface_hub": {"artifacts.hub"},
    "hydra": {"commands", "_plugins"},
    "jinja2": {"reporting"},
    "lightning_fabric": {"training"},
    "markupsafe": {"reporting"},
    "matplotlib": {"reporting"},
    "omegaconf": {"commands", "_plugins"},
    "optuna": {"sweeping"},
    "peft": {"methods"},
    "plotly": {"reporting.page"},
    "prometheus_client": {"serving.metrics"},
    "psutil": {"sweeping.liveness"},
    "pyarrow": {"data"},
    "pycocoevalcap": {"evaluation"},
    "pydantic_core": {"serving.api"},
    "pytorch_lightning": {"training"},
    "ray": {"sweeping.ray_executor"},
    "rich": {"commands", "training"},
    "rouge_score": {"evaluation.rouge_score_metric"},
    "sacrebleu": {"evaluation"},
    "safetensors": {"artifacts", "backbones", "serving.vllm_bundles"},
    "scipy": {"reporting.statistics"},
    "sklearn": {"artifacts.ngram_counts"},
    "sqlalchemy": {"sweeping.storage"},
    "starlette": {"serving.server"},
    "tensorboardX": {"tracking.tensorboard_sink"},
    "text_unidecode": {"evaluation.webnlg_text"},
    "torch": {
        "artifacts",
        "backbones",
        "commands",
        "data",
        "distillation",
        "evaluation",
        "methods",
        "serving",
        "training",
    },
    "torchao": {"backbones"},
    "transformers": {"backbones"},
    "uvicorn": {"serving.http_connection", "serving.http_process"},
    "vllm": {"serving.vllm_bundles", "serving.vllm_connector"},
    "wandb": {"tracking.wandb_sink"},
    "wandb_workspaces": {"tracking.dashboard"},
}
"""Rooms, or single modules, that may import a library. A library that is new to the package gets a line."""

MOST_LEVELS = 8
"""Modules on the longest chain of imports inside `commands/`."""

HEAVY = {"torch", "transformers", "peft", "pytorch_lightning", "datasets", "jinja2", "matplotlib", "plotly", "scipy"}


def test_every_library_is_imported_by_its_rooms_only() -> None:
    def is_allowed(importer: str, library: str) -> bool:
        places = {f"ptl_prefix.{place}" for place in LIBRARIES.get(library, ())}
        return any(importer == place or importer.startswith(f"{place}.") for place in places)

    found = {(one.importer, one.library) for one in imports() if one.library not in {None, *ANYWHERE}}

    assert sorted((importer, library) for importer, library in found if not is_allowed(importer, str(library))) == []


def test_the_table_names_rooms_that_exist() -> None:
    places = {place for places in LIBRARIES.values() for place in places}

    assert sorted(place for place in places if f"ptl_prefix.{place}" not in modules() and place != "_plugins") == []


@pytest.mark.parametrize("module", ["ptl_prefix", "ptl_prefix.__main__", "ptl_prefix.errors", "ptl_prefix.settings"])
def test_what_answers_help_imports_nothing_heavy(module: str) -> None:
    assert HEAVY & reached(module) == set()


def test_what_starts_a_study_imports_nothing_heavy() -> None:
    assert HEAVY & reached("ptl_prefix.commands.sweep.command") == set()


def test_an_ordinary_training_imports_no_library_of_a_special_input() -> None:
    assert {"datasets", "gguf", "optuna", "peft"} & reached("ptl_prefix.commands.train.command") == set()


def test_the_reach_of_a_heavy_module_is_seen() -> None:
    assert {"torch", "pytorch_lightning", "transformers"} <= reached("ptl_prefix.training.module")


def test_no_verb_imports_the_internals_of_another() -> None:
    verbs = {
        name.split(".")[2] for name in modules() if name.startswith("ptl_prefix.commands.") and name.count(".") > 2
    }
    crossing = [
        (one.importer, one.name)
        for one in imports()
        for importer, imported in [(one.importer.split(".")[2:3], one.name.split(".")[2:3])]
        if one.importer.startswith("ptl_prefix.commands.") and one.name.startswith("ptl_prefix.commands.")
        if importer != imported and imported != ["config"] and {*importer, *imported} <= verbs
    ]

    assert sorted(crossing) == []


def test_config_imports_no_verb() -> None:
    graph = edges("ptl_prefix.commands", lazy=True)
    config = {name for name in graph if name.startswith("ptl_prefix.commands.config")}

    assert {other for name in config for other in graph[name]} <= config


def test_commands_has_few_levels() -> None:
    assert levels(edges("ptl_prefix.commands")) <= MOST_LEVELS
