"""Retained messages: kept, replaced, cleared, expired, and the three retain handlings."""

import pytest
from harness.client import V5, V31, V311
from harness.deadline import PATIENCE, wait_until

VERSIONS = pytest.mark.parametrize("version", [V31, V311, V5], ids=["v31", "v311", "v5"])


@pytest.fixture
def publisher(connected):
    """The client that publishes the retained messages."""
    return connected("publisher")


@pytest.mark.guest
@VERSIONS
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_new_subscriber_gets_it(connected, publisher, name, version, qos):
    """[MQTT-3.3.1-6]: the last retained message comes with the retain flag set."""
    publisher.publish(name, b"old", qos, retain=True)
    publisher.publish(name, b"new", qos, retain=True)
    subscriber = connected(version=version)
    publisher.subscribe(name, qos=1)
    assert publisher.receive().payload == b"new"
    subscriber.subscribe(name, qos=1)
    message = subscriber.receive()
    assert (message.payload, bool(message.retain), message.qos) == (b"new", True, min(qos, 1))
    subscriber.nothing_more()
    publisher.publish(name, b"", qos, retain=True)


@pytest.mark.guest
def test_many_topics_by_wildcard(connected, publisher, name):
    """A wildcard subscription gets each matching retained message once."""
    topics = [f"{name}/{index % 10}/{index}" for index in range(200)]
    for topic in topics:
        publisher.send(topic, topic, qos=1, retain=True)
    publisher.publish(f"{name}/last", b"last", qos=1, retain=True)
    subscriber = connected()
    subscriber.subscribe(f"{name}/+/+", qos=1)
    assert sorted(subscriber.payloads(200)) == sorted(topics)
    subscriber.nothing_more()
    for topic in [*topics, f"{name}/last"]:
        publisher.send(topic, b"", qos=1, retain=True)


@pytest.mark.guest
@VERSIONS
def test_an_empty_payload_clears(connected, publisher, name, version):
    """[MQTT-3.3.1-7]: a zero-byte retained message removes it, and is delivered as a live message."""
    live = connected(version=version)
    live.subscribe(name, qos=1)
    publisher.publish(name, b"x", qos=1, retain=True)
    publisher.publish(name, b"", qos=1, retain=True)
    assert [(m.payload, bool(m.retain)) for m in live.receive_many(2)] == [(b"x", False), (b"", False)]
    late = connected(version=version)
    late.subscribe(name, qos=1)
    late.nothing_more()


def test_unretained_messages_leave_it_alone(connected, publisher, name):
    """[MQTT-3.3.1-8]: a message without the retain flag neither replaces nor removes it."""
    publisher.publish(name, b"kept", qos=1, retain=True)
    publisher.publish(name, b"passing", qos=1)
    subscriber = connected()
    subscriber.subscribe(name, qos=1)
    assert subscriber.receive().payload == b"kept"
    subscriber.nothing_more()
    publisher.publish(name, b"", qos=1, retain=True)


def test_retain_handling(connected, publisher, name):
    """[MQTT-3.3.1-9 to -11]: 0 sends at each SUBSCRIBE, 1 only at a new one, 2 never."""
    publisher.publish(name, b"r", qos=1, retain=True)
    for handling, first, again in ((0, 1, 1), (1, 1, 0), (2, 0, 0)):
        subscriber = connected()
        for expected in (first, again):
            subscriber.subscribe(name, qos=1, retainHandling=handling)
            for message in subscriber.receive_many(expected):
                assert message.payload == b"r" and message.retain
            subscriber.nothing_more(publisher)
    publisher.publish(name, b"", qos=1, retain=True)


def test_it_expires(connected, publisher, name):
    """[MQTT-3.3.2-5]: after its Message Expiry Interval a retained message is gone."""
    publisher.publish(name, b"short", qos=1, retain=True, MessageExpiryInterval=1)
    publisher.publish(f"{name}/long", b"long", qos=1, retain=True, MessageExpiryInterval=1000)

    def gone():
        subscriber = connected()
        subscriber.subscribe(f"{name}/#", qos=1)
        found = {subscriber.receive().topic}
        subscriber.subscribe(f"{name}-fence", qos=1)
        publisher.publish(f"{name}-fence", b"", qos=1)
        while (topic := subscriber.receive().topic) != f"{name}-fence":
            found.add(topic)
        assert f"{name}/long" in found
        return name not in found

    wait_until(gone, "the retained message expires", PATIENCE, 0.2)
    publisher.publish(f"{name}/long", b"", qos=1, retain=True)


def test_its_properties_are_kept(connected, publisher, name):
    """Content type, response topic, correlation data and user properties are stored with it."""
    publisher.publish(
        name, b"{}", qos=1, retain=True, ContentType="application/json", ResponseTopic=f"{name}/answer",
        CorrelationData=b"\x00\x01", PayloadFormatIndicator=1, UserProperty=[("a", "1"), ("a", "2")])
    subscriber = connected()
    subscriber.subscribe(name, qos=1)
    got = subscriber.receive().properties
    assert (got.ContentType, got.ResponseTopic, got.CorrelationData) == (
        "application/json", f"{name}/answer", b"\x00\x01")
    assert got.PayloadFormatIndicator == 1 and got.UserProperty == [("a", "1"), ("a", "2")]
    publisher.publish(name, b"", qos=1, retain=True)


def test_an_old_message_never_follows_a_new_one(connected, publisher, name):
    """While a topic is updated, a subscriber that comes in between sees its values only in order."""
    subscribers = [connected() for _ in range(10)]
    for number in range(200):
        publisher.send(name, str(number), qos=1, retain=True)
        if number % 20 == 10:
            subscribers[number // 20].subscribe(name, qos=1)
    for subscriber in subscribers:
        values = []
        while not values or values[-1] != 199:
            values.append(int(subscriber.receive().payload))
        assert values == sorted(values)
        assert set(range(values[0], 200)) == set(values), "a value is missing"
    publisher.publish(name, b"", qos=1, retain=True)
