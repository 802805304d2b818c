"""Topic filters, overlapping subscriptions, unsubscribing and the options of MQTT 5."""

import pytest
from harness.client import V5, V31, V311

VERSIONS = pytest.mark.parametrize("version", [V31, V311, V5], ids=["v31", "v311", "v5"])

#: filter, topics that it matches, topics that it does not (MQTT 5 section 4.7).
FILTERS = [
    ("{n}/sport/+", ["{n}/sport/a", "{n}/sport/"], ["{n}/sport", "{n}/sport/a/b"]),
    ("{n}/sport/#", ["{n}/sport", "{n}/sport/a", "{n}/sport/a/b", "{n}/sport/"], ["{n}/sports"]),
    ("{n}/+/c", ["{n}/b/c", "{n}//c"], ["{n}/c", "{n}/b/d", "{n}/b/c/d"]),
    ("{n}/+/+/#", ["{n}/a/b", "{n}/a/b/c/d"], ["{n}/a"]),
    ("/{n}", ["/{n}"], ["{n}", "{n}/"]),
    ("+/{n}/x", ["a/{n}/x", "/{n}/x"], ["{n}/x"]),
    ("{n}/A", ["{n}/A"], ["{n}/a", "{n}/A/"]),
]


@pytest.mark.guest
@pytest.mark.parametrize("row", FILTERS, ids=[row[0].replace("{n}", "N") for row in FILTERS])
def test_filters(connected, name, row):
    """A filter gets exactly the topics that it matches."""
    topic_filter, matching, other = ([text.format(n=name) for text in part] for part in ([row[0]], row[1], row[2]))
    subscriber, publisher = connected(), connected()
    subscriber.subscribe(*topic_filter, qos=1)
    for topic in matching + other:
        publisher.publish(topic, topic, qos=1)
    assert sorted(subscriber.payloads(len(matching))) == sorted(matching)
    subscriber.nothing_more(publisher)


def test_leading_wildcards_do_not_match_dollar_topics(connected, name):
    """[MQTT-4.7.2-1]: `#` and `+/x` do not match topics that begin with `$`."""
    subscriber, publisher = connected(), connected()
    subscriber.subscribe("#", f"+/{name}", qos=1)
    own = connected()
    own.subscribe(f"$test/{name}", qos=1)
    publisher.publish(f"$test/{name}", b"hidden", qos=1)
    publisher.publish(name, b"seen", qos=1)
    assert own.receive().payload == b"hidden"
    while (message := subscriber.receive()).topic != name:
        assert not message.topic.startswith("$")


@VERSIONS
def test_overlapping_subscriptions(connected, name, version):
    """[MQTT-3.3.4-2]: the highest QoS of all matching subscriptions; one copy, or one per subscription."""
    subscriber = connected(version=version)
    assert subscriber.subscribe(f"{name}/#", qos=0) == [0]
    assert subscriber.subscribe(f"{name}/+", qos=2) == [2]
    publisher = connected()
    publisher.publish(f"{name}/a", b"once", qos=2)
    first = subscriber.receive()
    qos = [first.qos]
    publisher.publish(f"{name}/end", b"end", qos=2)
    while (message := subscriber.receive()).payload == b"once":
        qos.append(message.qos)
    assert max(qos) == 2 and len(qos) <= 2


@pytest.mark.guest
@VERSIONS
def test_unsubscribe(connected, name, version):
    """After UNSUBACK nothing new arrives; an unknown filter is answered with 0x11 in MQTT 5."""
    subscriber, publisher = connected(version=version), connected()
    subscriber.subscribe(f"{name}/a", f"{name}/b", qos=1)
    reasons = subscriber.unsubscribe(f"{name}/a", f"{name}/never")
    assert reasons == ([0x00, 0x11] if version == V5 else [])
    publisher.publish(f"{name}/a", b"a", qos=1)
    publisher.publish(f"{name}/b", b"b", qos=1)
    assert subscriber.receive().topic == f"{name}/b"
    subscriber.nothing_more(publisher)


def test_subscribing_again_replaces(connected, name):
    """[MQTT-3.8.4-3]: a second SUBSCRIBE of the same filter replaces the first: one copy, new QoS."""
    subscriber = connected()
    assert subscriber.subscribe(name, qos=0) == [0]
    assert subscriber.subscribe(name, qos=1) == [1]
    connected().publish(name, b"x", qos=2)
    assert subscriber.receive().qos == 1
    subscriber.nothing_more()


def test_many_filters_in_one_packet(connected, name):
    """SUBACK has one code per filter, in the order of the filters [MQTT-3.8.4-6]."""
    subscriber = connected()
    filters = [f"{name}/{index}" for index in range(100)]
    assert subscriber.subscribe(*filters, qos=1) == [1] * 100
    connected().publish(f"{name}/99", b"x", qos=1)
    assert subscriber.receive().topic == f"{name}/99"


@pytest.mark.guest
def test_no_local(connected, name):
    """[MQTT-3.8.3-3]: with No Local a client does not get its own messages, others do."""
    one, other = connected(), connected()
    one.subscribe(name, qos=1, noLocal=True)
    other.subscribe(name, qos=1)
    one.publish(name, b"mine", qos=1)
    other.publish(name, b"theirs", qos=1)
    assert one.receive().payload == b"theirs"
    assert sorted(other.payloads(2)) == ["mine", "theirs"]
    one.nothing_more()


def test_retain_as_published(connected, name):
    """[MQTT-3.3.1-12, -13]: the retain flag of a live message is kept only if asked for."""
    plain, kept, old = connected(), connected(), connected(version=V311)
    plain.subscribe(name, qos=1)
    kept.subscribe(name, qos=1, retainAsPublished=True)
    old.subscribe(name, qos=1)
    connected().publish(name, b"r", qos=1, retain=True)
    assert [bool(one.receive().retain) for one in (plain, kept, old)] == [False, True, False]


def test_subscription_identifiers(connected, name):
    """[MQTT-3.3.4-3, -4]: every identifier of the matching subscriptions comes with the message."""
    subscriber = connected()
    subscriber.subscribe(f"{name}/#", qos=1, props={"SubscriptionIdentifier": 7})
    subscriber.subscribe(f"{name}/+", qos=1, props={"SubscriptionIdentifier": 268_435_455})
    connected().publish(f"{name}/x", b"x", qos=1)
    identifiers = list(subscriber.receive().properties.SubscriptionIdentifier)
    if len(identifiers) < 2:
        identifiers += subscriber.receive().properties.SubscriptionIdentifier
    assert sorted(identifiers) == [7, 268_435_455]
    subscriber.nothing_more()


def test_subscription_identifier_is_replaced(connected, name):
    """A new SUBSCRIBE of the filter replaces the identifier, and can remove it."""
    subscriber, publisher = connected(), connected()
    for identifier in (1, 2, None):
        props = {"SubscriptionIdentifier": identifier} if identifier else {}
        subscriber.subscribe(name, qos=1, props=props)
        publisher.publish(name, b"x", qos=1)
        got = getattr(subscriber.receive().properties, "SubscriptionIdentifier", [])
        assert list(got) == ([identifier] if identifier else [])


def test_subscription_identifier_with_retained_messages(connected, name):
    """The identifier also comes with the retained messages that SUBSCRIBE asked for."""
    publisher, subscriber = connected(), connected()
    publisher.publish(name, b"kept", qos=1, retain=True)
    subscriber.subscribe(f"{name}/#", qos=1, props={"SubscriptionIdentifier": 5})
    message = subscriber.receive()
    assert message.retain and list(message.properties.SubscriptionIdentifier) == [5]
    publisher.publish(name, b"", qos=1, retain=True)
