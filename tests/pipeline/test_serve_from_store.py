"""`ptl-prefix serve bundles=<address>` as a process: bundles come, are damaged, repaired, and claim the same name."""

import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from support.mirrored_folders import write_now
from support.object_store import BUCKET, FaultyStore, wait_until
from support.served_process import serving

from ptl_prefix.artifacts.remote.address import RemoteAddress
from ptl_prefix.artifacts.remote.mirror import Mirror
from ptl_prefix.artifacts.remote.object_store import ObjectStore
from ptl_prefix.artifacts.run_folder import RunFolder

pytestmark = pytest.mark.slow
PATIENCE_S = 120.0


@pytest.fixture(params=["s3", "file"])
def root(request: pytest.FixtureRequest, store: FaultyStore, tmp_path: Path) -> RemoteAddress:
    return RemoteAddress.parse(f"s3://{BUCKET}/served" if request.param == "s3" else f"file://{tmp_path}/served")


class Runs:
    """Copies of a run, mirrored below an address."""

    def __init__(self, run: RunFolder, folder: Path, root: RemoteAddress) -> None:
        self._run, self._folder, self._root = run, folder, root

    def mirror(self, place: str, *, ending: str = "") -> RemoteAddress:
        """Mirror a copy at a place below the address; only one with another ending is not in the cache yet."""
        copy = RunFolder(self._folder / place)
        shutil.copytree(self._run.path, copy.path)
        with (copy.bundle / "manifest.json").open("a", encoding="utf-8") as file:
            file.write(ending)
        address = self._root
        for name in place.split("/"):
            address /= name
        write_now(Mirror(copy.path, address, "run", place.split("/")), copy)
        return address

    def object_of_bundle(self, address: RemoteAddress) -> RemoteAddress:
        """The object with a bundle's manifest."""
        content = ObjectStore(address.scheme).read(address / "manifest.json", max_bytes=10**6)
        assert content is not None
        found = re.search(rb'"bundle/manifest\.json":\s*\{[^}]*"sha256":\s*"([0-9a-f]{64})"', content)
        assert found is not None
        return address / "objects" / found[1].decode()


@pytest.fixture
def runs(small_run: RunFolder, tmp_path: Path, root: RemoteAddress) -> Runs:
    return Runs(small_run, tmp_path / "trained", root)


@contextmanager
def lines_of(process: "subprocess.Popen[str]", printed: list[str]) -> Iterator[None]:
    """Go on to collect what a process prints; it is killed if it takes too long."""

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            printed.append(line)

    reader, killer = threading.Thread(target=read), threading.Timer(4 * PATIENCE_S, process.kill)
    reader.start()
    killer.start()
    try:
        yield
    finally:
        process.kill()
        reader.join(60)
        killer.cancel()


def test_a_server_offers_what_is_whole_and_has_a_name_of_its_own(
    runs: Runs, root: RemoteAddress, tmp_path: Path
) -> None:
    objects = ObjectStore(root.scheme)
    runs.mirror("a/one")
    same = [runs.mirror("b/same"), runs.mirror("c/same")]
    broken = runs.mirror("a/broken", ending="\n")
    damaged = runs.object_of_bundle(broken)
    whole = objects.read(damaged, max_bytes=10**8)
    assert whole is not None
    objects.write(damaged, whole[:-1] + bytes([whole[-1] ^ 1]))

    with serving(f"bundles={root}", "rescan_every_s=0.2") as (process, url, printed), lines_of(process, printed):
        key = re.search(r"ptl-[\w-]{40,}", "".join(printed))
        assert key is not None
        with httpx.Client(base_url=url, headers={"authorization": f"Bearer {key[0]}"}, timeout=60) as client:

            def offered() -> set[str]:
                cards = client.get("/v1/models").json()["data"]
                return {card["id"] for card in cards} - {"tiny", "auto"}

            def wait_for(names: set[str]) -> None:
                wait_until(lambda: offered() == names, PATIENCE_S)

            def answer(model: str) -> int:
                body = {"model": model, "prompt": "name : The Eagle", "max_tokens": 2}
                return client.post("/v1/completions", json=body).status_code

            assert offered() == {"one"}
            said = "".join(printed)
            for address, other in (same, reversed(same)):
                assert f"the bundle of {address} is left out as it is: Each bundle must have a name of its own" in said
                assert f"but 'same' is also that of {other};" in said
            assert f"the bundle of {broken} is left out as it is: An object must have the bytes" in said
            assert [answer(model) for model in ("one", "same", "broken")] == [200, 404, 404]

            runs.mirror("later")
            wait_for({"one", "later"})
            assert answer("later") == 200

            newcomer = runs.mirror("z/one")
            wait_until(lambda: f"the bundle of {newcomer} is left out" in "".join(printed), PATIENCE_S)
            assert f"'one' is also that of {root}/a/one, which keeps it" in "".join(printed)
            assert answer("one") == 200

            objects.write(damaged, whole)
            wait_for({"one", "later", "broken"})
            assert answer("broken") == 200

            objects.remove(same[1] / "manifest.json")
            wait_for({"one", "later", "broken", "same"})
            assert answer("same") == 200
            assert "".join(printed).count(f"the bundle of {broken} is left out") == 1, "each reason is said once"

        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert not list((tmp_path / "cache/ptl_prefix/remote/served").glob("*")), "its own copies are gone"
