"""How the package is built: which way imports go, and what no module may do."""

from __future__ import annotations

import ast
from collections import Counter
from dataclasses import fields
from pathlib import Path

import tinkex
from tinkex.runs.record import History, Record

ROOT = Path(tinkex.__file__).parent

#: What each part may import of the others: a folder (a wing) or a module beside them.
MAY_IMPORT = {
    "errors": set(),
    "display": set(),
    "types": {"errors", "display"},
    "config": {"errors"},
    "signals": {"types", "display"},
    "exporters": {"errors", "runtime", "signals", "types"},
    "policy": {"errors", "types", "display"},
    "runtime": {"errors", "signals"},
    "rest": {"errors", "types", "config", "runtime"},
    "service": {"errors", "config", "runtime", "rest"},
    "ports": {"errors", "types", "service"},
}
MAY_IMPORT["arguments"] = MAY_IMPORT["rest"] | {"policy", "rest", "service", "ports"}
MAY_IMPORT["runs"] = {"errors", "types", "config", "policy", "signals", "runtime", "display"}
MAY_IMPORT["lineage"] = MAY_IMPORT["runs"] | {"ports", "runs", "service"}
MAY_IMPORT["journal"] = MAY_IMPORT["lineage"] | {"lineage"}
MAY_IMPORT["recovery"] = {"arguments", "journal", "lineage", "runs"}
MAY_IMPORT["recovery"] |= MAY_IMPORT["arguments"] | MAY_IMPORT["runs"]
MAY_IMPORT["polling"] = MAY_IMPORT["recovery"] | {"recovery"}
MAY_IMPORT["training"] = MAY_IMPORT["polling"] | {"polling"}
MAY_IMPORT["parts"] = MAY_IMPORT["training"] | {"training"}
MAY_IMPORT["handle"] = MAY_IMPORT["parts"] | {"parts"}
MAY_IMPORT["view"] = MAY_IMPORT["handle"]
MAY_IMPORT["monitor"] = MAY_IMPORT["handle"] | {"handle", "view"}
MAY_IMPORT["opening"] = MAY_IMPORT["monitor"] | {"monitor"}
MAY_IMPORT["shortcuts"] = MAY_IMPORT["opening"] | {"opening"}
MAY_IMPORT["__init__"] = MAY_IMPORT["shortcuts"] | {"shortcuts"}
MAY_IMPORT["rehearsal"] = MAY_IMPORT["__init__"]
MAY_IMPORT["testing"] = {"errors", "types", "signals", "monitor", "rehearsal"}
MAY_IMPORT["cli"] = {"__version__", "rehearsal"} | MAY_IMPORT["__init__"]
MAY_IMPORT["__main__"] = {"cli"}

#: Each wing has at most so many modules beside its `__init__`, and each module so many lines.
ROOMS = 9
LINES = 350

#: Each function has at most so many lines beside its docstring.
FUNCTION_LINES = 45

#: What needs an extra.
EXTRAS = {"rich", "tinker", "starlette", "uvicorn", "numpy", "httpx", "pyqwest", "pydantic"}
EXTRAS |= {"opentelemetry", "prometheus_client", "IPython"}

LOCKS = {"Lock", "RLock", "Condition", "Semaphore", "BoundedSemaphore"}

FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


class Module:
    """A module's source."""

    def __init__(self, path):
        self.name = path.relative_to(ROOT).as_posix()
        self.package = ("tinkex", *path.relative_to(ROOT).parts[:-1])
        self.part = self.name.partition("/")[0].removesuffix(".py")
        text = path.read_text(encoding="utf-8")
        self.lines = text.splitlines()
        self.tree = ast.parse(text)

    def nodes(self, *kinds):
        return (node for node in ast.walk(self.tree) if isinstance(node, kinds))

    def imports(self):
        """Each name that is imported, as an absolute dotted one."""
        for node in self.nodes(ast.Import, ast.ImportFrom):
            yield from self.names_of(node)

    def names_of(self, node):
        if isinstance(node, ast.Import):
            return [alias.name for alias in node.names]
        base = self.package[: len(self.package) - node.level + 1] if node.level else ()
        source = ".".join((*base, node.module) if node.module else base)
        return [f"{source}.{alias.name}" for alias in node.names]

    def parts_imported(self):
        """The other parts of tinkex that are imported."""
        names = (name.split(".") for name in self.imports())
        parts = {name[1] for name in names if name[0] == "tinkex" and len(name) > 1}
        return parts - {self.part}


MODULES = [Module(path) for path in sorted(ROOT.rglob("*.py"))]


def dotted(node):
    """`a.b.c` of a chain of attributes, else an empty text."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        before = dotted(node.value)
        return f"{before}.{node.attr}" if before else ""
    return ""


def test_imports_go_one_way():
    wrong = {
        module.name: module.parts_imported() - MAY_IMPORT[module.part]
        for module in MODULES
        if not module.parts_imported() <= MAY_IMPORT[module.part]
    }

    assert wrong == {}


def test_the_directions_themselves_form_no_circle():
    settled = {"__version__"}
    while settled < MAY_IMPORT.keys():
        ready = {part for part in MAY_IMPORT.keys() - settled if MAY_IMPORT[part] <= settled}
        assert ready, f"there is a circle among {sorted(MAY_IMPORT.keys() - settled)}"
        settled |= ready


def test_the_modules_of_a_wing_import_each_other_in_no_circle():
    graph = {}
    for module in MODULES:
        if module.name.endswith("__init__.py"):
            continue
        at_runtime = [node for node in module.tree.body if isinstance(node, ast.ImportFrom)]
        own = ".".join(("tinkex", *module.name.removesuffix(".py").split("/")))
        names = {name for node in at_runtime for name in module.names_of(node)}
        graph[own] = {name.rpartition(".")[0] for name in names} | names
    graph = {name: imported & graph.keys() for name, imported in graph.items()}

    settled = set()
    while settled < graph.keys():
        ready = {name for name in graph.keys() - settled if graph[name] <= settled}
        assert ready, f"there is a circle among {sorted(graph.keys() - settled)}"
        settled |= ready

    assert settled == graph.keys()


def test_a_wing_has_few_rooms_and_no_module_is_long():
    rooms = Counter(
        module.name.rpartition("/")[0]
        for module in MODULES
        if "/" in module.name and not module.name.endswith("__init__.py")
    )

    assert {wing: count for wing, count in rooms.items() if count > ROOMS} == {}
    assert {m.name: len(m.lines) for m in MODULES if len(m.lines) > LINES} == {}


def length(function):
    """A function's lines, without its docstring."""
    lines = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is not None:
        told = function.body[0]
        lines -= told.end_lineno - told.lineno + 1
    return lines


def test_no_function_is_long():
    found = [(m.name, each.name, length(each)) for m in MODULES for each in m.nodes(*FUNCTION)]

    assert [each for each in found if each[2] > FUNCTION_LINES] == []


def written(module):
    """Each attribute that a module assigns to, deletes, or changes in place."""
    changing = {"append", "add", "clear", "extend", "pop", "remove", "setdefault", "update"}
    for node in module.nodes(ast.Attribute, ast.Subscript):
        if isinstance(node.ctx, ast.Store | ast.Del):
            inside = node.value if isinstance(node, ast.Subscript) else node
            if isinstance(inside, ast.Attribute):
                yield inside
    for call in module.nodes(ast.Call):
        method = call.func
        if isinstance(method, ast.Attribute) and method.attr in changing:
            yield from (each for each in [method.value] if isinstance(each, ast.Attribute))


def test_only_two_modules_change_a_record():
    known = {field.name for kind in (Record, History) for field in fields(kind)}
    # An incident has some fields of the same names.
    others = {"self", "incident", "attempt.incident"}

    wrong = [
        (module.name, target.lineno, dotted(target))
        for module in MODULES
        if module.part != "rehearsal" and module.name not in {"runs/apply.py", "runs/rows.py"}
        for target in written(module)
        if target.attr in known and dotted(target.value) not in others
    ]

    assert wrong == []


def test_what_needs_an_extra_is_imported_where_the_extra_is_meant_or_on_use():
    found = set()
    for module in MODULES:
        on_use = {
            id(inner)
            for function in module.nodes(*FUNCTION)
            for inner in ast.walk(function)
            if isinstance(inner, ast.Import | ast.ImportFrom)
        }
        for node in module.nodes(ast.Import, ast.ImportFrom):
            packages = {name.partition(".")[0] for name in module.names_of(node)}
            if packages & EXTRAS and module.part not in {"rehearsal", "cli"}:
                found.add((module.name, *packages, id(node) in on_use))

    assert found == {
        ("display/screens.py", "IPython", True),
        ("exporters/_incidents.py", "opentelemetry", False),
        ("exporters/opentelemetry.py", "opentelemetry", False),
        ("exporters/prometheus.py", "prometheus_client", False),
        ("rest/sdk.py", "tinker", True),
    }


def test_nothing_sleeps_or_looks_at_the_clock_on_the_wall():
    forbidden = {"time.time", "time.sleep", "threading.Timer"}
    wall = {"datetime.now", "datetime.utcnow", "datetime.today", "date.today"}
    # Commands are programs, whose user waits. `answers` needs it for a header with a time of day.
    reads_the_wall = {"runtime/scheduler.py", "rest/answers.py"}

    wrong = []
    for module in (each for each in MODULES if each.part != "cli"):
        banned = forbidden if module.part == "rehearsal" else forbidden | wall
        banned = banned - wall if module.name in reads_the_wall else banned
        used = {dotted(node) for node in module.nodes(ast.Attribute)} | set(module.imports())
        wrong.extend((module.name, name) for name in used & banned)

    assert wrong == []


def test_nothing_is_printed_but_by_what_is_run_as_a_program():
    wrong = [
        (module.name, dotted(call.func))
        for module in MODULES
        if module.part not in {"cli", "__main__"} and module.name != "rehearsal/trained.py"
        for call in module.nodes(ast.Call)
        if dotted(call.func) in {"print", "sys.stdout.write", "sys.stderr.write"}
    ]

    assert wrong == []


def test_every_thread_is_named_and_a_daemon():
    made = [
        (module.name, {each.arg: ast.unparse(each.value) for each in call.keywords})
        for module in MODULES
        for call in module.nodes(ast.Call)
        if dotted(call.func) in {"threading.Thread", "Thread"}
    ]

    assert made
    assert [name for name, given in made if "name" not in given] == []
    assert [name for name, given in made if given.get("daemon") != "True"] == []


def is_overload(node):
    return any(dotted(each) == "overload" for each in getattr(node, "decorator_list", ()))


def test_everything_public_has_a_docstring():
    silent = []
    for module in MODULES:
        shown = [(module.name, module.tree)]
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                shown.append((node.name, node))
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                members = [each for each in node.body if isinstance(each, FUNCTION)]
                shown.extend((f"{node.name}.{each.name}", each) for each in members)
        silent.extend(
            (module.name, name)
            for name, node in shown
            if not name.rpartition(".")[2].startswith("_")
            and not ast.get_docstring(node)
            and not is_overload(node)
        )

    assert silent == []


def test_everything_is_annotated():
    bare = []
    for module in MODULES:
        for function in module.nodes(*FUNCTION):
            given = function.args
            arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs]
            arguments.extend(filter(None, (given.vararg, given.kwarg)))
            names = [a.arg for a in arguments if not a.annotation and a.arg not in {"self", "cls"}]
            if names or function.returns is None:
                bare.append((module.name, function.name, names))

    assert bare == []


def test_each_lock_says_near_by_what_it_guards():
    silent = []
    for module in MODULES:
        for node in module.nodes(ast.Assign):
            package, _, kind = (
                dotted(node.value.func) if isinstance(node.value, ast.Call) else ""
            ).partition(".")
            is_attribute = isinstance(node.targets[0], ast.Attribute)
            if package != "threading" or kind not in LOCKS or not is_attribute:
                continue
            near = module.lines[max(0, node.lineno - 4) : node.lineno + 3]
            comments = " ".join(line for line in near if line.lstrip().startswith("#")).lower()
            if "guard" not in comments:
                silent.append((module.name, node.lineno))

    assert silent == []


#: What users import from. Elsewhere an underscore says which names are only for their module.
PUBLIC = {f"{name}/__init__.py" for name in ("config", "errors", "service", "signals", "types")}
PUBLIC |= {f"exporters/{name}.py" for name in ("logging", "opentelemetry", "prometheus")}
PUBLIC |= {"policy.py", "rest/__init__.py"}


def test_the_modules_that_users_import_from_list_their_names_and_only_they():
    wrong = []
    for module in MODULES:
        listed = [
            ast.literal_eval(node.value)
            for node in module.tree.body
            if isinstance(node, ast.Assign) and dotted(node.targets[0]) == "__all__"
        ]
        is_package = module.name.endswith("__init__.py")
        if module.name in PUBLIC and not listed:
            wrong.append((module.name, "has no __all__"))
        elif listed and not is_package and module.name not in PUBLIC:
            wrong.append((module.name, "is for this package only, and has an __all__"))
        for names in listed:
            unknown = set(names) - names_bound_in(module.tree)
            wrong.extend((module.name, name) for name in sorted(unknown))
            assert len(names) == len(set(names))

    assert wrong == []


def names_bound_in(tree):
    bound = set()
    # What is imported when it is first asked for stands under `if TYPE_CHECKING:`, what needs an
    # extra under `try:`.
    later = [each for node in tree.body if isinstance(node, ast.If | ast.Try) for each in node.body]
    for node in [*tree.body, *later]:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            bound.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            bound.update(alias.asname or alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            bound.update(target.id for target in targets if isinstance(target, ast.Name))
    return bound


def test_the_root_package_has_what_it_promises():
    promised = {
        "Checkpoint",
        "Config",
        "Generation",
        "Monitor",
        "MonitoredRun",
        "Plan",
        "Policy",
        "RecoveryExecutor",
        "ResumePoint",
        "RunState",
        "RunStatus",
        "Segment",
        "Specific",
        "TinkerPath",
        "TrainingRun",
        "__version__",
        "errors",
        "rest",
        "signals",
        "watch",
    }

    assert promised <= set(tinkex.__all__)
    assert [name for name in tinkex.__all__ if not hasattr(tinkex, name)] == []
