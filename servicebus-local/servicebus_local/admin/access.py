"""Shared access policies in a description: `<AuthorizationRules>`.

A policy without keys gets new ones. A policy that may manage must also name the rights to send and listen,
as in Azure; an entity has twelve policies at most.
"""

from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import replace
from secrets import token_bytes
from typing import Final
from xml.etree.ElementTree import Element

from servicebus_local.admin.durations import write_moment
from servicebus_local.admin.xml import children, instance_type, tag, tags, text_of
from servicebus_local.bus.topology import AccessRule, Right

MOST_RULES: Final = 12  # Azure's quotas
_TYPE: Final = "SharedAccessAuthorizationRule"
_CLAIM: Final = "SharedAccessKey"
_LONGEST_NAME: Final = 256
_LONGEST_KEY: Final = 512
_RIGHTS: Final = tuple(Right)


def read_access(description: Element, current: Iterable[AccessRule], now: float) -> tuple[AccessRule, ...]:
    """Read the policies of an entity, which had `current` ones until now; raises `ValueError`."""
    elements = children(description, "AuthorizationRules")
    if len(elements) > MOST_RULES:
        raise ValueError(f"there are {len(elements)} policies, {MOST_RULES} is the most")
    known = {rule.name: rule for rule in current}
    rules = [_dated(_read_rule(element), known, now) for element in elements]
    if len({rule.name for rule in rules}) < len(rules):
        raise ValueError("two policies have the same name")
    return tuple(rules)


def _read_rule(element: Element) -> AccessRule:
    for said, expected in ((instance_type(element), _TYPE), (text_of(element, "ClaimType"), _CLAIM)):
        if said and said != expected:
            raise ValueError(f"a policy is of the type {_TYPE} for the claim {_CLAIM}, not '{said[:60]}'")
    name = (text_of(element, "KeyName") or "").strip()
    if not 1 <= len(name) <= _LONGEST_NAME:
        raise ValueError(f"the name of a policy has 1 to {_LONGEST_NAME} characters")
    keys = [(text_of(element, which) or "").strip() for which in ("PrimaryKey", "SecondaryKey")]
    if (longest := max(map(len, keys))) > _LONGEST_KEY:
        raise ValueError(f"a key of {longest} characters is longer than {_LONGEST_KEY}")
    made = (key or b64encode(token_bytes(32)).decode() for key in keys)
    return AccessRule(name, tuple(made), _read_rights(element, name))


def _read_rights(element: Element, name: str) -> frozenset[Right]:
    words = [(each.text or "").strip() for each in children(element, "Rights")]
    try:
        rights = frozenset(map(Right, words))
    except ValueError:
        raise ValueError(f"the rights of '{name}' are none of {', '.join(right.value for right in Right)}") from None
    if not rights:
        raise ValueError(f"'{name}' has no rights")
    if Right.MANAGE in rights and len(rights) < len(_RIGHTS):
        raise ValueError(f"'{name}' may manage, and so must be allowed to send and to listen")
    return rights


def _dated(rule: AccessRule, known: Mapping[str, AccessRule], now: float) -> AccessRule:
    before = known.get(rule.name)
    if before is None:
        return replace(rule, created_at=now, modified_at=now)
    same = (before.keys, before.rights) == (rule.keys, rule.rights)
    return replace(rule, created_at=before.created_at, modified_at=before.modified_at if same else now)


def write_access(rules: Iterable[AccessRule]) -> str:
    """Write the policies of an entity with their keys."""
    written = []
    for rule in rules:
        rights = "".join(tag("AccessRights", right.value) for right in _RIGHTS if right in rule.rights)
        primary, secondary = (*rule.keys, None, None)[:2]
        named = [("KeyName", rule.name), ("PrimaryKey", primary), ("SecondaryKey", secondary)]
        dates = [("CreatedTime", write_moment(rule.created_at)), ("ModifiedTime", write_moment(rule.modified_at))]
        written.append(
            f'<AuthorizationRule i:type="{_TYPE}">{tags([("ClaimType", _CLAIM), ("ClaimValue", "None")])}'
            f"<Rights>{rights}</Rights>{tags(dates + named)}</AuthorizationRule>"
        )
    return f"<AuthorizationRules>{''.join(written)}</AuthorizationRules>"
