"""Python imports this file at its start when its folder is on PYTHONPATH: so child processes of tests obey, too."""

from no_network import forbid_network

forbid_network()
