"""Names in a generated text that its source does not have.

In: a generated text, and the words of the texts that it may take names from. Out: the names that none of them has.
Small models fill in persons, places and titles as readily as numbers, and an invented one is learned like a true one.

A name is a word with a capital inside of a sentence, or with a second capital anywhere, such as "NASA". The first word
of a sentence, a line, a quotation or a bracket has a capital in any case, and so have labels ("Key Features:") and
headings: they are not looked at. Words are compared by their first five letters, so that "Turner's" and "Canadian" are
supported by "Turner" and "Canada". In a language that writes every noun with a capital, switch the check off.
"""

import re
from collections.abc import Set as AbstractSet

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_START = re.compile(r"[.!?:;…\n\"“”„«»‘(\[{*#|/•—-]")
"""What stands between two words where a new sentence, line, item, quotation or bracket begins."""
_LABEL = re.compile(r"^\W*(?:\d+\W+)?(?:[\w'’/-]+ ){0,4}[\w'’/-]+[*_]*:", re.MULTILINE)
_HEADING = re.compile(r"^\s*(?:#.*|\*\*[^*\n]+\*\*:?)\s*$", re.MULTILINE)
_STEM = 5


def unsupported_names(text: str, known: AbstractSet[str]) -> list[str]:
    """The names of a text that are not known, in the order of the text, each once.

    Args:
        text: Generated text.
        known: Stems of the words of the texts that it may take names from; see `name_stems`.
    """
    text = _LABEL.sub("\n", _HEADING.sub("\n", text))
    found, end = dict[str, None](), 0
    for match in _WORD.finditer(text):
        is_first = end == 0 or _START.search(text, end, match.start()) is not None
        if _is_name(match[0], is_first=is_first) and not known & _stems_of(match[0]):
            found[match[0]] = None
        end = match.end()
    return list(found)


def name_stems(text: str) -> set[str]:
    """The first letters of a text's words, by which names are compared."""
    return {stem for match in _WORD.finditer(text) for stem in _stems_of(match[0])}


def _is_name(word: str, *, is_first: bool) -> bool:
    """Whether a word is a name; a single letter, as in "I'm", is none."""
    capitals = [letter.isupper() for letter in word]
    if re.match(r".(?:['’]|$)", word):
        return False
    return any(capitals[1:]) if is_first else capitals[0]


def _stems_of(word: str) -> set[str]:
    """The stems of a word, with and without what follows its apostrophe; "O'Neill" is one word."""
    return {part[:_STEM].casefold() for part in (word, re.split(r"['’]", word)[0]) if len(part) > 1}
