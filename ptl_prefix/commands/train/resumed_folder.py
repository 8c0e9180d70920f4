"""The folder of a run that is resumed, which may be on another machine.

In: a run folder, or the address of a mirrored run. Out: a run folder on this machine with the newest state.
"""

from rich.console import Console

from ptl_prefix.artifacts.printed_command import printed_command
from ptl_prefix.artifacts.remote.address import is_remote_address, run_address
from ptl_prefix.artifacts.remote.fetch import fetch_to_continue
from ptl_prefix.artifacts.remote.object_store import ObjectStore
from ptl_prefix.artifacts.remote.open_run import open_to_continue
from ptl_prefix.artifacts.remote.run_manifest import read_manifest_at
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.commands.config.build_plan import read_run_config
from ptl_prefix.errors import ConfigError, ObjectStoreError
from ptl_prefix.training.rank_environment import find_rank_environment


def folder_to_resume(path: str) -> RunFolder:
    """The folder of a run that is resumed; a mirrored run is fetched."""
    if is_remote_address(path) and find_rank_environment() is not None:
        raise ConfigError(
            [
                f"`resume` must be a run folder under torchrun or srun, where each rank would fetch the run, but is "
                f"{path}; fetch it once with: {printed_command('mirror', path, 'out=<folder>')}"
            ]
        )
    return open_to_continue(path)


def bring_up_to_date(folder: RunFolder, console: Console) -> None:
    """Bring the folder of a trial to the state of its mirror, where another machine may have resumed it."""
    config = read_run_config(folder)
    address = run_address(config)
    if address is None:
        return
    try:
        if read_manifest_at(ObjectStore(address.scheme), address) is not None:
            fetch_to_continue(address, folder, replaces=True)
    except ObjectStoreError as error:
        console.print(f"the trial goes on from its folder: {error}", highlight=False, markup=False, soft_wrap=True)
