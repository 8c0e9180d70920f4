"""The limits of W&B on projects, entities, groups, names of runs, job types and tags.

In: the settings of `tracking`. Out: a sentence for each name that W&B refuses when a run starts, or that `wandb sync`
refuses when an offline run is uploaded later.
"""

import re
from collections.abc import Sequence

_LONGEST_NAME = 128
_LONGEST_TAG = 64
_NOT_IN_PROJECTS = r"/\#?%:"
_ENTITY = re.compile(r"[A-Za-z0-9_.-]+")


def wandb_name_problems(
    *, project: str, entity: str | None, group: str | None, name: str | None, job_type: str, tags: Sequence[str]
) -> list[str]:
    """The problems of the names, one sentence each."""
    problems = []
    if found := [character for character in _NOT_IN_PROJECTS if character in project]:
        problems.append(
            f"`tracking.project` must not hold the characters {_NOT_IN_PROJECTS} for W&B, but is {project!r}, with "
            f"{' '.join(found)}."
        )
    if entity is not None and not _ENTITY.fullmatch(entity):
        problems.append(
            f"`tracking.entity` must be a W&B user or team, of the characters A-Z a-z 0-9 . _ -, but is {entity!r}; "
            "null is the API key's default."
        )
    names = {"project": project, "entity": entity, "group": group, "name": name, "job_type": job_type}
    for key, text in names.items():
        if text is not None and (len(text) > _LONGEST_NAME or not text.isprintable() or text != text.strip()):
            problems.append(
                f"`tracking.{key}` must be at most {_LONGEST_NAME} printable characters without spaces around them "
                f"for W&B, but is {text[:_LONGEST_NAME]!r} ({len(text)} characters)."
            )
    problems += [
        f"Each of `tracking.tags` must have 1 to {_LONGEST_TAG} characters for W&B, but one is "
        f"{tag[:_LONGEST_TAG]!r} ({len(tag)} characters)."
        for tag in tags
        if not 1 <= len(tag) <= _LONGEST_TAG
    ]
    return problems
