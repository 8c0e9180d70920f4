from ptl_prefix.tracking.wandb_config import config_updates, flat_config

CONFIG = {
    "seed": 3,
    "run_id": "r",
    "resume": None,
    "method": {"_target_": "x.Y", "name": "prefix_tuning", "prefix_length": 5, "parts": {"a": {"rank": 2}}},
    "task": {"_target_": "x.Z", "name": "e2e_nlg", "num_train": 7},
    "tracking": {"_target_": "x.T", "project": "p"},
}


def test_groups_have_names_and_the_methods_settings_have_bare_names() -> None:
    assert flat_config(CONFIG) == {
        "seed": 3,
        "run_id": "r",
        "method": "prefix_tuning",
        "task": "e2e_nlg",
        "prefix_length": 5,
        "parts/a/rank": 2,
        "method/name": "prefix_tuning",
        "method/prefix_length": 5,
        "method/parts/a/rank": 2,
        "task/name": "e2e_nlg",
        "task/num_train": 7,
    }


def test_a_setting_of_the_method_never_hides_a_name_of_the_runs() -> None:
    flat = flat_config({**CONFIG, "method": {"name": "m", "seed": 99, "task": "other"}})

    assert (flat["seed"], flat["task"], flat["method/seed"]) == (3, "e2e_nlg", 99)


def test_the_learning_rate_is_the_one_that_is_used() -> None:
    method = {"name": "m", "default_lr": 0.5}

    assert flat_config({"method": method, "optimizer": {"lr": None}})["learning_rate"] == 0.5
    assert flat_config({"method": method, "optimizer": {"lr": 0.25}})["learning_rate"] == 0.25


def test_events_at_the_start_of_a_run_update_the_config() -> None:
    environment = {"package_version": "1.2", "git": {"commit": "abc", "dirty": True}, "cpu": "Abacus"}

    assert config_updates("begun", {"task_version": "1", "environment": environment}) == {
        "package_version": "1.2",
        "git_commit": "abc",
        "git_dirty": True,
    }
    assert config_updates("begun", {"environment": {"package_version": "1.2", "git": None}}) == {
        "package_version": "1.2"
    }
    assert config_updates("encoded", {"split": "train", "num_pairs": 3}) == {"encoded/train/num_pairs": 3}
    assert config_updates("attached", {"parameters_stored": 5}) == {"parameters_stored": 5}
    assert config_updates("train", {"train/loss": 5.0}) == {}
