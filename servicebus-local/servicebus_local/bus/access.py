"""Who may do what: shared access policies, and the signatures that are made with their keys.

    SharedAccessSignature sr={resource}&sig={signature}&se={expiry}&skn={policy}

    resource    a URI; the token opens what it names and everything below
    signature   HMAC-SHA256 of the resource as it is written here, a line feed, and the expiry
    policy      one of the namespace, or of the queue or topic the resource lies in

The format and the places where a policy is looked for are those of Azure's documentation of
shared access signatures (learn.microsoft.com/azure/service-bus-messaging/service-bus-sas).
The codes in front of the sentences are Azure's too.
"""

import hmac
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from math import inf
from typing import Final, NamedTuple
from urllib.parse import quote, unquote

from servicebus_local.bus.clock import Clock
from servicebus_local.bus.errors import Unauthorized
from servicebus_local.bus.namespace import Namespace, entity_of
from servicebus_local.bus.topology import AccessRule, Right

ROOT: Final = AccessRule("RootManageSharedAccessKey", ("local", "SAS_KEY_VALUE"))
"""The policy every namespace begins with. The second key is the one in the emulator's connection strings."""

_PREFIX: Final = "sharedaccesssignature "


class Access(NamedTuple):
    """What a credential allows: these rights, at a path and below, until a moment of real time."""

    path: str
    rights: frozenset[Right]
    expires_at: float = inf


class Keys:
    """The policies of a namespace and of its entities."""

    def __init__(self, policies: Mapping[str, Sequence[AccessRule]], namespace: Namespace, wall_clock: Clock) -> None:
        """Take policies by path, the namespace's own under the empty one; entities may have more of theirs."""
        self._policies = {"": (), **{path.lower(): tuple(rules) for path, rules in policies.items()}}
        if all(rule.name != ROOT.name for rule in self._policies[""]):
            self._policies[""] = (ROOT, *self._policies[""])
        self._namespace = namespace
        self.wall_clock = wall_clock  # tokens are dated by clients, in real time

    def check(self, token: str, path: str) -> Access:
        """Return what a token allows at a path of the namespace; the empty path is the namespace itself.

        Raises `Unauthorized` when the token is for something else, was made with none of our
        keys, or is too old.
        """
        signature = _Signature.read(token)
        if not covers(signature.path, path):
            raise Unauthorized(f"InvalidAudience: The token is for '{signature.path}', not for '{path}'.")
        # The policies of the namespace, and of the queue or topic that the path lies in.
        rules = [*self._rules_at(""), *(self._rules_at(entity_of(signature.path)) if signature.path else ())]
        rule = next((rule for rule in rules if signature.made_with(rule)), None)
        if rule is None:
            raise Unauthorized("InvalidSignature: The token has an invalid signature.")
        if signature.expires_at <= self.wall_clock():
            raise Unauthorized(f"ExpiredToken: The token has expired, at {_moment(signature.expires_at)}.")
        return Access(path, rule.rights, signature.expires_at)

    def add(self, path: str, rule: AccessRule) -> None:
        """Have one more policy at a path from now on."""
        path = path.lower()
        self._policies[path] = (*self._policies.get(path, ()), rule)

    def login(self, name: str, key: str) -> list[Access]:
        """Return what the name of a policy and one of its keys open, wherever such a policy is.

        Raises `Unauthorized` when it is nowhere.
        """
        entities = (*self._namespace.queues(), *self._namespace.topics())
        places = dict.fromkeys((*self._policies, *(entity.name.lower() for entity in entities)))
        found = [
            Access(path, rule.rights)
            for path in places
            for rule in self._rules_at(path)
            if rule.name == name and any(_same(key, known) for known in rule.keys)
        ]
        if not found:
            raise Unauthorized(f"There is no shared access policy '{name}' with this key.")
        return found

    def _rules_at(self, path: str) -> Iterable[AccessRule]:
        return (*self._policies.get(path, ()), *self._namespace.policies(path))


class _Signature(NamedTuple):
    """The fields of a token."""

    resource: str  # as it is written in the token
    digest: str
    expiry: str
    policy: str

    @classmethod
    def read(cls, token: str) -> "_Signature":
        if not token.lower().startswith(_PREFIX):
            if token.count(".") == 2 and token.startswith("ey"):
                raise Unauthorized(
                    "InvalidToken: This is a JSON Web Token, which the local broker cannot check. "
                    "Use a connection string or a shared access signature instead of a Microsoft Entra credential."
                )
            raise Unauthorized("InvalidToken: Only shared access signatures are accepted here.")
        pairs = (field.partition("=") for field in token[len(_PREFIX) :].strip().split("&"))
        fields = {name.strip(): value for name, _, value in pairs}
        missing = [name for name in ("sr", "sig", "se", "skn") if not fields.get(name)]
        if missing:
            raise Unauthorized(f"MalformedToken: The token has no field '{missing[0]}'.")
        if not (fields["se"].isascii() and fields["se"].isdigit()):
            raise Unauthorized("MalformedToken: The field 'se' of the token is not a number of seconds.")
        return cls(fields["sr"], unquote(fields["sig"]), fields["se"], unquote(fields["skn"]))

    @property
    def path(self) -> str:
        return path_of(unquote(self.resource))

    @property
    def expires_at(self) -> float:
        return float(self.expiry)

    def made_with(self, rule: AccessRule) -> bool:
        if rule.name != self.policy:
            return False
        # Clients sign the resource as they write it; some write it plainly and sign it encoded.
        plain = unquote(self.resource)
        texts = [f"{text}\n{self.expiry}".encode() for text in (self.resource, quote(plain, safe=""), plain)]
        made = (hmac.digest(key.encode(), text, "sha256") for key in rule.keys for text in texts)
        return any(_same(self.digest, b64encode(digest).decode()) for digest in made)


def path_of(resource: str) -> str:
    """Return the path in a URI, without host, slashes at the ends, and `$management`."""
    path = resource.split("://", 1)[-1].partition("?")[0].partition("/")[2].strip("/")
    head, _, tail = path.rpartition("/")
    return head if tail.lower() == "$management" else path


def covers(granted: str, path: str) -> bool:
    """Tell whether what is granted for one path opens another: itself, or anything below it."""
    granted, path = granted.lower(), path.lower()
    return not granted or path == granted or path.startswith(granted + "/")


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())


def _moment(seconds: float) -> str:
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%SZ}"
    except (OverflowError, ValueError):
        return f"{seconds:.0f}"
