import re
import subprocess
import sys
from pathlib import Path

import pytest

from ptl_prefix import settings
from ptl_prefix.commands.config import catalog, validate
from ptl_prefix.commands.config.arguments import HydraFlags
from ptl_prefix.commands.config.compose import check_overrides, compose_and_check
from ptl_prefix.commands.config.instantiate import import_target
from ptl_prefix.commands.config.verb import Verb
from ptl_prefix.errors import ConfigError

SWEEP = HydraFlags((("--multirun", None),))

pytestmark = pytest.mark.usefixtures("small_conf")


def mistakes(verb: Verb, *overrides: str, flags: HydraFlags | None = None) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        compose_and_check(verb, overrides, flags)
    return caught.value.mistakes


def mistake(verb: Verb, *overrides: str, flags: HydraFlags | None = None) -> str:
    (only,) = mistakes(verb, "backbone.path=b", *overrides, flags=flags)
    return only


def test_a_correct_config_becomes_plain_values_without_hydra(verb: Verb) -> None:
    checked = compose_and_check(verb, ["backbone.path=models/my base", "task.count=3"])

    assert set(checked.config) == {
        "seed",
        "run_id",
        "dry_run",
        "resume",
        "study",
        "trial",
        "task",
        "backbone",
        "decoding",
    }
    assert type(checked.config["task"]) is dict
    assert checked.config["task"]["count"] == 3
    assert checked.config["backbone"]["name"] == "my-base"


def test_a_check_builds_each_node_once(verb: Verb, monkeypatch: pytest.MonkeyPatch) -> None:
    target = import_target("ptl_prefix.stand_ins.Letters", "task")
    constructor, built = target.__init__, []

    def counted(self: object, *, name: str, count: int, data_dir: str | None) -> None:
        built.append(name)
        constructor(self, name=name, count=count, data_dir=data_dir)

    monkeypatch.setattr(target, "__init__", counted)

    compose_and_check(verb, ["backbone.path=b"])

    assert built == ["letters"]


def test_the_run_folder_is_named_by_task_backbone_and_run(verb: Verb) -> None:
    checked = compose_and_check(verb, ["backbone.path=b", "run_id=first"])

    assert checked.run_folder == Path("outputs/letters/b/small/first")
    assert compose_and_check(verb, ["backbone.path=b", "hydra.run.dir=here"]).run_folder == Path("here")


def test_every_mistake_is_named_in_one_attempt(verb: Verb) -> None:
    found = mistakes(
        verb,
        "tsk=x",
        "task.count=0",
        "task.data_dir=nowhere",
        "seed=-1",
        "dry_run=3",
        "backbone.pth=3",
        "decoding=grdy",
    )

    assert found == (
        "`decoding` must be one of greedy, but is 'grdy'; did you mean greedy?",
        "`tsk` is not a setting; did you mean task?",
        "`backbone.pth` is not a setting; did you mean backbone.path?",
        "`task.count` must be >= 1, but is 0.",
        "`seed` must be >= 0, but is -1.",
        "`dry_run` must be bool, but is 3.",
    )


@pytest.mark.parametrize(
    ("override", "law"),
    [
        ("task=null", "`task` must be one of digits, letters, but is null."),
        (
            "task=${oc.env:NOT_SET}",
            "`task` must be one of digits, letters, but is '${oc.env:NOT_SET}', which stands for none: where choices",
        ),
        ("task=${backbone.name}", "can be read; write the choice itself, such as task=digits."),
        ("hydra/launcher=${oc.env:NOT_SET}", "`hydra/launcher` must be the name of a choice, but is '${oc.env:NOT"),
        ("task.count=1,2", "`task.count` must have one value, but '1,2' is several; add -m"),
        ("task.name=(x", "the value of `task.name` must follow Hydra's grammar, but '(x' does not"),
        ("a b=c", "a setting must be key=value with a key such as optimizer.lr, but 'a b' is no key"),
        ("seed.x=1", "`seed.x` is not a setting"),
        (
            "zzz=1",
            "the settings are: backbone, decoding, dry_run, resume, run_id, seed, study, task, trial.",
        ),
        ("task.zzz=1", "`task.zzz` is not a setting; the settings of `task` are: count, data_dir, name."),
        (
            "+zzz=1",
            "the settings are: dry_run, outputs_url, resume, resume_anyway, routing, run_id, seed, study, trial.",
        ),
        ("+task.zzz=1", "`task.zzz` is not a setting of Letters"),
        ("task.name=a/b", "`task.name` must be a folder's name of the characters"),
        ("run_id=a b", "`run_id` must be a folder's name of the characters"),
        (
            "task.name=${nothing}",
            "`task.name` must be a value or point to one, but: Interpolation key 'nothing' not found.",
        ),
        ("task.name=forbidden", "`task`: `task.name` must not be 'forbidden'."),
        ("task.data_dir=nowhere", "`task.data_dir` must be a folder, but there is none at 'nowhere'."),
        ("task._target_=os.system", "`task._target_` must name a class of ptl_prefix"),
        ("hydra.run.dirr=x", "`hydra.run.dirr` is not a setting; did you mean hydra.run.dir"),
        ("hydra.run.dir=${nope}", "`hydra.run.dir` must be a path, but: Interpolation key 'nope' not found"),
        ("hydra.run.dir='x/a b'", "each new folder in `hydra.run.dir` must be a folder's name"),
        ("hydra.sweep.dir=x", "`hydra.sweep.dir` is not read without -m"),
        ("hydra/launcher=x", "`hydra/launcher=x` cannot be applied"),
        ("seed=4294967296", "`seed` must be <= 4294967295"),
    ],
)
def test_a_mistake_says_what_must_hold_what_was_found_and_what_to_do(verb: Verb, override: str, law: str) -> None:
    assert law in mistake(verb, override)


def test_a_misspelt_choice_is_answered_without_building_what_nobody_mentioned(
    verb: Verb, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[str] = []
    monkeypatch.setattr(
        validate, "import_target", lambda path, where: built.append(where) or import_target(path, where)
    )

    assert mistakes(verb, "task=lettres", "decoding.num_beams=0") == (
        "`task` must be one of digits, letters, but is 'lettres'; did you mean letters?",
        "`decoding.num_beams` must be >= 1, but is 0.",
    )
    assert built == ["decoding"]


def test_a_misspelt_setting_is_answered_without_importing_what_computes() -> None:
    typos = [
        ["methd=prefix"],
        ["method=prefx"],
        ["method.prefix_lenght=3"],
        ["optimizer.lrr=1"],
        ["task.subset_sed=3"],
        ["trainer.max_stpes=3"],
    ]
    code = (
        "import sys\n"
        "from ptl_prefix.commands.config.compose import compose_and_check\n"
        "from ptl_prefix.commands.config.verbs import VERBS\n"
        "from ptl_prefix.errors import ConfigError\n"
        f"for typo in {typos!r}:\n"
        "    try: compose_and_check(VERBS['train'], typo)\n"
        "    except ConfigError as error: print(*error.mistakes)\n"
        "heavy = {'torch', 'transformers', 'pytorch_lightning', 'pandas', 'datasets', 'optuna'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=180, check=False)

    assert done.returncode == 0, done.stderr
    assert done.stdout.count("did you mean") == len(typos) == len(done.stdout.splitlines()), done.stdout


def test_a_missing_value_is_one_mistake_however_many_point_to_it(verb: Verb) -> None:
    assert mistakes(verb) == ("`backbone.path` must be given.",)


def test_settings_of_a_choice_that_does_not_exist_are_not_checked(verb: Verb) -> None:
    assert mistake(verb, "task=lettres", "task.secret=3", "task.count=0").startswith("`task` must be one of")


def test_a_group_may_stand_behind_its_settings(verb: Verb) -> None:
    assert (
        compose_and_check(verb, ["task.count=3", "task=digits", "backbone.path=b"]).config["task"]["name"] == "digits"
    )
    assert mistake(verb, "task.cuont=3", "task=digits").startswith("`task.cuont` is not a setting")


def test_existing_folders_may_have_any_name(verb: Verb) -> None:
    Path("a b,c=d").mkdir()

    assert compose_and_check(verb, ["backbone.path=b", "hydra.run.dir='a b,c=d/new'"]).run_folder.name == "new"


def test_a_trainer_takes_every_argument_of_lightnings(verb: Verb) -> None:
    checked = compose_and_check(verb, ["backbone.path=b", "+trainer=default", "trainer.max_epochs=3"])

    assert checked.config["trainer"]["max_epochs"] == 3
    assert checked.overrides == ("backbone.path=b", "+trainer=default", "++trainer.max_epochs=3")
    assert mistakes(verb, "backbone.path=b", "+trainer=default", "trainer.max_epoch=3", "trainer.max_steps=many") == (
        "`trainer.max_epoch` is not a setting; did you mean trainer.max_epochs or trainer.min_epochs?",
        "`trainer.max_steps` must be int, but is 'many'.",
    )


def test_an_experiment_is_checked_like_what_is_typed(verb: Verb, small_conf: Path) -> None:
    (small_conf / "experiment/few.yaml").write_text(
        "# @package _global_\n# Few.\ntask:\n  count: 2\n  cuont: 3\nseeed: 1\n"
    )

    assert mistakes(verb, "backbone.path=b", "experiment=few") == (
        "`task.cuont` is not a setting of Letters; did you mean count?",
        "`seeed` is not a setting of `train`; did you mean seed?",
    )


def test_a_choice_that_no_defaults_list_can_resolve_is_named_with_its_group(verb: Verb, small_conf: Path) -> None:
    header = "# @package _global_\n# Few.\ndefaults:\n"
    (small_conf / "experiment/few.yaml").write_text(f"{header}  - override /task: ${{oc.env:NOT_SET}}\n")
    (small_conf / "experiment/odd.yaml").write_text(f"{header}  - override /tsk: letters\n")
    law = "`task` must be one of digits, letters, but is '${oc.env:NOT_SET}'"

    assert mistake(verb, "experiment=few").startswith(f"`experiment=few` cannot be applied: {law}")
    assert mistake(verb, "experiment=odd").startswith("`experiment=odd` cannot be applied: In 'experiment/odd'")

    primary = small_conf / "train.yaml"
    primary.write_text(primary.read_text().replace("task: letters", "task: ${oc.env:NOT_SET}"))
    assert mistakes(verb)[-1].startswith(f"the config train must compose, but does not: {law}")


def test_a_run_is_resumed_in_its_folder_and_alone(verb: Verb) -> None:
    run = Path("runs/a")
    run.mkdir(parents=True)
    (run / "config.yaml").touch()

    assert compose_and_check_with_path(verb, "resume=runs/a").run_folder == run
    assert re.match(r"`resume`: A run must be a folder", mistake_with_path(verb, "resume=runs"))
    assert mistake_with_path(verb, "resume=runs/a", "seed=1").endswith("but there is also seed.")


def compose_and_check_with_path(verb: Verb, *overrides: str):  # type: ignore[no-untyped-def]
    _give_path()
    return compose_and_check(verb, overrides)


def mistake_with_path(verb: Verb, *overrides: str) -> str:
    _give_path()
    (only,) = mistakes(verb, *overrides)
    return only


def _give_path() -> None:
    """The default config of a real verb lacks nothing."""
    from ptl_prefix import settings

    local = settings.conf_dir() / "backbone/local.yaml"
    local.write_text(local.read_text().replace("???", "b"))


def test_a_sweep_is_checked_value_by_value_before_its_first_job(verb: Verb) -> None:
    assert mistakes(
        verb, "backbone.path=b", "task.count=1,0,-1", "task=letters,dgits", "seed=range(0,3)", flags=SWEEP
    ) == (
        "`task.count` must be >= 1, but is 0.",
        "`task.count` must be >= 1, but is -1.",
        "`task` must be one of digits, letters, but is 'dgits'; did you mean digits?",
    )


def test_a_sweep_has_no_place_for_the_folder_of_a_single_run(verb: Verb) -> None:
    assert mistake(verb, "hydra.run.dir=x", flags=SWEEP).startswith("`hydra.run.dir` is not read with -m")
    assert "cannot be an interval" in mistake(verb, "task.count=interval(1,2)", flags=SWEEP)


def test_a_config_that_is_only_shown_may_lack_values_but_not_mistake_keys(verb: Verb) -> None:
    assert check_overrides(verb, ["task.count=0"], HydraFlags()) == ("task.count=0",)
    with pytest.raises(ConfigError, match=r"`task\.cuont` is not a setting"):
        check_overrides(verb, ["task.cuont=0"], HydraFlags())


def test_a_folder_of_ones_own_configs_adds_choices(verb: Verb, tmp_path: Path) -> None:
    (tmp_path / "mine/task").mkdir(parents=True)
    own = "# Mine.\n_target_: ptl_prefix.stand_ins.Letters\nname: mine\ncount: 1\ndata_dir: null\n"
    (tmp_path / "mine/task/own.yaml").write_text(own)
    flags = HydraFlags((("--config-dir", str(tmp_path / "mine")),))

    checked = compose_and_check(verb, ["backbone.path=b", "task=own"], flags)

    assert checked.config["task"]["name"] == "mine"
    assert "own" in mistake(verb, "task=onw", flags=flags)
    assert "must be a folder" in mistake(verb, flags=HydraFlags((("--config-dir", "nowhere"),)))


def test_nothing_is_said_of_keys_that_a_refused_experiment_would_have(small_conf: Path, verb: Verb) -> None:
    assert mistake(verb, "experiment=fw", "task.only_there=1") == "`experiment` must be one of none yet, but is 'fw'."


def test_a_key_that_only_the_swept_choices_have_can_be_set_for_all(small_conf: Path, verb: Verb) -> None:
    (small_conf / "task/letters.yaml").write_text("# None.\n_target_: ptl_prefix.stand_ins.Letters\nname: letters\n")
    for name in ("few", "many"):
        (small_conf / f"experiment/{name}.yaml").write_text(
            f"# @package _global_\n# {name}.\ndefaults:\n  - override /task: digits\n"
        )
    given = ["backbone.path=b", "task.count=3", "experiment=few,many", "seed=0,1"]

    checked = compose_and_check(verb, given, SWEEP)

    assert checked.overrides == ("backbone.path=b", "++task.count=3", "experiment=few,many", "seed=0,1")
    assert checked.config["task"]["count"] == 3


def test_a_choice_of_the_users_cannot_hide_one_of_the_packages(verb: Verb, tmp_path: Path) -> None:
    (tmp_path / "mine/task").mkdir(parents=True)
    (tmp_path / "mine/task/digits.yaml").write_text("# Mine.\n")
    flags = HydraFlags((("--config-dir", str(tmp_path / "mine")),))

    assert "`task=digits` must mean one file" in mistake(verb, "task=digits", flags=flags)
    compose_and_check(verb, ["backbone.path=b", "task=letters"], flags)


def test_a_broken_file_of_the_users_is_a_mistake(verb: Verb, tmp_path: Path) -> None:
    (tmp_path / "mine/task").mkdir(parents=True)
    (tmp_path / "mine/task/own.yaml").write_text("a: [1\n  b: }")
    flags = HydraFlags((("--config-dir", str(tmp_path / "mine")),))

    assert mistake(verb, "task=own", flags=flags).startswith("`task=own` cannot be applied: while parsing")


def test_studies_and_configs_of_the_working_folder_are_found_and_listed_first(verb: Verb) -> None:
    Path("sweeps").mkdir()
    Path("sweeps/zz_mine.yaml").write_text("# @package _global_\n# Mine.\ntask:\n  count: 5\n")
    Path("conf/task").mkdir(parents=True)
    Path("conf/task/own.yaml").write_text("# Mine.\n")

    assert catalog.choices("sweeps")[0].name == "zz_mine"
    assert [choice.name for choice in catalog.choices("task", "conf")] == ["own", "digits", "letters"]
    assert settings.working_dir_of("conf") == Path.cwd() / "conf"
    with settings.read_configs_from(Path("elsewhere")):
        assert settings.working_dir_of("conf") is None
    checked = compose_and_check(verb, ["backbone.path=b", "+sweeps=zz_mine"])
    assert checked.config["task"]["count"] == 5
