"""Words as the scorers of image captions, and with them the E2E challenge, cut them: Penn Treebank tokens.

In: a text of one line. Out: its tokens in lower case. COCO's caption evaluation asks Stanford's PTBTokenizer (CoreNLP
3.4.1), a Java program; here are rules of our own that cut as it does, so that ROUGE-L and CIDEr need no Java. Where
Java is found, tests hold the two side by side on real data.

At each place every rule is tried, and the one that sees the farthest wins; of several, the first. Known differences:
the Java program looks past the end of a line, so that a last initial ("Plan B.") is cut by what the next text begins
with; telephone numbers and smileys are no single tokens here.
"""

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass

# Signs of Indic scripts stand alone for Python, and belong to their letters here.
_LETTER = r"(?:[^\W\d_]|[\u0300-\u036f\u0900-\u0d7f])"
_ALNUM = r"(?:[^\W_]|[\u0300-\u036f\u0900-\u0d7f])"
_WORD = rf"{_LETTER}{_ALNUM}*(?:[.!?]{_LETTER}{_ALNUM}*)*"
_APOSTROPHE = r"['\u0092\u2019]"
_TICK = r"['\u0092\u2019`\u0091\u2018\u201b]"
_ENDING = rf"{_APOSTROPHE}(?i:s|m|d|re|ve|ll)"
_NOT = rf"[nN]{_TICK}[tT]"
_PART = rf"(?:[dDoOlL]{_TICK}{_ALNUM})?{_ALNUM}+"
_ACRONYM = r"[A-Za-z](?:\.[A-Za-z])+"
_BEFORE_NAMES = (  # after these a capital letter begins no sentence
    "(?i:mr|mrs|ms|drs?|profs?|sens?|reps?|attys?|lt|col|gen|messrs|govs?|adm|rev|maj|sgt|cpl|pvt|capt|ste?|ave|pres|lieut|"
    "hon|brig|comdr|cmdr|pfc|spc|supts?|det|mt|ft|adj|adv|asst|assoc|ens|insp|mlle|mme|msgr|sfc|vs|alex|wm|jos|cie|cf|invt|"
    "elec|natl|dept|treas)|[Mm][ft]g"
)
_AFTER_NAMES = (  # after these it does
    "(?i:jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|mon|tues?|wed|thu|thurs|fri|calif|conn|fla|mich|va|ariz|tenn|mo|md|"
    "wis|minn|ind|okla|kan|ga|colo|ky|ala|nev|neb|vt|wyo|inc|cos?|corp|ltd|plc|rt|bancorp|bhd|assn|univ|intl|sys|jr|sr|bros|"
    r"ed\.d|ph\.d|blvd|rd|esq|etc|al|seq|bldg|tel|est|ext|sq|ct|mont)|"
    "MISS|Miss|MASS|Mass|ILL|Ill|PA|Pa|WASH|Wash|ORE|Ore|DEL|Del|LA|La|ARK|Ark|TEX|Tex|[Pp]tys?|[Pp]te"
)
_OPENER = (  # words that begin a sentence even after an acronym
    "(?=[A-Z])(?i:a|about|according|additionally|after|an|as|at|but|earlier|he|her|here|however|if|in|it|last|many|more|now|"
    "once|one|other|our|she|since|so|some|such|that|the|their|then|there|these|they|this|we|what|when|while|yet|you)"
)


@dataclass(frozen=True)
class _Rule:
    """What a token looks like.

    Args:
        token: A pattern.
        ahead: What must follow it; counts in how far the rule sees.
        said: What the token becomes; empty: itself.
        ends_sentence: Whether the period at its end is a token of its own, too.
        straight: Whether its apostrophe is straightened.
    """

    token: str
    ahead: str = ""
    said: str = ""
    ends_sentence: bool = False
    straight: bool = False

    @functools.cached_property
    def pattern(self) -> re.Pattern[str]:
        """The token as group 1, then what is ahead."""
        return re.compile(f"({self.token}){self.ahead}", re.DOTALL)


_RULES = [
    # Two words written as one, and words before their endings.
    _Rule("(?i:can)", r"(?i:not)(?!\w)"),
    _Rule("(?i:gon|wan)", r"(?i:na)(?!\w)"),
    _Rule("(?i:got)", r"(?i:ta)(?!\w)"),
    _Rule("(?i:lem|gim)", r"(?i:me)(?!\w)"),
    _Rule(_WORD, f"{_ENDING}(?![A-Za-z])"),
    _Rule("[A-Za-z]*[A-MO-Za-mo-z]", _NOT),
    _Rule(_WORD),
    _Rule(_ENDING, "[^A-Za-z]", straight=True),
    _Rule(_NOT, straight=True),
    # Addresses and names of the web.
    _Rule(r"https?://[^\s\"<>|(){}]+[^\s\"<>|.!?(){},-]"),
    _Rule(r"(?:www\.(?:[^\s\"<>|.!?(){},]+\.)+[a-zA-Z]{2,4}|(?:[^\s\"`'<>|.!?(){},_$-]+\.)+(?:com|net|org|edu))(?!\w)"),
    _Rule(r"[a-zA-Z0-9][^\s\"<>|(){}]*@(?:[^\s\"<>|(){}.]+\.)*[^\s\"<>|(){}\[\].,;:]+"),
    _Rule(rf"@[a-zA-Z_]\w*|#{_LETTER}+"),
    # Numbers.
    _Rule(r"\d{1,2}[-/]\d{1,2}[-/]\d{2,4}"),
    _Rule(r"[-+]?\d*(?:[.:,]\d+)+"),
    _Rule(r"[-+]?\d+"),
    _Rule(r"(?:\d{1,4}[- \xa0])?\d{1,4}[/\u2044]\d{1,4}"),
    _Rule("[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}(?:/[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}){1,2}"),
    _Rule(r"[A-Z]*\$|#"),
    # Abbreviations keep their period, and share it with the sentence that they end.
    _Rule(rf"(?:{_AFTER_NAMES})\.", r"\s(?:\s|[A-Z]|\Z)", ends_sentence=True),
    _Rule(rf"(?:{_AFTER_NAMES})\.", ".."),
    _Rule(rf"{_ACRONYM}\.", rf"\s{_OPENER}\s", ends_sentence=True),
    _Rule("[A-Za-z]", rf"\.\s{_OPENER}\s"),
    _Rule(rf"(?:{_ACRONYM}|{_BEFORE_NAMES}|[A-Za-z])\."),
    _Rule(_ACRONYM, r"\s"),
    _Rule(r"(?i:nos?|op)\.", r"\s?\d"),
    _Rule(rf"{_WORD}\.", "[,;:]"),
    # Quotation marks, dashes, dots.
    _Rule(r"\"", "[A-Za-z0-9$]", said="``"),
    _Rule(r"\"", said="''"),
    _Rule("-{3,4}", said="--"),
    _Rule("-+"),
    _Rule(r"\.{3,5}|(?:\.[ \xa0]){2,4}\.|\u2026", said="..."),
    _Rule("[?!]+"),
    # What hyphens, signs and apostrophes hold together.
    _Rule(r"[A-Za-z0-9][A-Za-z0-9.,]*(?:-(?:[A-Za-z0-9]+|[A-Za-z](?:\.[A-Za-z])*\.))+"),
    _Rule(f"{_PART}(?:-{_PART})*"),
    _Rule(f"{_ALNUM}+(?:_{_ALNUM}+)+"),
    _Rule("[A-Z]+(?:[+&][A-Z]+)+"),
    _Rule(rf"{_APOSTROPHE}(?:n{_APOSTROPHE}?|em|[2-9]0s|till?|cause)|(?:[lLdDjJ]|ol){_APOSTROPHE}"),
    _Rule(rf"[A-HJ-XZn]{_TICK}{_LETTER}{{2,}}|{_LETTER}+[aeiouyAEIOUY]{_TICK}[aeiouA-Z]{_LETTER}*"),
    _Rule(rf"{_APOSTROPHE}\d\d(?!\w)"),
    _Rule("'", r"[A-Za-z]\S", said="`"),
    _Rule(r"''|[`\u2018\u2019\u201a-\u201f\u2039\u203a\u00ab\u00bb]{1,2}", straight=True),
    _Rule("&amp;|&", said="&"),
    _Rule(r"\S"),
]
_SAID = {
    "(": "-lrb-",
    ")": "-rrb-",
    "[": "-lsb-",
    "]": "-rsb-",
    "{": "-lcb-",
    "}": "-rcb-",
    "£": "#",
    "€": "$",
    "½": "1/2",
    "\u2013": "--",
    "\u2014": "--",
    "\u201c": "``",
    "\u201d": "''",
}
_STRAIGHT = str.maketrans({"\u2018": "`", "\u2019": "'", "\u0092": "'"})
_PUNCTUATION = frozenset("'' ' `` ` . ? ! , : - -- ... ;".split())
"""What COCO's code removes. It means to remove brackets, too, but looks for them in upper case."""


@functools.lru_cache(maxsize=2**16)
def caption_words(text: str) -> tuple[str, ...]:
    """The tokens that ROUGE-L and CIDEr compare: those of a text, less punctuation."""
    return tuple(token for token in ptb_tokens(text) if token not in _PUNCTUATION)


def ptb_tokens(text: str) -> list[str]:
    """The tokens of a text, in lower case."""
    # Rules that look ahead meet the end of a line.
    return list(_tokens(" ".join(text.splitlines()) + "\n\n"))


def _tokens(text: str) -> Iterator[str]:
    place = 0
    while place < len(text):
        if text[place].isspace():
            place += 1
            continue
        matches = [(rule, match) for rule in _RULES if (match := rule.pattern.match(text, place))]
        rule, match = max(matches, key=lambda found: found[1].end())
        token = rule.said or _SAID.get(match[1], match[1])
        place = match.end(1) - rule.ends_sentence
        # A space inside a token (4 1/2) is hard, as tokens are joined with spaces and split again.
        yield (token.translate(_STRAIGHT) if rule.straight else token).lower().replace(" ", "\xa0")
