"""Reads `--keys`: the shared access policies of the namespace and of its entities, by name.

    {"RootManageSharedAccessKey": "secret",
     "sender":  {"Keys": ["one", "two"], "Rights": ["Send"], "Entity": "orders"},
     "worker":  [{"Keys": ["three"], "Rights": ["Listen"], "Entity": "orders"},
                 {"Keys": ["four"], "Rights": ["Listen", "Send"], "Entity": "news"}]}

`Keys` are one or two, a bare text is one key. Without `Rights` a policy has all three, without
`Entity` it is one of the namespace. They have a file of their own, so that `Config.json` stays
one that Microsoft's emulator can read, and has no secrets in it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from servicebus_local.bus.namespace import Namespace
from servicebus_local.bus.topology import AccessRule, Right
from servicebus_local.fields import ConfigError, field, items, known, mapping, of_type, read_json, text

Policies = Mapping[str, tuple[AccessRule, ...]]
"""Policies by the path of the entity, those of the namespace under the empty one."""

_MOST: Final = 12  # policies of an entity or the namespace, as Azure's quotas have it
_ALL: Final = frozenset(Right)


def load_policies(path: Path) -> Policies:
    """Read a file; raises `ConfigError`."""
    document = read_json(path)
    try:
        return read_policies(document)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def read_policies(document: Any) -> Policies:
    """Read policies that were parsed already; raises `ConfigError`."""
    policies: dict[str, tuple[AccessRule, ...]] = {}
    for name, value in mapping(document, "the policies").items():
        several = isinstance(value, list)
        for number, policy in enumerate(value if several else [value]):
            where = f"{name}[{number}]" if several else name
            entity, rule = _read_policy(name, policy, where)
            before = policies.get(entity, ())
            if any(other.name == rule.name for other in before):
                raise ConfigError(f"{where}: there are two policies called {rule.name!r} in one place")
            if len(before) >= _MOST:
                raise ConfigError(f"{where}: {entity or 'the namespace'} has more than {_MOST} policies")
            policies[entity] = (*before, rule)
    return policies


def check_entities(policies: Policies, namespace: Namespace) -> None:
    """Complain of policies for entities that are not there; raises `ConfigError`."""
    names = {entity.name.lower() for entity in (*namespace.queues(), *namespace.topics())}
    for entity, rules in policies.items():
        if entity and entity not in names:
            raise ConfigError(f"{rules[0].name}.Entity: there is no queue or topic called {entity!r}")


def _read_policy(name: str, policy: Any, where: str) -> tuple[str, AccessRule]:
    if isinstance(policy, str):
        return "", AccessRule(name, (_key(policy, where),))
    fields = mapping(policy, where)
    known(fields, {"Keys", "Rights", "Entity"}, where)
    keys = field(fields, "Keys", _keys, where)
    rights = _rights(fields["Rights"], f"{where}.Rights") if "Rights" in fields else _ALL
    entity = text(fields.get("Entity", ""), f"{where}.Entity").strip("/").lower()
    if "/subscriptions/" in entity:
        raise ConfigError(f"{where}.Entity: subscriptions have no policies, those of their topic count")
    return entity, AccessRule(name, keys, rights)


def _keys(value: Any, where: str) -> tuple[str, ...]:
    values = [value] if isinstance(value, str) else items(value, where)
    if not 1 <= len(values) <= 2:
        raise ConfigError(f"{where}: expected one key or two, found {len(values)}")
    return tuple(_key(key, f"{where}[{number}]") for number, key in enumerate(values))


def _key(value: Any, where: str) -> str:
    key = str(of_type(value, str, "a key", where))
    if not key:
        raise ConfigError(f"{where}: a key cannot be empty")
    return key


def _rights(value: Any, where: str) -> frozenset[Right]:
    names = {right.value: right for right in Right}
    words = [text(word, f"{where}[{number}]") for number, word in enumerate(items(value, where))]
    unknown = [word for word in words if word not in names]
    if unknown or not words:
        found = repr(unknown[0]) if unknown else "none"
        raise ConfigError(f"{where}: expected some of {', '.join(names)}, found {found}")
    rights = frozenset(names[word] for word in words)
    if Right.MANAGE in rights and rights != _ALL:
        raise ConfigError(f"{where}: a policy with Manage also needs Send and Listen, as in Azure")
    return rights
