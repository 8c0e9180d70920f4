"""The copy of the user's configs in a study's folder."""

from pathlib import Path

from ptl_prefix.commands.sweep.study_folder import _copy_yaml


def test_only_configs_are_copied_and_never_the_copy_itself(tmp_path: Path) -> None:
    source = tmp_path / "work"
    files = {
        "sweeps/q.yaml": True,
        "task/mine.yml": True,
        "data.csv": False,
        ".git/config.yaml": False,
        "outputs/run/config.yaml": False,
        "outputs/run/events.jsonl": False,
        "outputs/sweeps/q/.begin.lock": False,
        "outputs/sweeps/q/configs/conf/train.yaml": False,
    }
    for name in files:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("a: 1")
    target = source / "outputs/sweeps/q/configs/own"

    _copy_yaml(source, target)

    copied = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
    assert copied == {name for name, is_config in files.items() if is_config}
