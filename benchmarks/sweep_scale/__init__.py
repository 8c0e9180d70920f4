"""A simulation of a study on a large cluster, which drives the real scheduler with a simulated clock."""
