"""What secrets look like: the one table of shapes that redaction.py refuses and takes out by.

Three ways to know one: the form of the value (a token's prefix, a signed address, a private key), the name that it is
given (password=, AWS_SECRET_ACCESS_KEY=), and, in redaction.py, the values of variables of this process with such
names. What is no secret has to stay, or records could not be read and patches not applied: digests, commits, refs,
paths, and code that only speaks of passwords. The prefixes are those that the providers publish and scanners such as
gitleaks list. Every quantifier is bounded, so the time is linear in the text.
"""

import functools
import re
from collections.abc import Callable
from typing import NamedTuple

Find = re.Match[str]


class Shape(NamedTuple):
    """One kind of secret."""

    name: str
    """What people call it, after "holds"."""
    pattern: re.Pattern[str]
    """Its group `secret` is what is taken out."""
    is_one: Callable[[Find], bool] = lambda found: True
    """Whether a match is a secret, where a pattern cannot say."""


def _any_case(pattern: str) -> str:
    """A pattern of words in any capitals without a flag, which JSON schema has not."""
    return re.sub(r"[a-z]", lambda letter: f"[{letter[0]}{letter[0].upper()}]", pattern)


# The parts of names that call a value secret wherever they stand ...
STRONG = (
    "passwords?|passwd|passphrase|passcode|pwd|secrets?|credentials?|api[_-]?keys?|webhook(?:[_-]?url)?|"
    "(?:secret[_-]?)?access[_-]?keys?(?:[_-]?id)?|(?:account|private|signing|encryption|storage|subscription|master)[_-]?key|"
    "(?:access|auth|refresh|id|session|security|bearer|api|bot|deploy|client)[_-]?token|auth[_-]?(?:string|key)|"
    "connection[_-]?string|client[_-]?key[_-]?data"
)
# ... and those that do only as whole words and where the value looks the part: key=lambda, token: str
WEAK = "key|token|auth|sig|signature|sas|jwt|bearer|session|cookie|pat|pw|pass|otp"
VARIABLE = "token|secret|password|passwd|passphrase|pwd|pass|key|credentials?|auth|auth_string|dsn|webhook|sas|pat"
SECRET_VARIABLE = re.compile(rf"(?:\w*_)?(?:{VARIABLE})|\w*connection_(?:url|string)", re.IGNORECASE)
IS_STRONG, IS_WEAK = re.compile(rf".*(?:{STRONG})"), re.compile(rf"(?:.*[^a-z0-9])?(?:{WEAK})")
QUERY_NAME = (
    rf"(?:[\w.%\[\]-]{{0,64}}?(?:{_any_case(STRONG)})|(?:[\w.%\[\]-]{{0,64}}[^A-Za-z0-9=&;\s]|[\w.-]{{0,64}}(?=[KTSAC][a-z]))?"
    rf"(?:{_any_case(WEAK)}|{_any_case('hmac|accessid|key-pair-id|sid|j?sessionid')}))"
    r"(?:(?![a-z])[\w.%\[\]-]{0,32})?"
)
USER = r"[^\s:/?#@\"'<>`]{0,200}:(?!\d{1,5}[/?#\s])"  # and no port
NO_VALUE = r"(?!\*\*\*|[{<$%]|\.\.\.)"  # what was taken out already, and what stands for a value in a template
# letters and digits; small ones, capitals and digits
MIXED = r"(?=[^\s\"'<>`]{0,200}\d)(?=[^\s\"'<>`]{0,200}[A-Za-z])"
RANDOM = r"(?=\w{0,60}[a-z])(?=\w{0,60}[A-Z])(?=\w{0,60}\d)"
SEGMENT = rf"(?P<secret>{NO_VALUE}[^\s\"'<>\\`|?#]{{8,400}})"


def _url(name: str, host: str) -> Shape:
    """An address whose path is the secret: whoever has it may post."""
    return Shape(name, re.compile(host + SEGMENT))


SIGNED = (
    Shape(
        "an address with a password",
        re.compile(
            rf"://(?P<secret>{NO_VALUE}(?!(?:git|hg|svn|anonymous)@)(?:{USER}[^\s?&\"'<>`]{{1,200}}|{USER}[^\s@\"'<>`]{{1,200}}|"
            r"[^\s:/?#\"'<>\\`|]{1,400}))@(?=[\w.\[{</-])"
        ),
    ),
    Shape(
        "an address with a password",
        re.compile(r"%3[aA]%2[fF]%2[fF](?P<secret>[^\s%&\"']{0,200}%3[aA][^\s&\"'@]{1,200}?)%40"),
    ),
    Shape(
        "an address with a token or a signature",
        re.compile(rf"[?&;#]{QUERY_NAME}=(?!=)(?P<secret>{NO_VALUE}[^&;\s\"'<>\\`#]{{1,4000}})"),
    ),
    Shape(
        "an address with a token or a signature",
        re.compile(r"[?&][cC]ode=(?P<secret>[\w%/+=-]{20,400})"),
    ),
    _url("a webhook", r"hooks\.slack(?:-gov)?\.com/(?:services|workflows|triggers)/"),
    _url("a webhook", r"[dD]iscord(?:app)?\.com/api/(?:v\d{1,2}/)?webhooks/"),
    _url("a webhook", r"(?:webhook\.office|outlook\.office(?:365)?)\.com/webhook(?:b2)?/"),
    _url("a webhook", r"hooks\.zapier\.com/hooks/catch/"),
    _url("a webhook", r"maker\.ifttt\.com/trigger/[\w-]{1,80}/(?:json/)?with/key/"),
    _url("a webhook", r"://[^\s/\"'<>]{1,200}/(?:[\w-]{1,40}/){0,4}(?:web)?hooks?/(?=[A-Za-z_-]{0,80}\d)(?=[\w-]{16})"),
    Shape(
        "an address with a token or a signature",
        re.compile(
            r"://[^\s\"'<>#]{1,300}(?:/(?:token|key|secret|auth|api[_-]?key)s?/|#)"
            rf"(?P<secret>{RANDOM}[A-Za-z0-9_]{{20,400}})(?![\w-])"
        ),
    ),
    _url("a bot's token", r"api\.telegram\.org/bot"),
    Shape("a bot's token", re.compile(r"(?<![\w-])(?P<secret>\d{8,10}:[A-Za-z0-9_-]{35})(?![\w-])")),
)
PREFIXED = {
    "cloud_access_key": [
        r"(?:AKIA|ASIA|ABIA|ACCA|AROA|AIDA)[A-Z0-9]{12,}", r"AIza[0-9A-Za-z_-]{30,}", r"ya29\.[\w-]{20,}",
        r"GOCSPX-[\w-]{20,}", r"do[opr]_v1_[0-9a-f]{32,}", r"dapi[0-9a-f]{32}", r"GOOG1?[A-Z0-9]{20,}",
    ],
    "hub_token": [
        r"hf_[A-Za-z0-9]{14,}", r"api_(?:org_[A-Za-z0-9]{16,}|[A-Za-z0-9]{34,40})",
        r"r8_[A-Za-z0-9]{30,}", r"dckr_[po]at_[\w-]{16,}",
    ],
    "git_token": [
        r"gh[pousr]_[A-Za-z0-9]{12,}", r"github_pat_\w{16,}",
        r"gl(?:pat|ptt|dt|rt|cbt|ft|imt|agent|soat|oas|ffct)-[\w.-]{12,}", r"ATBB[A-Za-z0-9]{24,}",
        r"ATATT3[\w=-]{20,}", r"[A-Za-z0-9]{14}\.atlasv1\.[\w-]{40,}",
    ],
    "chat_token": [
        r"xox[abceoprs](?:\.xox[bp])?-[\w-]{8,}", r"xapp-[\w-]{8,}", r"[MNO][\w-]{23,27}\.[\w-]{6}\.[\w-]{27,45}",
    ],
    "API_key": [
        r"sk-(?:proj|ant|or|svcacct|admin|lf)-[\w-]{8,}", r"sk-(?=[A-Za-z_-]{0,60}\d)[\w-]{16,}",
        r"sk-[A-Za-z0-9]{32,}", r"key-[0-9a-f]{32}", r"[rsp]k_(?:live|test)_[A-Za-z0-9]{10,}", r"gsk_[A-Za-z0-9]{20,}",
        r"xai-[A-Za-z0-9]{20,}", r"nvapi-[\w-]{20,}",
        r"wandb_v\d_\w{16,}", r"local-[0-9a-f]{40}", r"SG\.[\w-]{16,}\.[\w-]{16,}", r"SK[0-9a-f]{32}",
        r"hv[sbr]\.[\w-]{20,}", r"AGE-SECRET-KEY-1[A-Z0-9]{20,}", r"lin_api_\w{20,}", r"gl(?:sa|c)_[\w+/=]{20,}",
        r"dp\.[a-z]{2,6}\.[A-Za-z0-9]{20,}", r"pul-[0-9a-f]{40}", r"sntry[su]_[\w+/=]{20,}", r"lsv2_(?:pt|sk)_\w{20,}",
        r"tskey-[\w-]{12,}", r"ntn_[A-Za-z0-9]{20,}", r"secret_(?:[a-z]{2,20}_)?[A-Za-z0-9]{32,}",
        r"whsec_[\w+/=-]{20,}", r"shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}", r"sq0[a-z]{3}-[\w-]{20,}", r"NRAK-[A-Z0-9]{20,}",
        r"pplx-[A-Za-z0-9]{20,}", r"tgp_v1_[\w-]{20,}", r"fw_(?=[A-Za-z]{0,24}\d)[A-Za-z0-9]{20,}",
        r"rpa_[A-Za-z0-9]{20,}", r"sbp_[0-9a-f]{40}", r"fm[12]_[\w+/=-]{20,}", r"pat[A-Za-z0-9]{14}\.[A-Za-z0-9]{32,}",
        r"sk_[0-9a-f]{40,}", r"a[ks]-(?=[A-Za-z]{0,24}\d)[A-Za-z0-9]{20,}", r"[0-9a-f]{32}-us\d{1,2}",
        r"AC[0-9a-f]{32}:[0-9a-f]{32}", r"sl\.(?:u\.)?[\w-]{60,}",
    ],
    "Prefect_key": [r"pn[ub]_[A-Za-z0-9]{8,}"],
    "package_index_token": [
        r"npm_[A-Za-z0-9]{20,}", r"pypi-(?=[a-z_-]{0,60}[A-Z0-9])[\w-]{16,}", r"rubygems_[0-9a-f]{32,}",
    ],
    "signed_token": [r"eyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*){0,3}", r"v[1-4]\.(?:local|public)\.[\w-]{20,}"],
}  # fmt: skip
PRIVATE_KEY = re.compile(
    r"-----BEGIN (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----(?!(?:\s|\\n|\\r|[ +-])*\*\*\*)"
    r"(?P<secret>(?:(?!-----)[\s\S]){1,20000}?-----END|"
    r"(?:\s|\\n|\\r|[ +-])*[A-Za-z0-9+/=]{24,}[A-Za-z0-9+/=\s\\-]{0,20000})"
)
HEADER = _any_case(
    "(?:proxy-)?authorization|x-(?:api|auth|amz-security|goog-api)-?(?:key|token)|private-token|(?:set-)?cookie"
)
SCHEME = _any_case("bearer|basic|token|digest|negotiate|apikey") + "|AWS4-HMAC-SHA256"
GIVEN = (
    rf"{NO_VALUE}(?:(?:{SCHEME})[ \t]{{1,3}}{NO_VALUE}|"
    rf"(?=[^\s\"'`\\(]{{0,200}}[\d=])[^\s\"'`\\(]{{8}})[^\n\r\"'`\\]{{2,4000}}"
)
CLOSE, SIGN = r"\\{0,3}[\"']?\]?", r"[ \t]{0,3}(?:=>|:=|==?|:|%3[dD])[ \t]{0,3}"
NAMED = re.compile(
    rf"(?<![\w.-])(?P<name>[A-Za-z_][\w.-]{{0,80}}){CLOSE}(?P<sign>{SIGN})"
    rf"(?=b?\\{{0,3}}[\"'`](?P<quoted>{NO_VALUE}[^\"'`\n\\]{{3,2000}})|"
    rf"(?P<bare>{NO_VALUE}[^\s\"'`,;&<>(){{}}\[\]\\]{{3,2000}})(?P<after>.?))"
)
CODE = re.compile(r"[A-Za-z_][\w.]*")
OTHER_NAME = re.compile(r"[A-Z]+(?:_[A-Z0-9]+)+")  # SECRET = "MY_SECRET": a variable is named, not given
PLACEHOLDERS = {
    "none", "null", "true", "false", "str", "int", "bytes", "bool", "any", "required", "optional", "password", "secret",
    "user:password", "key", "token", "testing", "unset", "empty",
}  # fmt: skip
DIGEST = re.compile(r"(?:sha\d{1,3}[:-])?[0-9a-fA-F]{32,128}")


@functools.lru_cache(maxsize=4096)
def _kind_of_name(name: str) -> str:
    """How far a name says that its value is secret: variable (MY_TOKEN), strong (dbPassword), weak (key) or not."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    if IS_STRONG.fullmatch(words):
        return "strong"
    if name.isupper() and "_" in name and SECRET_VARIABLE.fullmatch(name):
        return "variable"
    return "weak" if IS_WEAK.fullmatch(words) else ""


def is_named(found: Find) -> bool:
    """Whether what a name is given is a secret: code and prose only speak of passwords."""
    kind = _kind_of_name(found["name"])
    value = (found["quoted"] or found["bare"]).rstrip(".")
    if not kind or value.lower() in PLACEHOLDERS or not value.strip("xX*.•-_") or OTHER_NAME.fullmatch(value):
        return False
    if kind == "weak":
        return _is_random(value)
    if found["bare"]:
        return not _is_code(found, value)
    if kind == "variable" and found["sign"] != "=" and re.fullmatch(r"[a-z_./-]*", value):
        return False  # CACHE_KEY = "gc/intent.json"
    return " " not in value.strip() or "phrase" in found["name"].lower() or bool(re.search(r"\d", value))


def _is_code(found: Find, value: str) -> bool:
    """Whether a value without quotes is a name, a type or a word: `password: str`, `connect(secret=secret)`."""
    if value.startswith(("://", "?")) or found["after"] in ("(", "[", "{"):
        return True
    if not CODE.fullmatch(value) or (len(value) >= 20 and not {"_", "."} & set(value)):
        return False
    if "." in value or any(letter.isdigit() for letter in value):
        return "." in value
    name = found["name"].lower()
    if found["sign"] != "=" or value.lower() in name or name in value.lower():
        return True
    return not name.isupper() and found["after"] in (",", ")", "]", "}")


def _is_random(value: str) -> bool:
    """Whether a value has the look of a generated one: long, of three kinds of letters, no digest and no path."""
    kinds = sum(bool(re.search(kind, value)) for kind in ("[a-z]", "[A-Z]", "[0-9]"))
    return len(value) >= 20 and kinds == 3 and not DIGEST.fullmatch(value) and not re.search(r"[./:\s]|--", value)


# Names whose value comes after something else than a sign: an option, a tag, a comma, a word
TELLING = rf"(?:[\w.-]{{0,40}}?(?:{_any_case(STRONG)})|[A-Z0-9_]{{1,40}}_(?:{VARIABLE.upper()}))"
QUOTE = r"\\{0,3}[\"']"
GAP = (
    r"(?:[ \t]|\r?\n[+-]?){1,40}"  # blanks and lines, also those of a patch; no sign but at a line's beginning: linear
)
BESIDE = tuple(
    Shape("a secret with its name", re.compile(pattern))
    for pattern in (
        rf"(?<![\w-])--?(?:{TELLING}|(?:[\w-]{{0,40}}-)?(?:token|pass))(?:=|[ \t]{{1,3}})(?:{QUOTE})?"
        rf"(?P<secret>{NO_VALUE}{MIXED}[^\s\"'<>`\\]{{8,400}})",
        rf"(?<![\w-])(?:-u|--user|--proxy-user)[ =]{{1,3}}(?:{QUOTE})?[^\s:\"']{{1,100}}:"
        rf"(?P<secret>{NO_VALUE}{MIXED}[^\s\"'<>`\\]{{6,400}})",
        rf"%(?:26|3[fFbB])(?:{TELLING}|[\w-]{{0,40}}(?:{_any_case('token|sig|signature|key')}))%3[dD]"
        rf"(?P<secret>{NO_VALUE}[^\s&%\"'<>\\]{{3,400}})",
        rf"(?<![\w/])[\w.+-]{{1,80}}:(?P<secret>{NO_VALUE}{RANDOM}[^\s:/@\"'<>`\\]{{8,400}})"
        rf"@(?:tcp\(|unix\(|[\w.-]{{1,200}}(?::\d{{1,5}})?/)",
        rf"\b(?:redis-cli|mysql|mysqldump|mysqladmin|mariadb)[ \t](?:[^\n]{{0,200}}[ \t])?"
        rf"-(?:a[ \t]{{1,3}}|p)(?P<secret>{NO_VALUE}{RANDOM}[^\s\"']{{8,400}})",
        rf"\blogin{GAP}\S{{1,200}}{GAP}password{GAP}"  # netrc
        rf"(?P<secret>{NO_VALUE}[^\s\"']{{3,400}})",
        rf"(?<![\w.-])[\w.*-]{{1,100}}:(?:\d{{2,5}}|\*):[\w*-]{{1,60}}:[\w.-]{{1,60}}:"
        rf"(?P<secret>{NO_VALUE}{RANDOM}[^\s:\"']{{8,400}})",  # pgpass
        rf"\bsshpass[ \t]{{1,3}}-p[ \t]{{0,3}}(?:{QUOTE})?(?P<secret>{NO_VALUE}[^\s\"']{{3,400}})",
        rf"<(?:\w{{1,40}}:)?{TELLING}(?:\s[^<>]{{0,200}})?>(?P<secret>{NO_VALUE}[^<>\s]{{3,400}})</",
        rf"{QUOTE}{TELLING}{QUOTE}\s{{0,3}},\s{{0,3}}b?{QUOTE}(?P<secret>{NO_VALUE}{MIXED}[^\s\"'\\,]{{8,400}}){QUOTE}",
        rf"\b(?:name|key|Name|Key)(?:{QUOTE})?\s{{0,3}}[:=]\s{{0,3}}(?:{QUOTE})?{TELLING}(?:{QUOTE})?[,;]?\s{{1,40}}"
        rf"(?:{QUOTE})?[vV]alue(?:{QUOTE})?\s{{0,3}}[:=]\s{{0,3}}(?:{QUOTE})?"
        rf"(?P<secret>{NO_VALUE}[^\s\"'\\,<>]{{3,400}})",
        rf"\b(?:{_any_case('password|passwd|passphrase|secret|token|api key')})(?: is)?:?[ \t]{{1,3}}(?:{QUOTE})?"
        rf"(?P<secret>{NO_VALUE}{RANDOM}[\w+/=-]{{16,400}})",
        rf"(?:{_any_case('pass ?phrase|mnemonic|seed phrase')})(?:{QUOTE})?[ \t]{{0,3}}[:=][ \t]{{0,3}}"
        r"(?P<secret>[a-z]{2,12}(?:[ -][a-z]{2,12}){3,23}(?:[ -]\d{1,6})?)(?=[\"'\n]|$)",
        r"\$(?:apr1|[156y]|2[abxy]|argon2[id]{1,2})\$(?:[\w.,=/+-]{1,40}\$){0,3}(?P<secret>[./A-Za-z0-9+]{20,200})",
    )
)
SHAPES = (
    Shape("a private key", PRIVATE_KEY),
    Shape(  # PuTTY's: more lines are part of it where they hold nothing else
        "a private key",
        re.compile(
            r"Private-Lines: \d{1,4}(?P<secret>\s[A-Za-z0-9+/=]{24,100}(?:\s[A-Za-z0-9+/=]{1,100}(?![^\s\"'])){0,300})"
        ),
    ),
    *SIGNED,
    Shape(
        "a token",
        re.compile(
            "(?<![A-Za-z0-9_-])(?P<secret>"
            + "|".join(f"(?P<{name}>{'|'.join(each)})" for name, each in PREFIXED.items())
            + ")"
        ),
    ),
    Shape(
        "a secret access key",
        re.compile(r"(?:\*\*\*|AKIA[A-Z0-9]{12,})[^\w\n]{1,8}(?P<secret>[A-Za-z0-9/+]{40})(?![A-Za-z0-9/+])"),
    ),
    Shape(
        "a header with a key",
        re.compile(rf"(?<![\w-])(?:{HEADER}){CLOSE}[ \t]{{0,3}}[:=][ \t]{{0,3}}\\{{0,3}}[\"']?(?P<secret>{GIVEN})"),
    ),
    Shape(
        "a header with a key",
        re.compile(rf"\b(?:[bB]earer|[bB]asic|BEARER)(?:\s{{1,3}}|\.)(?P<secret>{NO_VALUE}(?=[A-Za-z._~+/-]{{0,200}}[\d=])[\w.~+/=-]{{8,4000}})"),
    ),
    *BESIDE,
    Shape("a secret with its name", NAMED, is_named),
)  # fmt: skip
# What the API refuses in a form's text, in words that JSON schema has: the shapes that a pattern alone can tell
FORM_NAMED = (
    rf"(?:{_any_case(STRONG)}|[A-Z0-9]_(?:{VARIABLE.upper()}))"
    r"[\"']?[ \t]{0,3}[=:][ \t]{0,3}(?:b?[\"'])?[^\s\"'{<$%*.]{3}"
)
FORM_PATTERN = "|".join(
    FORM_NAMED if shape.pattern is NAMED else re.sub(r"\(\?P<\w+>", "(?:", shape.pattern.pattern) for shape in SHAPES
)
