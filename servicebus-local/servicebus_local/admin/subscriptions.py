"""Subscriptions and their rules: list, show, create, update, delete."""

from functools import partial
from typing import Final
from xml.etree.ElementTree import Element

from servicebus_local.admin.atom import View, entry, feed, of_entry, of_feed
from servicebus_local.admin.call import Call, etag, missing
from servicebus_local.admin.descriptions import SUBSCRIPTION, SUBSCRIPTION_DEFAULTS, read_options
from servicebus_local.admin.entries import rules_path, show_rule, show_subscription
from servicebus_local.admin.http import Response
from servicebus_local.admin.rules import read_rule
from servicebus_local.admin.targets import Targets
from servicebus_local.admin.values import checked, entity_name
from servicebus_local.admin.xml import child, text_of
from servicebus_local.bus.errors import QuotaExceeded
from servicebus_local.bus.filters import Rule
from servicebus_local.bus.namespace import Namespace
from servicebus_local.bus.topics import SUBSCRIPTIONS, Subscription, Topic
from servicebus_local.bus.topology import DEFAULT_RULE, QueueOptions, SubscriptionDefinition

SUBSCRIPTION_LIMIT: Final = 2000  # of a topic (Azure's quotas)
_SUBSCRIPTION: Final = "SubscriptionDescription"
_RULE: Final = "RuleDescription"


class Subscriptions:
    """The subscriptions of topics, and their rules."""

    def __init__(self, namespace: Namespace, targets: Targets) -> None:
        self._namespace = namespace
        self._targets = targets

    # ------------------------------------------------------------------ subscriptions

    def list_all(self, call: Call) -> Response:
        """Show a page of the subscriptions of a topic."""
        topic = self._topic(call)
        found, pages = call.page([subscription for _, subscription in sorted(topic.subscriptions.items())])
        entries = [entry(show_subscription(subscription, call.view), call.view) for subscription in found]
        return of_feed(feed("Subscriptions", f"{topic.name}/{SUBSCRIPTIONS}", entries, call.view, pages))

    def show(self, call: Call) -> Response:
        """Show a subscription."""
        return _shown(self._find(call), call.view)

    def put(self, call: Call) -> Response:
        """Create a subscription, or update it."""
        description = call.description(_SUBSCRIPTION)
        if call.updates:
            return _shown(self._update(call, description), call.view)
        return _shown(self._create(call, description), call.view, 201)

    def _create(self, call: Call, description: Element) -> Subscription:
        topic, name = self._topic(call), checked(entity_name, call.route.subscription)
        if len(topic.subscriptions) >= SUBSCRIPTION_LIMIT:
            raise QuotaExceeded(
                f"'{topic.name}' has {SUBSCRIPTION_LIMIT} subscriptions, which is the most it may have."
            )
        rule = _read_first_rule(description)
        topic.check_room(rule)
        definition = SubscriptionDefinition(self._options(call, description, None), (rule,))
        return self._namespace.create_subscription(topic.name, name, definition)

    def _update(self, call: Call, description: Element) -> Subscription:
        found = self._find(call)
        call.check_current(found)
        options = self._options(call, description, found.options)
        return self._namespace.update_subscription(found.topic.name, found.short_name, options)

    def delete(self, call: Call) -> Response:
        """Delete a subscription with its messages."""
        found = self._find(call)
        call.check_current(found)
        self._namespace.delete_subscription(found.topic.name, found.short_name)
        return Response(200, "", b"")

    def _options(self, call: Call, description: Element, current: QueueOptions | None) -> QueueOptions:
        options = read_options(description, SUBSCRIPTION, SUBSCRIPTION_DEFAULTS, current, call.now)
        self._targets.check(call, options)
        return options

    def _topic(self, call: Call) -> Topic:
        topic = self._namespace.get(call.route.entity)
        if not isinstance(topic, Topic):
            raise missing("topic", call.route.entity)
        return topic

    def _find(self, call: Call) -> Subscription:
        found = self._topic(call).subscriptions.get(call.route.subscription.lower())
        if found is None:
            raise missing("subscription", call.route.path)
        return found

    # ------------------------------------------------------------------ rules

    def list_rules(self, call: Call) -> Response:
        """Show a page of the rules of a subscription."""
        subscription = self._find(call)
        rules, pages = call.page(subscription.rules_by_name())
        entries = [entry(show_rule(subscription, rule), call.view) for rule in rules]
        return of_feed(feed("Rules", rules_path(subscription), entries, call.view, pages))

    def show_rule(self, call: Call) -> Response:
        """Show a rule."""
        subscription = self._find(call)
        return of_entry(entry(show_rule(subscription, subscription.rule(call.route.rule)), call.view))

    def put_rule(self, call: Call) -> Response:
        """Create a rule, or replace it."""
        description, subscription = call.description(_RULE), self._find(call)
        if call.updates:
            name, status, change = subscription.rule(call.route.rule).name, 200, Subscription.replace_rule
        else:
            name, status, change = _new_name(call.route.rule), 201, Subscription.add_rule
        rule = read_rule(name, description)
        self._namespace.change_rules(subscription, partial(change, rule=rule))
        return of_entry(entry(show_rule(subscription, subscription.rule(name)), call.view), status)

    def delete_rule(self, call: Call) -> Response:
        """Delete a rule."""
        subscription = self._find(call)
        self._namespace.change_rules(subscription, partial(Subscription.remove_rule, name=call.route.rule))
        return Response(200, "", b"")


def _read_first_rule(description: Element) -> Rule:
    """Read the rule a subscription begins with; without one it takes everything."""
    element = child(description, "DefaultRuleDescription")
    if element is None:
        return DEFAULT_RULE
    return read_rule(_new_name(text_of(element, "Name") or DEFAULT_RULE.name), element)


def _new_name(name: str) -> str:
    return name if name == DEFAULT_RULE.name else checked(entity_name, name)


def _shown(subscription: Subscription, view: View, status: int = 200) -> Response:
    return of_entry(entry(show_subscription(subscription, view), view), status, etag(subscription))
