"""Programs as words: a lexer for C, C++ and Python, the names every program shares, and a tokenizer learned from programs."""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Iterable
from typing import Any


#: ending of a file -> language
ENDINGS = {".c": "c", ".cc": "cpp", ".cpp": "cpp", ".cxx": "cpp", ".c++": "cpp", ".py": "python"}
LANGUAGES = ("c", "cpp", "python")
PAD, UNKNOWN, BEGIN, END = "<pad>", "<unk>", "<s>", "</s>"

_C_KEYWORDS = """alignas alignof and and_eq asm auto bitand bitor bool break case catch char class compl const constexpr
    const_cast continue decltype default delete do double dynamic_cast else enum explicit export extern false float for friend
    goto if inline int long mutable namespace new noexcept not not_eq nullptr operator or or_eq private protected public
    register reinterpret_cast restrict return short signed sizeof static static_assert static_cast struct switch template this
    thread_local throw true try typedef typeid typename union unsigned using virtual void volatile wchar_t while xor xor_eq
    _Bool _Complex"""
# names of the standard libraries that small programs use; nobody may rename them, and they say what a program does
_C_LIBRARY = """std main NULL EOF stdin stdout stderr printf scanf sprintf sscanf fprintf fscanf puts gets fgets fputs putchar
    getchar getc putc fopen fclose fflush feof freopen malloc calloc realloc free abs labs fabs sqrt pow floor ceil round exp
    log log10 sin cos tan atan atan2 fmod strlen strcpy strncpy strcat strncat strcmp strncmp strchr strrchr strstr strtok
    strrev memset memcpy memmove memcmp isdigit isalpha isalnum isupper islower isspace toupper tolower atoi atof atol itoa
    qsort bsearch rand srand time clock exit system INT_MAX INT_MIN LONG_MAX RAND_MAX size_t int64_t uint64_t int32_t uint32_t
    cin cout cerr endl string vector map set multiset multimap unordered_map unordered_set pair make_pair queue stack deque
    list priority_queue bitset tuple array iterator const_iterator sort stable_sort reverse unique find count min max swap
    next_permutation prev_permutation lower_bound upper_bound accumulate fill max_element min_element push_back pop_back push
    pop top front back begin end rbegin rend size length empty insert erase clear substr append resize getline get put setw
    setprecision setfill fixed ios hex oct dec left right to_string stoi greater less first second ifstream ofstream
    stringstream istringstream ostringstream ignore width precision flush assert sync_with_stdio tie FILE va_list"""
LIBRARY_NAMES = frozenset(f"{_C_KEYWORDS} {_C_LIBRARY}".split())
PYTHON_NAMES = frozenset([*keyword.kwlist, *keyword.softkwlist, *dir(builtins), "self", "cls", "__name__", "__main__"])

_C_STRING = r'(?:u8|u|U|L)?"(?:\\.|[^"\\\n])*"?'
_C = re.compile(
    r"""
    (?P<comment>//(?:\\\r?\n|[^\n])*|/\*.*?(?:\*/|\Z))
  | (?P<directive>(?m:^)[ \t]*\#(?:"(?:\\.|[^"\\\n])*"|/\*.*?\*/|//[^\n]*|\\\r?\n|[^\n])*)
  | (?P<string>(?:u8|u|U|L)?R"(?P<mark>[^()\\\s]{0,16})\(.*?\)(?P=mark)"|"""
    + _C_STRING
    + r"""|(?:u8|u|U|L)?'(?:\\.|[^'\\\n])*'?)
  | (?P<number>\.?\d(?:[eEpP][+-]|'?[\w.])*)
  | (?P<name>[^\W\d]\w*)
  | (?P<space>\s+)
  | (?P<operator><<=|>>=|\.\.\.|->\*|->|\+\+|--|<<|>>|<=|>=|==|!=|&&|\|\||[-+*/%&|^]=|::|\.\*|\#\#|.)
    """,
    re.VERBOSE | re.DOTALL,
)
_PYTHON = re.compile(
    r"""
    (?P<comment>\#[^\n]*)
  | (?P<string>(?i:[rbfut]{0,2})(?:'''(?:\\.|.)*?(?:'''|\Z)|\"\"\"(?:\\.|.)*?(?:\"\"\"|\Z)|"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?))
  | (?P<number>\.?\d(?:[eE][+-]\d|[\w.])*)
  | (?P<name>[^\W\d]\w*)
  | (?P<space>\s+)
  | (?P<operator>\*\*=|//=|<<=|>>=|\.\.\.|->|:=|\*\*|//|<<|>>|<=|>=|==|!=|[-+*/%&|^@]=|.)
    """,
    re.VERBOSE | re.DOTALL,
)


def check_language(language: str) -> str:
    """Refuse a language that there is no lexer for.

    Raises:
        ValueError: names the languages.
    """
    if language not in LANGUAGES:
        raise ValueError(f"`language` is {language!r}, but it must be one of {', '.join(LANGUAGES)}.")
    return language


def lex_program(code: str, language: str, *, directives: bool = False) -> list[tuple[str, str]]:
    """Cut a program into its parts; joined, they are the program again.

    Args:
        code (`str`): the source.
        language (`str`): `"c"`, `"cpp"` or `"python"`.
        directives (`bool`, defaults to `False`): lines of the preprocessor as one part each, and not cut.

    Returns:
        `list[tuple[str, str]]`: `(kind, text)` with the kinds comment, directive, string, number, name, space, operator.

    Example:

    ```python
    >>> from hf_contrastive.data import lex_program
    >>> [text for kind, text in lex_program("x+=1; // more", "c") if kind != "space"]
    ['x', '+=', '1', ';', '// more']

    ```
    """
    pattern = _PYTHON if check_language(language) == "python" else _C
    parts: list[tuple[str, str]] = []
    for match in pattern.finditer(code):
        kind = next(name for name, text in match.groupdict().items() if text is not None and name != "mark")
        if kind == "directive" and not directives:
            text = match[0]
            start = text.index("#")
            if start:
                parts.append(("space", text[:start]))
            parts.append(("operator", "#"))
            parts += lex_program(text[start + 1 :], language, directives=False)
        else:
            parts.append((kind, match[0]))
    return parts


def program_words(code: str, language: str, *, strings: bool = True, names: str = "keep") -> list[str]:
    """The words of a program, without comments and white space.

    Args:
        code (`str`): the source.
        language (`str`): `"c"`, `"cpp"` or `"python"`.
        strings (`bool`, defaults to `True`): keep strings and characters in quotes.
        names (`str`, defaults to `"keep"`): `"number"` replaces the names that a program chose itself by `v0`, `v1`, ... in
            the order in which they come, so that renaming changes nothing.

    Returns:
        `list[str]`.

    Raises:
        ValueError: another `names`, or an unknown language.

    Example:

    ```python
    >>> from hf_contrastive.data import program_words
    >>> program_words("int total = n; /* sum */", "c", names="number")
    ['int', 'v0', '=', 'v1', ';']

    ```
    """
    if names not in ("keep", "number"):
        raise ValueError(f"`names` is {names!r}, but it must be 'keep' or 'number'.")
    left_out = {"comment", "space"} if strings else {"comment", "space", "string"}
    shared = PYTHON_NAMES if language == "python" else LIBRARY_NAMES
    seen: dict[str, str] = {}
    words = []
    for kind, text in lex_program(code, language):
        if kind in left_out:
            continue
        if kind == "name" and names == "number" and text not in shared:
            text = seen.setdefault(text, f"v{len(seen)}")
        words.append(text)
    return words


def name_parts(text: str, limit: int = 5) -> list[str]:
    """The words inside a name or number, in small letters.

    Args:
        text (`str`): as it stands in the program.
        limit (`int`, defaults to 5): parts that are kept, the first ones.

    Example:

    ```python
    >>> from hf_contrastive.data.program_tokens import name_parts
    >>> name_parts("maxValue_2")
    ['max', 'value', '2']

    ```
    """
    found = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_]+", text)
    return [part.lower() for part in found[:limit]] or [text[:20].lower() or "_"]


def train_program_tokenizer(words: Iterable[list[str]], vocab_size: int, max_length: int) -> Any:
    """A BPE tokenizer for programs, as the paper's (https://arxiv.org/abs/2206.08726, section 3.2): ids 0 padding, 1 unknown,
    2 beginning, 3 end; the beginning is put before every program.

    Args:
        words (iterable of `list[str]`): of [`program_words`], one list a program; merges never cross a word.
        vocab_size (`int`): tokens, with the 256 bytes and 4 special ones among them; 260 or more.
        max_length (`int`): the longest program in tokens.

    Returns:
        `PreTrainedTokenizerFast` that takes the words of a program joined by spaces.

    Raises:
        ValueError: a vocabulary that does not hold the bytes.

    Example:

    ```python
    >>> from hf_contrastive.data import program_words, train_program_tokenizer
    >>> tokenizer = train_program_tokenizer([program_words("int a = 1;", "c")], 270, max_length=64)
    >>> tokenizer("int a")["input_ids"][0], tokenizer.pad_token_id
    (2, 0)

    ```
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    if vocab_size < 260:
        raise ValueError(
            f"`vocab_size` is {vocab_size}, but it must be 260 or more: 256 bytes, four special tokens, merges."
        )
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, UNKNOWN, BEGIN, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((" ".join(program) for program in words), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", pair=None, special_tokens=[(BEGIN, 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        bos_token=BEGIN,
        eos_token=END,
        model_max_length=max_length,
    )


__all__ = [
    "ENDINGS",
    "LANGUAGES",
    "LIBRARY_NAMES",
    "PYTHON_NAMES",
    "check_language",
    "lex_program",
    "name_parts",
    "program_words",
    "train_program_tokenizer",
]
