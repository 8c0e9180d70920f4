from ptl_prefix.tracking.wandb_config import flat_config

CONFIG = {
    "seed": 3,
    "run_id": "r",
    "resume": None,
    "method": {"_target_": "x.Y", "name": "prefix_tuning", "prefix_length": 5, "parts": {"a": {"rank": 2}}},
    "task": {"_target_": "x.Z", "name": "e2e_nlg", "num_train": 7},
    "tracking": {"_target_": "x.T", "project": "p"},
}


def test_groups_are_named_and_the_methods_settings_stand_by_themselves() -> None:
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
