"""Strings that tokenizers get wrong: the same ones for the same seed, on every machine."""

from collections.abc import Callable
from random import Random

_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_SPACES = " \t\n\r\v\f\x1c\x85\u00a0\u1680\u2003\u2009\u2028\u2029\u202f\u205f\u3000"
_INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff\u00ad\u200e\u200f\u202a\u202e\u2066\u2069"
_CONTROLS = "".join(map(chr, [*range(1, 32), *range(127, 160)]))
_COMBINING = "\u0300\u0301\u0303\u0308\u030a\u0327\u0328\u0338\u064b\u0651\u093c\u094d\u0e31\u0e49\u20dd"
_EMOJI = (
    "\U0001f642",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466",  # a family, joined
    "\U0001f44d\U0001f3fd",  # a tone of skin
    "\U0001f1e9\U0001f1ea",  # a flag
    "\u2764\ufe0f",
    "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",  # a flag of tags
    "1\ufe0f\u20e3",
)
_SCRIPTS = (  # ranges of letters: from right to left, without spaces, with marks, and beyond 16 bits
    (0x05D0, 0x05EA),
    (0x0627, 0x064A),
    (0x0430, 0x044F),
    (0x0391, 0x03A9),
    (0x0905, 0x0939),
    (0x0E01, 0x0E30),
    (0x3041, 0x3096),
    (0x4E00, 0x9FA5),
    (0xAC00, 0xD7A3),
    (0x10400, 0x1044F),
    (0x1D400, 0x1D433),
    (0x20000, 0x200FF),
)
_CASES = (  # whose lower or upper case, or normal form, is another length or another letter
    *(
        "\u0130stanbul",
        "stra\u00dfe",
        "\ufb01nd",
        "\u1e9e",
        "\u01c4",
        "\u212b",
        "\u2126",
        "\u00e9e\u0301",
        "\uff21\uff11",
    ),
    *("\u1e0b\u0323", "\u0f73", "\ufdfa", "\u2460", "\u00bd", "\u03c2\u03c3", "\u0149", "\u2163"),
)
_CODE = (
    '{"a": [1, 2]}',
    "x_1 += y**2;",
    "C:\\new\\table",
    "<b>&amp;</b>",
    "a\\u0041",
    "%20%0A",
    "#include <x.h>",
    "1e-5",
)
_PUNCTUATION = "#'\"`.,;:!?()[]{}<>/\\|@$%^&*-_=+~\u2026\u2014\u2019\u201c\u00ab\u3002\u060c\u00bf"


def hard_strings(count: int = 1_000, seed: int = 0) -> list[str]:
    """Strings that no two kinds of tokenizer spell alike, none of them empty, and no token of special meaning in them.

    Emoji of several code points, combining marks, writing from right to left, control characters, every kind of white
    space, words of hundreds of letters, letters whose case or normal form is longer, noise of bytes, and mixtures.

    Args:
        count: how many.
        seed: decides which; the first strings of a longer list are those of a shorter one.
    """
    random = Random(seed)
    kinds = [*_KINDS, _mixture, _sentence]
    return [kinds[number % len(kinds)](random) or "\x00" for number in range(count)]


def _some(random: Random, characters: str | tuple[str, ...], most: int = 24) -> str:
    return "".join(random.choices(characters, k=random.randint(1, most)))


def _word(random: Random) -> str:
    return _some(random, _LETTERS, 12)


def _in_script(random: Random) -> str:
    first, last = random.choice(_SCRIPTS)
    return "".join(chr(random.randint(first, last)) for _ in range(random.randint(1, 12)))


def _marked(random: Random) -> str:
    return "".join(letter + _some(random, _COMBINING, 3) for letter in _word(random))


def _spaced(random: Random) -> str:
    return _some(random, _SPACES) + "".join(_word(random) + _some(random, _SPACES, 4) for _ in range(3))


def _hidden(random: Random) -> str:
    return "".join(letter + random.choice(_INVISIBLE) for letter in _word(random))


def _controlled(random: Random) -> str:
    return _word(random) + _some(random, _CONTROLS, 8) + _word(random)


def _long(random: Random) -> str:
    return random.choice((random.choice(_LETTERS), _word(random), "#", "-", " ", "9")) * random.randint(40, 200)


def _number(random: Random) -> str:
    return f"{random.uniform(-1e9, 1e9):,.3f} {random.getrandbits(64)} {random.getrandbits(32):#x}"


def _both_ways(random: Random) -> str:
    return f"{_word(random)} \u202b{_in_script(random)}\u202c {random.randint(0, 999)} ({_in_script(random)})"


def _noise(random: Random) -> str:
    return random.randbytes(random.randint(1, 60)).decode("latin-1")


def _anything(random: Random) -> str:
    points = (random.randrange(0x110000) for _ in range(random.randint(1, 12)))
    return "".join(chr(point) for point in points if not 0xD800 <= point < 0xE000)


_KINDS: list[Callable[[Random], str]] = [
    lambda random: _some(random, _EMOJI, 6),
    lambda random: " ".join(random.choices(_CASES, k=4)),
    lambda random: _word(random) + _some(random, _PUNCTUATION) + _word(random),
    lambda random: random.choice(_CODE) + _some(random, _SPACES, 2) + random.choice(_CODE),
    *(_in_script, _marked, _spaced, _hidden, _controlled, _long, _number, _both_ways, _noise, _anything),
]


def _mixture(random: Random) -> str:
    return "".join(kind(random) for kind in random.choices(_KINDS, k=3))


def _sentence(random: Random) -> str:
    words = [random.choice((_word, _word, _in_script, _marked))(random) for _ in range(random.randint(4, 12))]
    return " ".join(words).capitalize() + random.choice((".", "?", "!", "\u2026", " .", "\n"))
