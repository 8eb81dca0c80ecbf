"""Work out the expressions of HCL files: enough of the language for conditions and types.

There is no Terraform where the tests run, and a validation block that nobody has ever seen
refuse something is a hope. Written are literals, templates, lists, objects, conditionals,
operators, attributes, indexes, `[*]`, `for`, and the functions of `FUNCTIONS`; anything else
is an error, never a guess.

Source: HCL native syntax specification, "Expressions".
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import Any

Scope = Mapping[str, Any]
Node = Callable[[Scope], Any]

TOKEN = re.compile(
    r"""\s*(?:(?P<number>\d+(?:\.\d+)?)|(?P<name>[A-Za-z_][\w-]*)|(?P<string>"(?:\\.|[^"\\])*")
    |(?P<sign>\.\.\.|\[\*\]|=>|==|!=|<=|>=|&&|\|\||[-+*/%!<>?:.,()\[\]{}=]))""",
    re.VERBOSE,
)
BINARY = (("||",), ("&&",), ("==", "!="), ("<", ">", "<=", ">="), ("+", "-"), ("*", "/", "%"))
ESCAPES = {"n": "\n", "t": "\t", '"': '"', "\\": "\\"}


class HclError(Exception):
    """An expression that cannot be read, or has no value."""


def _need(condition: Any, text: str) -> None:
    if not condition:
        raise HclError(text)


def _regex(pattern: str, text: str) -> str:
    _need(isinstance(text, str), "regex wants a text")
    found = re.search(pattern, text)
    _need(found, f"{text!r} does not match")
    return found.group(0)


def _merge(*maps: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for one in maps for name, value in one.items()}


def _cidrhost(network: str, number: int) -> str:
    try:
        return str(ipaddress.ip_network(network)[number])
    except ValueError as error:
        raise HclError(str(error)) from error


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "alltrue": all,
    "cidrhost": _cidrhost,
    "contains": lambda found, one: one in found,
    "endswith": lambda text, end: text.endswith(end),
    "keys": sorted,
    "length": len,
    "merge": _merge,
    "regex": _regex,
    "sort": sorted,
    "split": lambda sign, text: text.split(sign),
    "tonumber": float,
    "toset": lambda values: sorted(set(values)),
    "trimsuffix": lambda text, end: text.removesuffix(end),
    "values": lambda found: [found[name] for name in sorted(found)],
    # Types are expressions too: they become what `convert` understands.
    "list": lambda of: ("list", of),
    "map": lambda of: ("map", of),
    "object": lambda fields: ("object", fields),
    "optional": lambda of, default=None: ("optional", of, default),
    "set": lambda of: ("list", of),
}
TYPES = {"string": str, "number": (int, float), "bool": bool}
# What a condition does to a value of the wrong kind.
MISUSE = (HclError, TypeError, ValueError, KeyError, IndexError, AttributeError)


def evaluate(text: str, scope: Scope) -> Any:
    """The value of an expression.

    Args:
        text: As in the file, with or without `${}` around all of it.
        scope: Values by name: `var` and `local` are mappings.
    Raises:
        HclError: It is not written in what is understood here, or has no value.
    """
    return _Parser(text).parse()(scope)


class _Parser:
    def __init__(self, text: str) -> None:
        self.tokens: list[tuple[str, str]] = []
        place = 0
        text = text.rstrip()
        while place < len(text):
            found = TOKEN.match(text, place)
            _need(found, f"not understood: {text[place : place + 20]!r}")
            self.tokens.append((str(found.lastgroup), found.group(found.lastgroup)))
            place = found.end()
        self.at = 0

    def parse(self) -> Node:
        node = self.ternary()
        _need(self.at == len(self.tokens), f"left over: {self.tokens[self.at :]}")
        return node

    def peek(self, *signs: str) -> bool:
        if self.at >= len(self.tokens):
            return False
        kind, text = self.tokens[self.at]
        return kind != "string" and text in signs

    def take(self, *signs: str) -> str | None:
        if self.peek(*signs):
            self.at += 1
            return self.tokens[self.at - 1][1]
        return None

    def want(self, sign: str) -> None:
        _need(self.take(sign), f"{sign!r} is wanted at {self.tokens[self.at : self.at + 3]}")

    def name(self) -> str:
        kind, text = self.tokens[self.at]
        _need(kind == "name", f"a name is wanted, not {text!r}")
        self.at += 1
        return text

    def ternary(self) -> Node:
        node = self.binary(0)
        if not self.take("?"):
            return node
        yes = self.ternary()
        self.want(":")
        no = self.ternary()
        return lambda scope: yes(scope) if node(scope) else no(scope)

    def binary(self, level: int) -> Node:
        if level == len(BINARY):
            return self.unary()
        node = self.binary(level + 1)
        while sign := self.take(*BINARY[level]):
            node = _operate(sign, node, self.binary(level + 1))
        return node

    def unary(self) -> Node:
        if self.take("!"):
            node = self.unary()
            return lambda scope: not node(scope)
        if self.take("-"):
            node = self.unary()
            return lambda scope: -node(scope)
        return self.postfix(self.primary())

    def postfix(self, node: Node) -> Node:
        while True:
            if self.take("."):
                node = _get(node, _constant(self.name()))
            elif self.take("[*]"):
                node = _splat(node)
            elif self.take("["):
                node = _get(node, self.ternary())
                self.want("]")
            else:
                return node

    def primary(self) -> Node:
        if self.take("("):
            node = self.ternary()
            self.want(")")
            return node
        if self.take("["):
            return self.list_for() if self.peek("for") else self.list()
        if self.take("{"):
            return self.map_for() if self.peek("for") else self.object()
        kind, text = self.tokens[self.at]
        self.at += 1
        if kind == "number":
            return _constant(float(text) if "." in text else int(text))
        if kind == "string":
            return _template(text[1:-1])
        _need(kind == "name", f"not understood: {text!r}")
        if text in {"true", "false", "null"}:
            return _constant({"true": True, "false": False, "null": None}[text])
        return self.call(text) if self.take("(") else _name(text)

    def call(self, name: str) -> Node:
        arguments = self.items(")")
        if name in {"try", "can"}:
            return _try(arguments) if name == "try" else _can(arguments[0])
        _need(name in FUNCTIONS, f"no function {name!r}")
        return lambda scope: FUNCTIONS[name](*(argument(scope) for argument in arguments))

    def items(self, end: str) -> list[Node]:
        found = []
        while not self.take(end):
            found.append(self.ternary())
            if not self.take(","):
                self.want(end)
                break
        return found

    def list(self) -> Node:
        nodes = self.items("]")
        return lambda scope: [node(scope) for node in nodes]

    def object(self) -> Node:
        pairs = []
        while not self.take("}"):
            kind, text = self.tokens[self.at]
            self.at += 1
            key = _template(text[1:-1]) if kind == "string" else _constant(text)
            if not self.take("="):
                self.want(":")
            pairs.append((key, self.ternary()))
            self.take(",")
        return lambda scope: {key(scope): value(scope) for key, value in pairs}

    def loop(self) -> tuple[list[str], Node]:
        self.want("for")
        names = [self.name()]
        if self.take(","):
            names.append(self.name())
        self.want("in")
        source = self.ternary()
        self.want(":")
        return names, source

    def condition(self, end: str) -> Node:
        node = self.ternary() if self.take("if") else _constant(True)
        self.want(end)
        return node

    def list_for(self) -> Node:
        names, source = self.loop()
        value = self.ternary()
        wanted = self.condition("]")
        return lambda scope: [
            value(inner) for inner in _scopes(names, source(scope), scope) if wanted(inner)
        ]

    def map_for(self) -> Node:
        names, source = self.loop()
        key = self.ternary()
        self.want("=>")
        value = self.ternary()
        wanted = self.condition("}")
        return lambda scope: {
            key(inner): value(inner)
            for inner in _scopes(names, source(scope), scope)
            if wanted(inner)
        }


def _scopes(names: list[str], source: Any, scope: Scope) -> list[Scope]:
    pairs = source.items() if isinstance(source, Mapping) else enumerate(source)
    if len(names) == 1:
        return [{**scope, names[0]: value} for _, value in pairs]
    return [{**scope, names[0]: key, names[1]: value} for key, value in pairs]


def _constant(value: Any) -> Node:
    return lambda scope: value


def _name(name: str) -> Node:
    def get(scope: Scope) -> Any:
        _need(name in scope, f"unknown name {name!r}")
        return scope[name]

    return get


def _get(node: Node, key: Node) -> Node:
    def get(scope: Scope) -> Any:
        found, wanted = node(scope), key(scope)
        try:
            return found[wanted]
        except (KeyError, IndexError, TypeError) as error:
            raise HclError(f"nothing under {wanted!r}") from error

    return get


def _splat(node: Node) -> Node:
    def spread(scope: Scope) -> list[Any]:
        found = node(scope)
        return [] if found is None else found if isinstance(found, list) else [found]

    return spread


def _operate(sign: str, left: Node, right: Node) -> Node:
    operations: dict[str, Node] = {
        "||": lambda scope: left(scope) or right(scope),
        "&&": lambda scope: left(scope) and right(scope),
        "==": lambda scope: left(scope) == right(scope),
        "!=": lambda scope: left(scope) != right(scope),
        "<": lambda scope: left(scope) < right(scope),
        ">": lambda scope: left(scope) > right(scope),
        "<=": lambda scope: left(scope) <= right(scope),
        ">=": lambda scope: left(scope) >= right(scope),
        "+": lambda scope: left(scope) + right(scope),
        "-": lambda scope: left(scope) - right(scope),
        "*": lambda scope: left(scope) * right(scope),
        "/": lambda scope: left(scope) / right(scope),
        "%": lambda scope: left(scope) % right(scope),
    }
    return operations[sign]


def _try(nodes: list[Node]) -> Node:
    def first(scope: Scope) -> Any:
        for node in nodes:
            try:
                return node(scope)
            except MISUSE:
                continue
        raise HclError("nothing of try() has a value")

    return first


def _can(node: Node) -> Node:
    def can(scope: Scope) -> bool:
        try:
            node(scope)
        except MISUSE:
            return False
        return True

    return can


def _template(text: str) -> Node:
    parts: list[Node] = []
    for index, part in enumerate(re.split(r"\$\{([^}]*)\}", text)):
        if index % 2:
            parts.append(_Parser(part).parse())
        elif part:
            parts.append(_constant(re.sub(r"\\(.)", lambda found: ESCAPES[found[1]], part)))
    if len(parts) == 1:
        return parts[0]
    return lambda scope: "".join(str(part(scope)) for part in parts)


def convert(kind: Any, value: Any, where: str) -> Any:
    """A value as a variable of this type has it: with what is left out, without what is not there.

    Args:
        kind: From `evaluate` of the type, with `TYPES` as scope.
        value: As it was given.
        where: Name for the error.
    Raises:
        HclError: The value is not of the type.
    """
    if not isinstance(kind, tuple) or kind == (int, float):
        fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
        _need(fits, f"{where} is of another type")
        return value
    if kind[0] == "optional":
        return kind[2] if value is None else convert(kind[1], value, where)
    if kind[0] == "list":
        _need(isinstance(value, list), f"{where} must be a list")
        return [convert(kind[1], one, f"{where}[{at}]") for at, one in enumerate(value)]
    _need(isinstance(value, dict), f"{where} must be a map")
    if kind[0] == "map":
        return {name: convert(kind[1], one, f"{where}.{name}") for name, one in value.items()}
    _need(set(value) <= set(kind[1]), f"{where} has no {sorted(set(value) - set(kind[1]))}")
    for name, of in kind[1].items():
        _need(name in value or (isinstance(of, tuple) and of[0] == "optional"), f"{where}.{name}")
    return {name: convert(of, value.get(name), f"{where}.{name}") for name, of in kind[1].items()}
