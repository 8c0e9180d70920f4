"""Slot errors of E2E outputs, found by patterns.

In: an input of E2E and a text. Out: the numbers of missing, added and repeated values. Attributes with a closed set of
values have a pattern for each value; names are searched as they are written. A name is removed from the text before the
other attributes are searched: Café Rouge is not a coffee shop, and Raja Indian Cuisine does not make the food Indian.
"""

import re

Slots = dict[str, str]
"""An input: values by attribute, with the attribute names of `e2e_nlg`."""

_RELEASED_NAMES = {
    "eattype": "type",
    "pricerange": "price",
    "familyfriendly": "family friendly",
    "customerrating": "customer rating",
}
_ATTRIBUTES = ("name", "type", "food", "price", "customer rating", "area", "family friendly", "near")

_PRICED = r"(?:[- ]?(?:price|cost|range|pricing)\w*)"
_IS = r"(?:is|are|that is)"
_RATE = r"(?:ratings?|rated|reviews?|reviewed|scored?|rate|rates)"
_RATING = rf"[- ](?:customer[- ])?(?:service )?{_RATE}"
_RATED = rf"{_RATE}[^.,]{{0,25}}"
_STARS = r"(?:out )?(?:of|/)\s*(?:5|five)"
_PATTERNS: dict[str, dict[str, str]] = {
    "type": {
        "coffee shop": r"coffee[- ]?(?:shop|house|place)|\bcaf[eé]\b",
        "pub": r"\bpubs?\b",
        "restaurant": r"\brestaurants?\b",
    },
    "food": {
        "Chinese": r"\bchinese\b",
        "English": r"\benglish\b|\bbritish\b",
        "Fast food": r"\bfast[- ]?foods?\b",
        "French": r"\bfrench\b",
        "Indian": r"\bindian\b",
        "Italian": r"\bitalian\b",
        "Japanese": r"\bjapanese\b|\bsushi\b",
    },
    "price": {
        "less than £20": r"(?:less|lower|cheaper|under|below|up to)(?: than)?\s*£?\s*20\b(?!\s*(?:-|to))",
        "£20-25": r"20\s*(?:£\s*)?(?:-|–|to|and)\s*£?\s*25",
        "more than £30": r"(?:more|higher|greater|over|above|upwards?)(?: than| of)?\s*£?\s*30"
        r"|30\s*(?:£\s*)?(?:and|or) (?:up|more|over|above|higher)",
        "cheap": rf"\bcheap|\blow(?:er)?[- ]?(?:to moderate )?{_PRICED}|inexpensive|affordabl|{_PRICED} (?:is|are) low",
        "moderate": rf"moderate(?:ly)?[- ]?{_PRICED}?|(?:mid|average|medium|reasonabl)\w*[- ]?{_PRICED}"
        rf"|{_PRICED} {_IS} (?:average|moderate|medium|reasonable)",
        "high": rf"\bhigh(?:er|ly)?[- ]?{_PRICED}|\bexpensive|\bpric(?:e)?y\b|{_PRICED} {_IS} high",
    },
    "customer rating": {
        "1 out of 5": rf"\b(?:1|one)[- ](?:{_STARS}|stars?)",
        "3 out of 5": rf"\b(?:3|three)[- ](?:{_STARS}|stars?)",
        "5 out of 5": rf"\b(?:5|five)[- ](?:{_STARS}|stars?)",
        "low": rf"\b(?:low|poor|bad)(?:ly|er)?{_RATING}|{_RATED}\b(?:low|poor)",
        "average": rf"\b(?:average|moderate|decent)(?:ly)?{_RATING}|{_RATED}\baverage",
        "high": rf"\b(?:high|good|great|excellent)(?:ly|er)?{_RATING}|{_RATED}\bhigh",
    },
    "area": {
        "city centre": r"cit(?:y|ies)'?s?[- ]cent(?:re|er)|cent(?:re|er) (?:of (?:the|a) )?city|downtown",
        "riverside": r"\brivers?(?:ide|bank|front)?\b(?:[- ]side)?",
    },
}
_COMPILED = {
    attribute: {value: re.compile(pattern, re.IGNORECASE) for value, pattern in values.items()}
    for attribute, values in _PATTERNS.items()
}
_FAMILY = re.compile(r"famil(?:y|ies)|\bkids?\b|\bchild(?:ren)?\b", re.IGNORECASE)
_REFUSED = re.compile(
    r"\b(?:not|no|non|never|isn'?t|aren'?t|doesn'?t|don'?t|won'?t|unfriendly|unsuitable|inappropriate|adults?)\b|n't\b|"
    r"\bun(?:family|child|kid)",
    re.IGNORECASE,
)
_GENERIC = "restaurant"
"""A word that texts use for pubs too, and more than once: it counts neither as added nor as repeated."""
_ALIKE = {
    "price": [{"less than £20", "cheap"}, {"£20-25", "moderate"}, {"more than £30", "high"}],
    "customer rating": [{"1 out of 5", "low"}, {"3 out of 5", "average"}, {"5 out of 5", "high"}],
}
"""Values that count as equal: the writers of the references used a figure and its word interchangeably."""


def parse_slots(source: str) -> Slots | None:
    """Parse `name : Blue Spice | Type : pub`, or `name[Blue Spice], eatType[pub]`; `None` for any other text."""
    released = re.findall(r"([^\[\],]+)\[([^\[\]]*)\]", source)
    pairs = released or [part.split(" : ", 1) for part in source.split(" | ") if " : " in part]
    slots: Slots = {}
    for attribute, value in pairs:
        name = attribute.strip().lower()
        slots[_RELEASED_NAMES.get(name, name)] = value.strip()
    return slots if slots and slots.keys() <= set(_ATTRIBUTES) else None


def count_slot_errors(slots: Slots, text: str) -> tuple[int, int, int]:
    """Count the values that a text misses, adds and repeats."""
    missing = added = repeated = 0
    for attribute in ("name", "near"):
        if attribute in slots:
            text, found = _remove_name(slots[attribute], text)
            missing += not found
            # Repeating the name of the subject is not an error.
            repeated += max(0, found - 1) if attribute == "near" else 0
    for attribute, patterns in _COMPILED.items():
        mentions = {value: count for value, pattern in patterns.items() if (count := len(pattern.findall(text)))}
        due = _alike(attribute, slots[attribute]) if attribute in slots else set()
        missing += bool(due) and not due & mentions.keys()
        repeated += max([mentions[value] - 1 for value in due & mentions.keys() - {_GENERIC}], default=0)
        added += len({frozenset(_alike(attribute, value)) for value in mentions.keys() - due - {_GENERIC}})
    expected, family = slots.get("family friendly"), _family_friendly(text)
    missing += expected is not None and expected not in family
    added += len(family - {expected})
    return missing, added, repeated


def _alike(attribute: str, value: str) -> set[str]:
    """The values that count as equal to `value`, itself included."""
    return next((values for values in _ALIKE.get(attribute, []) if value in values), {value})


def _remove_name(name: str, text: str) -> tuple[str, int]:
    """Replace a name, with or without its article and accents, and count its occurrences."""
    bare = re.sub(r"^the ", "", name, flags=re.IGNORECASE)
    pattern = re.escape(bare).replace("é", "[eé]")
    return re.subn(rf"(?:the )?\b{pattern}", "it", text, flags=re.IGNORECASE)


def _family_friendly(text: str) -> set[str]:
    """`yes`, `no` or both, from the words near each mention of families and children."""
    found = set()
    for sentence in re.split(r"[.!?;]|, (?:but|and|however)\b", text):
        if _FAMILY.search(sentence):
            found.add("no" if _REFUSED.search(sentence) else "yes")
        elif re.search(r"\badults?\b", sentence, re.IGNORECASE):
            found.add("no")
    return found
