"""The names of the files that make a folder a study's, besides `study.yaml`."""

CONFIGS = "configs"
"""The copy of the configs in a study's folder."""
STORAGE_FILE = "where.yaml"
"""The file with the URL of a study's storage, and the name of its folder."""
CREATION_LOCK = ".begin.lock"
"""The file that a process locks while it makes a study's folder."""
