"""policy.toml → `Policy`: typed, checked as a whole before anything of it counts.

Every error names the file, the entry, the key, the value and what to write instead; all errors are told at once. The
file's form is described in docs/operations.md. It reads the file and the user database, and nothing else.
"""

from __future__ import annotations

import grp
import pwd
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, BeforeValidator, ByteSize, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from pvblob.access import Operation
from pvblob.errors import SettingsError
from pvblob.vsp.host import SocketSettings
from pvblob.vsp.policy import Entry, GuestLimits, Policy, Rule

T = TypeVar("T")
ANY = "*"
_MODE_HINT = 'an octal mode in quotes, e.g. "0660"'


class LoadedPolicy(NamedTuple):
    """What a policy file says: who may do what, and the sockets to listen on beside the host's first one."""

    policy: Policy
    sockets: tuple[SocketSettings, ...]


def _as_list(value: object) -> object:
    return [value] if isinstance(value, (str, int)) and not isinstance(value, bool) else value


def _looked_up(what: str, look_up: Callable[[str], int]) -> Callable[[object], object]:
    def number(value: object) -> object:
        if isinstance(value, str) and value != ANY:
            try:
                return look_up(value)
            except KeyError:
                raise ValueError(f"this machine knows no {what} of that name; use one it knows, or a number") from None
        if isinstance(value, bool) or (isinstance(value, int) and value < 0):
            raise ValueError(f'must be a {what} name, a number from 0, or "*" for any')
        return value

    return number


def octal_mode(value: object) -> object:
    """Turn a mode as chmod(1) writes it into a number. Raises ValueError."""
    if isinstance(value, str) and value and len(value) <= 4 and set(value) <= set("01234567"):
        mode = int(value, 8)
        if mode & 0o600 == 0o600 and not mode & ~0o666:
            return mode
    raise ValueError(f"must be {_MODE_HINT}: the owner reads and writes, others may read and write or not")


def group_id(name: str) -> int:
    """Return the gid of a group's name. Raises KeyError."""
    return grp.getgrnam(name).gr_gid


_Uid = Annotated[int | Literal["*"], BeforeValidator(_looked_up("user", lambda name: pwd.getpwnam(name).pw_uid))]
_Gid = Annotated[int | Literal["*"], BeforeValidator(_looked_up("group", group_id))]
_OneOrMore = Annotated[list[T], BeforeValidator(_as_list), Field(min_length=1)]
_Names = _OneOrMore[Annotated[str, Field(min_length=1)]]
Mode = Annotated[int, BeforeValidator(octal_mode)]
Group = Annotated[int, BeforeValidator(_looked_up("group", group_id))]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Rule(_Strict):
    accounts: _Names = [ANY]
    containers: _Names = [ANY]
    prefixes: _OneOrMore[str] = [""]
    operations: _OneOrMore[Literal["read", "write", "list", "delete"]] | None = None

    def rule(self) -> Rule:
        prefixes = tuple(prefix.encode() for prefix in self.prefixes)
        if self.operations is None:
            return Rule(tuple(self.accounts), tuple(self.containers), prefixes)
        operations: frozenset[Operation] = frozenset(self.operations)
        return Rule(tuple(self.accounts), tuple(self.containers), prefixes, operations)


class _Limits(_Strict):
    requests_in_flight: Annotated[int, Field(ge=1, le=65536)] | None = None
    lent_bytes: Annotated[ByteSize, Field(ge=1 << 20)] | None = None
    spooled_bytes: Annotated[ByteSize, Field(ge=0)] | None = None
    weight: Annotated[int, Field(ge=1, le=10000)] = 100

    def limits(self) -> GuestLimits:
        return GuestLimits(self.requests_in_flight, self.lent_bytes, self.spooled_bytes, self.weight)


class _Guest(_Strict):
    name: Annotated[str, Field(min_length=1, max_length=64)]
    uid: _OneOrMore[_Uid] | None = None
    gid: _OneOrMore[_Gid] | None = None
    cgroup: _Names | None = None
    socket: _OneOrMore[Path] | None = None
    front: bool = False
    mode: Literal["channel", "verify"] = "channel"
    limits: _Limits = _Limits()
    allow: list[_Rule] = []
    deny: list[_Rule] = []

    @model_validator(mode="after")
    def _names_somebody(self) -> _Guest:
        conditions = [self.uid, self.gid, self.cgroup, self.socket]
        if self.front and any(condition is not None for condition in conditions):
            raise ValueError("front = true is a guest of its own: remove uid, gid, cgroup and socket")
        if not self.front and all(condition is None for condition in conditions):
            raise ValueError(
                'names no guest: give uid, gid, cgroup or socket (uid = "*" is everybody), or front = true'
            )
        if not self.allow:
            raise ValueError("allows nothing: add [[guest.allow]] (empty: everything), or remove the entry")
        return self

    def entry(self) -> Entry:
        return Entry(
            self.name,
            uids=_numbers(self.uid),
            gids=_numbers(self.gid),
            cgroups=None if self.cgroup is None else tuple(self.cgroup),
            sockets=None if self.socket is None else frozenset(str(path.absolute()) for path in self.socket),
            front=self.front,
            mode=self.mode,
            allow=tuple(rule.rule() for rule in self.allow),
            deny=tuple(rule.rule() for rule in self.deny),
            limits=self.limits.limits(),
        )


class _Socket(_Strict):
    path: Path
    mode: Mode = 0o600
    group: Group | None = None


class _File(_Strict):
    guest: Annotated[list[_Guest], Field(min_length=1)]
    socket: list[_Socket] = []


def load_policy(path: Path, *, front: bool = False) -> LoadedPolicy:
    """Read and check a policy file. Raises SettingsError.

    front: the HTTP front is on, so some entry must be about it.
    """
    try:
        raw = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SettingsError(f"policy file {path}: {reason}") from None
    try:
        file = _File.model_validate(raw)
    except ValidationError as error:
        raise SettingsError(f"policy file {path}: " + "; ".join(_explain(error, raw))) from None
    complaints = [f"two entries are called {name!r}: rename one" for name in _repeated(one.name for one in file.guest)]
    if front and not any(one.front for one in file.guest):
        complaints.append("the HTTP front is on, but no [[guest]] has front = true: add one, or leave out --http")
    if complaints:
        raise SettingsError(f"policy file {path}: " + "; ".join(complaints))
    sockets = tuple(SocketSettings(one.path.absolute(), one.mode, one.group) for one in file.socket)
    return LoadedPolicy(Policy(tuple(one.entry() for one in file.guest), f"policy file {path}"), sockets)


def _numbers(given: Sequence[int | str] | None) -> frozenset[int] | None:
    return None if given is None or ANY in given else frozenset(int(number) for number in given)


def _repeated(names: Iterator[str]) -> list[str]:
    seen: set[str] = set()
    return [name for name in names if name in seen or seen.add(name)]  # type: ignore[func-returns-value]


def _explain(error: ValidationError, raw: dict[str, Any]) -> Iterator[str]:
    """Say for each wrong value where it stands, what it is and what was expected."""
    for wrong in error.errors():
        tables: list[str] = []
        keys: list[str] = []
        node: Any = raw
        for step in wrong["loc"]:
            # Pydantic also names the branch of a union it tried; only what is in the file is a place in it.
            if isinstance(node, dict) and step in node:
                keys.append(str(step))
                node = node[step]
            elif isinstance(node, list) and isinstance(step, int) and step < len(node):
                node = node[step]
                if isinstance(node, dict):
                    name = node.get("name")
                    tables.append(f"[[{keys.pop()}]] {step + 1}" + (f" ({name!r})" if name else ""))
            elif wrong["type"] == "missing":
                keys.append(str(step))
        place, key = ", ".join(tables), ".".join(keys)
        value = "" if wrong["type"] == "missing" or isinstance(wrong["input"], dict) else f" = {wrong['input']!r}"
        yield ": ".join(part for part in (place, f"{key}{value}" if key else "", _advice(wrong)) if part)


def _advice(wrong: ErrorDetails) -> str:
    if wrong["type"] == "extra_forbidden":
        return "there is no such key here; check its spelling (docs/operations.md lists them)"
    if wrong["type"] == "missing":
        return "must be given"
    return wrong["msg"].removeprefix("Value error, ")
