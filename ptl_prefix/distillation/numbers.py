"""Numbers of a generated text that its source does not have.

In: a generated text, and the texts that it may take numbers from. Out: the numbers that none of them has, as they are
written. Models invent numbers more readily than anything else, and an invented one is learned like a true one.

Numbers are compared by value: "1,000" is 1000, "05" is 5, "2.50" and "2,5" are 2.5. "1.000" may be 1 or 1000. The
number of an item in a list is no number of the text. A word with digits in it, such as "GPT-2", "int8" or "v1.2.3", is
compared as a word; of "10km" and "5th" the number is enough. A number in letters, such as "three", is not looked for,
but supports "3". What was calculated or rounded is unsupported.
"""

import re
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation

_WORD = re.compile(r"[^\W_]+(?:[.,:/'’-][^\W_]+)*")
"""A word with its inner signs: "GPT-2", "1,000.5", "2024-01-05", "v1.2.3"."""
_LIST_NUMBER = re.compile(r"^\s*(?:[-*#>]+\s*)?\(?\d{1,3}[.)](?=\s|$)", re.MULTILINE)
_GROUPED = re.compile(r"(?<=\d)[\u00a0\u202f\u2009 ](?=\d{3}(?!\d))")
"""A space that groups digits, as in "1 000"."""
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_NUMBER_FIRST = re.compile(r"(\d+(?:[.,]\d+)*)[^\W\d_]*")
_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_SPELLED = {
    **{name: value for value, name in enumerate(_ONES)},
    **{name: value for value, name in zip(range(20, 100, 10), _TENS, strict=True)},
    "hundred": 100,
    "thousand": 1000,
    "million": 10**6,
}


def unsupported_numbers(text: str, sources: Iterable[str]) -> list[str]:
    """The numbers of a text that no source has, in the order of the text, each once.

    Args:
        text: Generated text.
        sources: Texts that it may take numbers from.
    """
    words, values = set[str](), set[str]()
    for source in sources:
        for word in _words(source):
            words.add(word.casefold())
            values |= _values_in(word)
            values |= _spelled(word)
    found = dict.fromkeys(word for word in _words(_LIST_NUMBER.sub("", text)) if any(map(str.isdecimal, word)))
    return [word for word in found if word.casefold() not in words and not _is_supported(word, values)]


def _words(text: str) -> list[str]:
    return _WORD.findall(_GROUPED.sub("", text))


def _is_supported(word: str, values: set[str]) -> bool:
    """Whether each number in a word is one of the values; a word that begins with letters has none."""
    parts = [part for part in re.split(r"[:/'’-]", word) if any(map(str.isdecimal, part))]
    readings = [_readings(match[1]) if (match := _NUMBER_FIRST.fullmatch(part)) else set[str]() for part in parts]
    return not word[0].isalpha() and all(reading & values for reading in readings)


def _values_in(word: str) -> set[str]:
    """The values of all numbers in a word of a source, in every reading."""
    found = set[str]()
    for number in _NUMBER.findall(word):
        found |= _readings(number)
    return found


def _spelled(word: str) -> set[str]:
    """The value of a number in letters, such as "twenty-five"."""
    parts = word.casefold().split("-")
    return {str(sum(_SPELLED[part] for part in parts))} if all(part in _SPELLED for part in parts) else set()


def _readings(number: str) -> set[str]:
    """The values that digits with points and commas can have, in one form each."""
    groups = re.split(r"[.,]", number)
    if len(groups) > 1 and groups[0] != "0" and all(len(group) == 3 for group in groups[1:]):
        candidates = {"".join(groups)} if "," in number else {"".join(groups), number}
    elif number.rfind(",") > number.rfind("."):  # a decimal comma
        candidates = {number.replace(".", "").replace(",", ".")}
    else:
        candidates = {number.replace(",", "")}
    return {_plain(candidate) for candidate in candidates}


def _plain(digits: str) -> str:
    """A number without superfluous zeros; what is no number, such as 1.2.3, as it is."""
    try:
        return format(Decimal(digits).normalize(), "f")
    except InvalidOperation:
        return digits
