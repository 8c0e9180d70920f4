"""The keys of metrics in records, logs and tables: `split/metric`, or `split/metric/group` for a part of the split.

In: names. Out: keys, and their parts. The name of a split or metric holds no slash, so that a key has one meaning,
whatever the group is called: `ter` of the group `webnlg` is not the metric `ter_webnlg`. The bare backbone's value has
`_before` after the name of the metric: `test/bleu_before/seen`.

Records of earlier versions join metric and group with `_`; there, both together are read as the name of a metric.
"""

_BARE = "_before"


def with_group(name: str, group: str) -> str:
    """The key of a metric's value for a group; for the empty group, the whole split, the metric's own name."""
    return f"{name}/{group}" if group else name


def split_group(name: str) -> tuple[str, str]:
    """The metric and the group of `metric` or `metric/group`; the group is empty if there is none."""
    metric, _, group = name.partition("/")
    return metric, group


def parts_of(key: str) -> tuple[str, str, str]:
    """The split, the metric and the group of a key; without a slash, the key is a metric's name."""
    split, slash, name = key.partition("/")
    return (split, *split_group(name)) if slash else ("", key, "")


def is_bare(key: str) -> bool:
    """Whether a key is that of the bare backbone's value."""
    return parts_of(key)[1].endswith(_BARE)


def bare_key(key: str) -> str:
    """The key of the bare backbone's value of the same metric, split and group."""
    return _joined(key, f"{parts_of(key)[1]}{_BARE}")


def adapted_key(key: str) -> str:
    """The key of the adapted backbone's value of the same metric, split and group."""
    return _joined(key, parts_of(key)[1].removesuffix(_BARE))


def _joined(key: str, metric: str) -> str:
    split, _, group = parts_of(key)
    return with_group(f"{split}/{metric}" if split else metric, group)
