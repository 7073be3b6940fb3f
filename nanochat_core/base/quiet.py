"""Whether a statement of a module does nothing but bind its names: then it matters only to who uses one of them.

A function, a class, a constant, an import of a module known to be quiet. A call, a loop, a decorator or a base class
that is not known is not quiet, and counts wherever its module is imported: in doubt a step runs again, since a needless
run costs money and a stale hit trust. The tables are lists of what is known, so that every Python judges alike.
"""

import ast
from collections.abc import Iterable

# Calls and decorators that only make a value, by their full names. One is ours: a step's file is wording as well, and
# of what it puts into its Step only the body and the checks decide a result. A test holds that making one does nothing.
QUIET_CALLS = """
    bool bytes classmethod dict float frozenset int len list max min object property range round set slice
    sorted staticmethod str sum tuple type zip abc.abstractmethod collections.Counter collections.OrderedDict
    collections.defaultdict collections.deque collections.namedtuple contextlib.contextmanager
    contextlib.asynccontextmanager contextvars.ContextVar dataclasses.dataclass dataclasses.field enum.auto
    enum.unique fractions.Fraction functools.cache functools.cached_property functools.lru_cache
    functools.partial functools.wraps itertools.count logging.getLogger nanochat_core.pipeline.step.Step
    operator.attrgetter operator.itemgetter
    pathlib.Path pathlib.PurePosixPath re.compile string.Template struct.Struct threading.Event threading.Lock
    threading.RLock threading.local typing.NewType typing.ParamSpec typing.TypeVar typing.cast typing.final
    typing.overload typing.override typing.runtime_checkable torch.inference_mode torch.no_grad triton.autotune
    triton.jit
"""
# Importing these does nothing that a result could see.
QUIET_IMPORTS = """
    __future__ abc argparse array ast asyncio base64 bisect collections concurrent contextlib contextvars copy
    csv ctypes dataclasses datetime decimal difflib email enum errno fcntl fnmatch fractions functools gc
    getpass glob gzip hashlib heapq hmac html http importlib inspect io ipaddress itertools json logging math
    mmap multiprocessing numbers operator os pathlib pickle platform pprint queue random re resource secrets
    select shlex shutil signal socket sqlite3 stat statistics string struct subprocess sys sysconfig tarfile
    tempfile textwrap threading time timeit tokenize tomllib traceback types typing typing_extensions
    unicodedata urllib uuid warnings weakref zipfile zlib builtins codecs faulthandler ffbpe fsspec gigatoken
    rustbpe urllib3 numpy pyarrow pydantic requests safetensors tiktoken torch triton yaml
"""
QUIET_BASES = """
    collections.abc.Iterator collections.abc.Mapping collections.abc.MutableMapping collections.abc.Sequence
    html.parser.HTMLParser object abc.ABC ast.NodeTransformer ast.NodeVisitor dict enum.Enum enum.Flag
    enum.IntEnum enum.IntFlag enum.StrEnum float int list logging.Filter logging.Formatter logging.Handler str
    threading.Thread tuple typing.Generic typing.NamedTuple typing.Protocol typing.TypedDict
    torch.autograd.Function torch.nn.Module
"""
QUIET_METHODS = "absolute encode expanduser format join joinpath resolve split strip with_name with_suffix"
CONSTRUCTORS = frozenset({"__init__", "__new__", "__post_init__"})
PLAIN_BASES = frozenset({"object", "typing.Protocol", "typing.NamedTuple"})
CALLS, IMPORTS, BASES, METHODS = (
    frozenset(table.split()) for table in (QUIET_CALLS, QUIET_IMPORTS, QUIET_BASES, QUIET_METHODS)
)


class Quiet:
    """Judges the statements of one module, in their order."""

    def __init__(self, package: str, ours: str, bound: dict[str, list[str]], defined: set[str]) -> None:
        self.package, self.ours, self.bound, self.defined = package, ours, bound, defined
        self.classes: dict[str, bool] = {}
        """Classes of this module that were looked at, and whether they are quiet."""
        self.plain: set[str] = set()
        """Those of them that have no constructor of their own to run."""

    def is_ours(self, path: str) -> bool:
        return path == self.ours or path.startswith(f"{self.ours}.")

    def full_name(self, node: ast.AST) -> str:
        """What a dotted name means: "functools.cache", "nanochat_core.plan.Plan", "len"; empty where it is unknown."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return ""
        meant = self.bound.get(node.id, [] if node.id in self.defined else [node.id])
        base = meant[0] if len(meant) == 1 else ""
        return ".".join([base, *reversed(parts)]) if base else ""

    def is_quiet(self, node: ast.AST | None) -> bool:
        """Whether running a statement, or working out an expression, does nothing that another could see."""
        match node:
            case None | ast.Pass() | ast.Constant() | ast.Lambda(args=ast.arguments(defaults=[], kw_defaults=[])):
                return True
            case ast.Name(id=name):
                return name != "__builtins__"
            case ast.Import(names=[alias]):
                return self.is_ours(alias.name) or alias.name.split(".")[0] in IMPORTS
            case ast.ImportFrom(names=[alias]):
                source = origin(node, self.package)
                return alias.name != "*" and (self.is_ours(source) or source.split(".")[0] in IMPORTS)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                return name != "__getattr__" and self._all_quiet(_head(node)) and self._are_quiet_calls(node)
            case ast.ClassDef():
                return self._is_quiet_class(node)
            case ast.Expr():
                return self.is_quiet(node.value)
            case ast.Assign():
                return all(_is_name(each) for each in node.targets) and self.is_quiet(node.value)
            case ast.AnnAssign():
                return _is_name(node.target) and self.is_quiet(node.value) and self._is_quiet_hint(node.annotation)
            case ast.If():
                return self._all_quiet([node.test, *node.body, *node.orelse])
            case ast.Try():
                caught = [each for handler in node.handlers for each in [handler.type, *handler.body]]
                return self._all_quiet([*node.body, *caught, *node.orelse, *node.finalbody])
            case ast.Call():
                if _calls_back(node):
                    return False
                given = [*node.args, *(keyword.value for keyword in node.keywords)]
                return self._is_quiet_call(node.func) and self._all_quiet(given)
        return self._is_quiet_value(node)

    def _is_quiet_call(self, made: ast.expr) -> bool:
        """A known one, a method of a text or of what a known one gave, or a class of this file that only holds."""
        if isinstance(made, ast.Attribute) and made.attr in METHODS:
            return isinstance(made.value, ast.Constant | ast.Call) and self.is_quiet(made.value)
        is_plain = isinstance(made, ast.Name) and made.id in self.plain
        return is_plain or self.full_name(made) in CALLS

    def _is_quiet_value(self, node: ast.AST | None) -> bool:
        kinds = (
            ast.Tuple | ast.List | ast.Set | ast.Dict | ast.BinOp | ast.UnaryOp | ast.BoolOp | ast.Compare | ast.IfExp
            | ast.Attribute | ast.Subscript | ast.Slice | ast.Starred | ast.JoinedStr | ast.FormattedValue
            | ast.NamedExpr | ast.ListComp | ast.SetComp | ast.DictComp | ast.comprehension
        )  # fmt: skip
        if type(node).__name__ == "TypeAlias":
            return True  # worked out when somebody asks for it
        return isinstance(node, kinds) and self._all_quiet(
            child for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr | ast.comprehension)
        )

    def _all_quiet(self, nodes: Iterable[ast.AST | None]) -> bool:
        return all(self.is_quiet(node) for node in nodes)

    def _is_quiet_hint(self, node: ast.AST | None) -> bool:
        return self._is_quiet_value(node) or self.is_quiet(node)

    def _are_quiet_calls(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> bool:
        """Whether each decorator is a known one, called or not."""
        made = [each.func if isinstance(each, ast.Call) else each for each in node.decorator_list]
        given = [
            value
            for each in node.decorator_list
            if isinstance(each, ast.Call)
            for value in [*each.args, *(keyword.value for keyword in each.keywords)]
        ]
        return all(self.full_name(each) in CALLS or _is_setter(each) for each in made) and self._all_quiet(given)

    def _is_quiet_class(self, node: ast.ClassDef) -> bool:
        """Also not where a base may do something with its subclasses (`__init_subclass__`, a metaclass)."""
        known = all(self._is_quiet_base(base) for base in node.bases)
        frozen = {"total", "frozen"}  # of TypedDict; any other word goes to a metaclass or to __init_subclass__
        words = all(keyword.arg in frozen for keyword in node.keywords)
        hooks = any(getattr(each, "name", "") in ("__init_subclass__", "__set_name__") for each in node.body)
        quiet = known and words and not hooks and self._are_quiet_calls(node) and self._all_quiet(node.body)
        self.classes[node.name] = quiet and self.classes.get(node.name, True)
        bases = {self.full_name(base) or getattr(base, "id", "") for base in node.bases}
        own = {getattr(each, "name", "") for each in node.body}
        if self.classes[node.name] and bases <= PLAIN_BASES | self.plain and not own & CONSTRUCTORS:
            self.plain.add(node.name)
        return quiet

    def _is_quiet_base(self, node: ast.expr) -> bool:
        base = node.value if isinstance(node, ast.Subscript) else node
        name = self.full_name(base)
        is_known = "." not in name or name.startswith(f"{self.ours}.base.errors.")  # Python's own, or ours
        is_error = is_known and name.endswith(("Error", "Exception", "Interrupt", "Warning"))
        is_own = isinstance(base, ast.Name) and self.classes.get(base.id, False)  # defined above
        return name in BASES or is_error or is_own


def origin(node: ast.ImportFrom, package: str) -> str:
    """The absolute name of what a `from ... import` reads from."""
    if node.level == 0:
        return node.module or ""
    parts = package.split(".")
    base = parts[: len(parts) - node.level + 1]
    return ".".join([*base, node.module] if node.module else base)


def _head(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.expr | None]:
    """What of a function is worked out when it is defined; hints are looked at for calls only."""
    args = node.args
    named = [*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg]
    hints = [each.annotation for each in named if each is not None]
    return [*args.defaults, *args.kw_defaults, *hints, node.returns]


def _calls_back(node: ast.Call) -> bool:
    """Whether a call of a known one runs what it is given: a key, or the hooks of the bases of a new class."""
    is_class = isinstance(node.func, ast.Name) and node.func.id == "type" and len(node.args) > 1
    return is_class or any(keyword.arg == "key" for keyword in node.keywords)


def _is_name(node: ast.AST) -> bool:
    if isinstance(node, ast.Tuple | ast.List):
        return all(_is_name(each) for each in node.elts)
    return isinstance(node, ast.Name) or (isinstance(node, ast.Starred) and _is_name(node.value))


def _is_setter(node: ast.AST) -> bool:
    """`@width.setter` of a property of the same class."""
    return isinstance(node, ast.Attribute) and node.attr in ("setter", "getter", "deleter")
