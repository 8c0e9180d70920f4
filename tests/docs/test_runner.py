"""The checks of documents can fail: each kind of untruth is found, with its line."""

import os
import time
from pathlib import Path

import pytest
from doc_composing import refused
from doc_links import anchors_of, broken_links
from doc_numbers import tables_without_source, too_long
from doc_pages import Block, PageError, commands_of, read_page
from doc_sandbox import Failure, missing_lines, run_page, shortened


def console(marker: str, *lines: str) -> str:
    return f"<!-- docs-test: {marker} -->\n" * bool(marker) + "\n".join(["```console", *lines, "```", ""])


def failures(folder: Path, *parts: str) -> list[Failure]:
    """What running a page of these parts finds."""
    folder.mkdir(exist_ok=True)
    path = folder / "page.md"
    path.write_text("\n".join(parts))
    return run_page(read_page(path), folder / "sandbox")


class TestRunning:
    def test_commands_share_a_shell_and_a_folder_that_is_not_the_readers(self, tmp_path: Path) -> None:
        found = failures(
            tmp_path,
            console("", "$ x=3; echo made > file.txt", "anything"),
            console("output", "$ echo $x $(cat \\", "    file.txt)", "3 made", "$ echo $HOME", ".../sandbox/home"),
        )

        assert found == []

    def test_output_that_is_not_shown_fails(self, tmp_path: Path) -> None:
        (found,) = failures(tmp_path, console("output", "$ echo three", "two"))

        assert found.line == 2
        assert found.what == "echo three must show\n  two\nbut shows:\nthree\n"

    def test_output_is_compared_only_when_a_marker_says_so(self, tmp_path: Path) -> None:
        assert failures(tmp_path, console("", "$ echo three", "two")) == []

    def test_a_command_that_fails_fails(self, tmp_path: Path) -> None:
        (found,) = failures(tmp_path, console("", "$ true", "$ sh -c 'echo why >&2; exit 3'"))

        assert "must exit with 0, but exited with 3:\nwhy" in found.what

    def test_a_command_that_should_fail_and_does_not_fails(self, tmp_path: Path) -> None:
        (found,) = failures(tmp_path, console("fails", "$ true"))

        assert found.what.startswith("true must fail, but exited with 0")

    def test_a_failure_must_show_what_is_shown(self, tmp_path: Path) -> None:
        assert failures(tmp_path / "a", console("fails", "$ ls nowhere", "...nowhere...")) == []
        assert failures(tmp_path / "b", console("fails", "$ ls nowhere", "another message")) != []

    def test_a_command_that_ends_the_shell_is_a_failure(self, tmp_path: Path) -> None:
        (found,) = failures(tmp_path, console("", "$ exit 7"))

        assert "exited with 7" in found.what

    def test_the_first_failure_ends_a_page(self, tmp_path: Path) -> None:
        found = failures(tmp_path, console("", "$ false"), console("", "$ echo > made"))

        assert len(found) == 1
        assert not (tmp_path / "sandbox/work/made").exists()

    def test_python_blocks_share_their_names_and_the_folder(self, tmp_path: Path) -> None:
        parts = ["```python\nx = 3\n```", '```python\nopen("x", "w").write(str(x))\nprint("wrote", x)\n```']
        shown = "<!-- docs-test: output -->\n```text\nwrote {}\n```\n"

        assert failures(tmp_path / "a", *parts, shown.format(3), console("output", "$ cat x", "3")) == []
        assert failures(tmp_path / "b", *parts, shown.format(4)) != []

    def test_a_python_block_that_raises_fails_with_its_traceback(self, tmp_path: Path) -> None:
        (found,) = failures(tmp_path, "```python\n1 / 0\n```")

        assert "ZeroDivisionError" in found.what

    def test_a_block_becomes_a_file(self, tmp_path: Path) -> None:
        named = "<!-- docs-test: file: data/rows.json -->\n```json\n[1]\n```\n"

        assert failures(tmp_path, named, console("output", "$ cat data/rows.json", "[1]")) == []

    def test_nothing_reaches_the_network(self, tmp_path: Path) -> None:
        code = "import socket\nsocket.create_connection(('192.0.2.1', 80), timeout=1)"
        (found,) = failures(tmp_path, f"```python\n{code}\n```")

        assert "ForbiddenNetworkError" in found.what

    def test_the_package_is_there(self, tmp_path: Path) -> None:
        shown = ("$ ptl-prefix --version", "ptl-prefix ...", "$ ptl-prefix nonsense; echo exit code $?", "exit code 2")

        assert failures(tmp_path, console("output", *shown)) == []

    def test_what_a_page_leaves_running_ends_with_it(self, tmp_path: Path) -> None:
        assert failures(tmp_path, console("", "$ sleep 300 & echo $! > pid")) == []

        pid = int((tmp_path / "sandbox/work/pid").read_text())
        for _ in range(100):
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                return
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return
            time.sleep(0.05)
        pytest.fail("it still runs")


def test_a_training_is_shortened_by_settings_that_replace_its_own_or_are_added() -> None:
    block = Block("console", "", 1, {"briefly": "trainer.max_steps=2"})

    assert shortened("ptl-prefix train seed=1", block) == "ptl-prefix train seed=1 trainer.max_steps=2"
    assert shortened('few="trainer.max_steps=80 seed=1"', block) == 'few="trainer.max_steps=2 seed=1"'
    assert shortened("ptl-prefix train $few", Block("console", "", 1)) == "ptl-prefix train $few"
    assert shortened("ptl-prefix runs", block) == "ptl-prefix runs"


class TestMarkers:
    def blocks(self, folder: Path, text: str) -> tuple[Block, ...]:
        (folder / "page.md").write_text(text)
        return read_page(folder / "page.md").blocks

    def test_words_are_combined_and_reasons_may_have_commas(self, tmp_path: Path) -> None:
        (block,) = self.blocks(tmp_path, console("slow, parse: four GPUs, on one machine", "$ true"))

        assert block.markers == {"slow": "", "parse": "four GPUs, on one machine"}
        assert read_page(tmp_path / "page.md").is_slow

    @pytest.mark.parametrize(
        ("text", "law"),
        [
            (console("outputs", "$ true"), "'outputs' is no word of a marker"),
            (console("parse", "$ true"), "`parse` must have a value"),
            (console("parse: it is long", "$ true"), "`parse` must say what is absent"),
            (console("skip: too long", "$ ptl-prefix train"), "must not be skipped"),
            ("```bash\n$ true\n```", "commands are shown in `console` blocks"),
            ("```console\n$ true\n", "is never closed"),
            ("<!-- docs-test: output -->\n\n```console\n$ true\n```", "directly before"),
            ("<!-- docs-test: slow -->\n```yaml\na: 1\n```", "`yaml` block can only have"),
        ],
    )
    def test_a_rule_that_is_broken_is_named(self, tmp_path: Path, text: str, law: str) -> None:
        with pytest.raises(PageError, match=law):
            self.blocks(tmp_path, text)

    def test_a_block_inside_of_another_is_text(self, tmp_path: Path) -> None:
        (block,) = self.blocks(tmp_path, "````markdown\n```console\n$ false\n```\n````\n")

        assert block.text == "```console\n$ false\n```\n"

    def test_a_block_in_a_list_loses_its_indentation(self, tmp_path: Path) -> None:
        (block,) = self.blocks(tmp_path, "- so:\n\n  ```console\n  $ echo a\n  a\n  ```\n")

        assert [(one.text, one.output) for one in commands_of(block)] == [("echo a", ("a",))]

    def test_output_before_a_command_is_refused(self) -> None:
        with pytest.raises(PageError, match="must begin with"):
            commands_of(Block("console", "ptl-prefix train\n", 3))


def test_dots_stand_for_anything_in_a_line_that_is_shown() -> None:
    real = "step 100/400  val/loss 0.38\ndone in 9 s\n"

    assert missing_lines(["step 100/400 val/loss ...", "…", "done in … s"], real) == []
    assert missing_lines(["step 200/400 ...", "done"], real) == ["step 200/400 ...", "done"]


class TestLinks:
    def found(self, folder: Path, text: str) -> list[str]:
        (folder / "other.md").write_text("# A `b` heading, twice\n\n# A `b` heading, twice\n\n(label)=\n## C\n")
        (folder / "page.md").write_text(f"# Top\n{text}\n")
        anchors_of.cache_clear()
        return broken_links(folder / "page.md")

    @pytest.mark.parametrize(
        "link",
        ["other.md", "#top", "other.md#a-b-heading-twice-1", "other.md#label", ".", "https://example.org/a_(b)?c=d"],
    )
    def test_a_link_that_leads_somewhere_is_none_of_them(self, tmp_path: Path, link: str) -> None:
        assert self.found(tmp_path, f"see [this]({link}) and `[code](nowhere.md)`") == []

    @pytest.mark.parametrize(
        ("link", "problem"),
        [
            ("nowhere.md", "is no file or folder"),
            ("#nowhere", "has no such heading or label"),
            ("other.md#c-1", "has no such heading or label"),
            ("/etc/passwd", "must be relative to the page"),
            ("https://nowhere", "is no address"),
        ],
    )
    def test_a_link_that_leads_nowhere_is_named_with_its_line(self, tmp_path: Path, link: str, problem: str) -> None:
        assert self.found(tmp_path, f"see\n[this]({link})") == [f"line 3: {link} {problem}"]


class TestNumbers:
    TABLE = "| method | loss |\n| --- | --- |\n| lora | 0.0547 ± 0.0034 |\n"

    @pytest.mark.parametrize(
        "source", ["see [the log](LOG.md#x)", "what `ptl-prefix train` prints:", console("", "$ x")]
    )
    def test_a_table_with_its_source_is_fine(self, source: str) -> None:
        assert tables_without_source(f"{source}\n\n{self.TABLE}") == []
        assert tables_without_source(f"{self.TABLE}\n\n{source}") == []

    def test_a_table_of_measured_numbers_without_a_source_is_named(self) -> None:
        (found,) = tables_without_source(f"text\n\n{self.TABLE}\n\nmore")

        assert found.startswith("line 3: a table with measured numbers")

    @pytest.mark.parametrize("cell", ["0.605", "**1.000** ± 0.000", "26.0 GB", "1.33×", "0.57 to 0.62", "2.31≈"])
    def test_a_decimal_number_is_measured(self, cell: str) -> None:
        assert tables_without_source(f"| a | {cell} |\n") != []

    @pytest.mark.parametrize("cell", ["3", "26,030", "`0.1`", "[b](0.5)", "CC BY-SA 4.0", "METEOR 1.5", "Python 3.11"])
    def test_whole_numbers_versions_and_code_are_not_measured(self, cell: str) -> None:
        assert tables_without_source(f"| a | {cell} |\n") == []


def test_a_readme_that_is_too_long_is_refused() -> None:
    assert too_long("word " * 2000) == []
    assert too_long("word " * 2001) == ["must have at most 2000 words, but has 2001"]
    assert too_long("\n" * 231) == ["must have at most 230 lines, but has 231"]


def test_commands_that_are_only_parsed_are_checked() -> None:
    def problems(command: str) -> list[str]:
        return refused(Block("console", f"$ {command}\n", 1))

    assert problems("torchrun --nproc-per-node=4 -m ptl_prefix train trainer=ddp trainer.devices=4  # four") == []
    assert problems("ptl-prefix train resume=outputs/first trainer.devices=1") == []
    assert problems("ptl-prefix sweep run methods hydra.sweeper.n_jobs=2 && ptl-prefix methods") == []
    assert problems("ptl-prefix train -m hydra/sweeper=optuna 'optimizer.lr=tag(log,interval(1e-4,1e-2))'") == []
    assert "is not a setting" in problems("ptl-prefix train trainer.device=4")[0]
    assert "must be one of" in problems("ptl-prefix sweep run nothing")[0]
    assert "must begin with a verb" in problems("ptl-prefix trian")[0]
