"""Chooses the source of a pretrained backbone by the form of its path.

In: the path of a setting, or of a bundle's manifest. Out: `GgufFile` for a GGUF file or a package's file, else
`PretrainedFiles`; and the path on this machine of what was fetched before.
"""

from pathlib import Path

from transformers.utils.hub import cached_file

from ptl_prefix.backbones.model_folder import CONFIG_FILE
from ptl_prefix.backbones.package_file import is_gguf_path
from ptl_prefix.backbones.source import PretrainedFiles


def pretrained_files(path: str, revision: str | None = None) -> PretrainedFiles:
    """The source of a backbone with weights.

    Args:
        path: Name of an embedded backbone, local folder, name on the hub, GGUF file, or
            `package:<distribution>/<file>`.
        revision: Revision on the hub; `None` is the newest one.
    """
    if not is_gguf_path(path):
        return PretrainedFiles(path, revision)
    # Imported here: the library of the format is needed for such files alone.
    from ptl_prefix.backbones.gguf_file import GgufFile

    return GgufFile(path)


def fetched_path(path: str) -> str | None:
    """A backbone's path on this machine, found without the network: for a hub name, that of the copy that was fetched.

    Returns:
        The path; `None` for a hub name that was not fetched.
    """
    # Why a GGUF file cannot be read, such as a package that is missing, is said when it is loaded.
    if is_gguf_path(path) or PretrainedFiles(path).is_local:
        return path
    try:
        config = cached_file(path, CONFIG_FILE, local_files_only=True, _raise_exceptions_for_missing_entries=False)
    except (OSError, ValueError):  # `path` may be anything
        return None
    return None if config is None else str(Path(config).parent)
