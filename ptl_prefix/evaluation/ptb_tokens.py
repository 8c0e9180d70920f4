"""A Penn Treebank tokenizer, as image-caption scorers and the E2E challenge use it.

In: a text of one line. Out: its tokens in lower case. COCO's caption evaluation runs Stanford's PTBTokenizer (CoreNLP
3.4.1), a Java program. The rules here split text as it does, so that ROUGE-L and CIDEr need no Java. Where Java is
installed, tests compare the two on real data.

At each position all rules are tried, and the longest match wins, lookahead included; of equally long ones, the first
rule. Known differences: the Java program looks past the end of a line, so that the tokens of a last initial ("Plan B.")
depend on the next text; telephone numbers and smileys are not single tokens here.
"""

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass

# Python does not count the vowel signs of Indic scripts as letters; here they belong to their letters.
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
    """A rule for one kind of token.

    Args:
        token: Pattern of the token.
        ahead: Pattern that must follow the token; it counts in the length of the match.
        replacement: Text that replaces the token; empty: the token itself.
        ends_sentence: Whether the period at the token's end is also a token of its own.
        straight: Whether its apostrophe is replaced by a straight one.
    """

    token: str
    ahead: str = ""
    replacement: str = ""
    ends_sentence: bool = False
    straight: bool = False

    @functools.cached_property
    def pattern(self) -> re.Pattern[str]:
        """The compiled pattern, with the token as group 1."""
        return re.compile(f"({self.token}){self.ahead}", re.DOTALL)


_RULES = [
    # Two words written as one, and words before a clitic.
    _Rule("(?i:can)", r"(?i:not)(?!\w)"),
    _Rule("(?i:gon|wan)", r"(?i:na)(?!\w)"),
    _Rule("(?i:got)", r"(?i:ta)(?!\w)"),
    _Rule("(?i:lem|gim)", r"(?i:me)(?!\w)"),
    _Rule(_WORD, f"{_ENDING}(?![A-Za-z])"),
    _Rule("[A-Za-z]*[A-MO-Za-mo-z]", _NOT),
    _Rule(_WORD),
    _Rule(_ENDING, "[^A-Za-z]", straight=True),
    _Rule(_NOT, straight=True),
    # URLs, host names, e-mail addresses, handles and tags.
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
    # Abbreviations keep their period, which also ends the sentence if they are its last word.
    _Rule(rf"(?:{_AFTER_NAMES})\.", r"\s(?:\s|[A-Z]|\Z)", ends_sentence=True),
    _Rule(rf"(?:{_AFTER_NAMES})\.", ".."),
    _Rule(rf"{_ACRONYM}\.", rf"\s{_OPENER}\s", ends_sentence=True),
    _Rule("[A-Za-z]", rf"\.\s{_OPENER}\s"),
    _Rule(rf"(?:{_ACRONYM}|{_BEFORE_NAMES}|[A-Za-z])\."),
    _Rule(_ACRONYM, r"\s"),
    _Rule(r"(?i:nos?|op)\.", r"\s?\d"),
    _Rule(rf"{_WORD}\.", "[,;:]"),
    # Quotation marks, dashes, dots.
    _Rule(r"\"", "[A-Za-z0-9$]", replacement="``"),
    _Rule(r"\"", replacement="''"),
    _Rule("-{3,4}", replacement="--"),
    _Rule("-+"),
    _Rule(r"\.{3,5}|(?:\.[ \xa0]){2,4}\.|\u2026", replacement="..."),
    _Rule("[?!]+"),
    # Words with hyphens, signs and apostrophes.
    _Rule(r"[A-Za-z0-9][A-Za-z0-9.,]*(?:-(?:[A-Za-z0-9]+|[A-Za-z](?:\.[A-Za-z])*\.))+"),
    _Rule(f"{_PART}(?:-{_PART})*"),
    _Rule(f"{_ALNUM}+(?:_{_ALNUM}+)+"),
    _Rule("[A-Z]+(?:[+&][A-Z]+)+"),
    _Rule(rf"{_APOSTROPHE}(?:n{_APOSTROPHE}?|em|[2-9]0s|till?|cause)|(?:[lLdDjJ]|ol){_APOSTROPHE}"),
    _Rule(rf"[A-HJ-XZn]{_TICK}{_LETTER}{{2,}}|{_LETTER}+[aeiouyAEIOUY]{_TICK}[aeiouA-Z]{_LETTER}*"),
    _Rule(rf"{_APOSTROPHE}\d\d(?!\w)"),
    _Rule("'", r"[A-Za-z]\S", replacement="`"),
    _Rule(r"''|[`\u2018\u2019\u201a-\u201f\u2039\u203a\u00ab\u00bb]{1,2}", straight=True),
    _Rule("&amp;|&", replacement="&"),
    _Rule(r"\S"),
]
_REPLACED = {
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
"""The tokens that COCO's code removes. It also means to remove brackets, but compares them in upper case."""


@functools.lru_cache(maxsize=2**16)
def caption_words(text: str) -> tuple[str, ...]:
    """The tokens of a text without punctuation, which ROUGE-L and CIDEr compare."""
    return tuple(token for token in ptb_tokens(text) if token not in _PUNCTUATION)


def ptb_tokens(text: str) -> list[str]:
    """The tokens of a text, in lower case."""
    # The end of a line is added for the rules that look ahead.
    return list(_tokens(" ".join(text.splitlines()) + "\n\n"))


def _tokens(text: str) -> Iterator[str]:
    position = 0
    while position < len(text):
        if text[position].isspace():
            position += 1
            continue
        matches = [(rule, match) for rule in _RULES if (match := rule.pattern.match(text, position))]
        rule, match = max(matches, key=lambda found: found[1].end())
        token = rule.replacement or _REPLACED.get(match[1], match[1])
        position = match.end(1) - rule.ends_sentence
        # A space inside a token (4 1/2) becomes a no-break space, as tokens are joined with spaces and split again.
        yield (token.translate(_STRAIGHT) if rule.straight else token).lower().replace(" ", "\xa0")
