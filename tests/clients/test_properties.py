"""What MQTT 5 properties mean end to end."""

import time

import pytest
from harness.client import V5, V311
from harness.deadline import PATIENCE, wait_until

FOREVER = 0xFFFFFFFF


@pytest.mark.guest
def test_publish_properties_are_forwarded_unaltered(connected, name):
    """[MQTT-3.3.2-4, -15, -16, -17, -18, -20]: the receiver gets them as they were sent."""
    subscriber = connected()
    subscriber.subscribe(name, qos=1)
    user = [("b", "2"), ("a", "1"), ("b", "1"), ("", ""), ("ключ", "значение")]
    connected().publish(
        name, "text", qos=1, PayloadFormatIndicator=1, ContentType="text/plain", ResponseTopic=f"{name}/re/ply",
        CorrelationData=bytes(range(256)), UserProperty=user)
    got = subscriber.receive().properties
    assert got.PayloadFormatIndicator == 1
    assert (got.ContentType, got.ResponseTopic) == ("text/plain", f"{name}/re/ply")
    assert got.CorrelationData == bytes(range(256))
    assert got.UserProperty == user


def test_properties_do_not_reach_old_clients(connected, name):
    """A 3.1.1 subscriber gets the payload of a message that has properties."""
    subscriber = connected(version=V311)
    subscriber.subscribe(name, qos=1)
    connected().publish(name, b"x", qos=1, ContentType="a", UserProperty=[("k", "v")])
    assert subscriber.receive().payload == b"x"


@pytest.mark.guest
def test_request_and_response(connected, name):
    """The request/response pattern of MQTT 5 section 4.10 between two clients."""
    responder, requester = connected(), connected()
    responder.subscribe(f"{name}/ask", qos=1)
    requester.subscribe(f"{name}/answer", qos=1)
    requester.publish(f"{name}/ask", b"2+2", qos=1, ResponseTopic=f"{name}/answer", CorrelationData=b"id-1")
    request = responder.receive()
    responder.publish(
        request.properties.ResponseTopic, b"4", qos=1, CorrelationData=request.properties.CorrelationData)
    answer = requester.receive()
    assert (answer.payload, answer.properties.CorrelationData) == (b"4", b"id-1")


def test_the_expiry_interval_counts_down(connected, name):
    """[MQTT-3.3.2-6]: the interval sent on is what was received less the time it waited."""
    away = connected("c", clean=False, SessionExpiryInterval=FOREVER)
    away.subscribe(name, qos=1)
    away.disconnect()
    publisher = connected()
    published = time.monotonic()
    publisher.publish(name, b"x", qos=1, MessageExpiryInterval=100)
    wait_until(lambda: time.monotonic() - published >= 2.1, "two seconds pass", interval=0.1)
    back = connected("c", clean=False, SessionExpiryInterval=FOREVER)
    remaining = back.receive().properties.MessageExpiryInterval
    waited = time.monotonic() - published
    assert 100 - waited - 1 <= remaining <= 98
    connected("c", clean=True)


@pytest.mark.guest
def test_an_expired_message_is_not_delivered(connected, name):
    """[MQTT-3.3.2-5]: what expired while the client was away is gone, the rest comes."""
    away = connected("c", clean=False, SessionExpiryInterval=FOREVER)
    away.subscribe(name, qos=1)
    away.disconnect()
    publisher = connected()
    publisher.publish(name, b"short", qos=1, MessageExpiryInterval=1)
    published = time.monotonic()
    publisher.publish(name, b"long", qos=1, MessageExpiryInterval=1000)
    publisher.publish(name, b"ever", qos=1)
    wait_until(lambda: time.monotonic() - published >= 2.1, "two seconds pass", interval=0.1)
    back = connected("c", clean=False, SessionExpiryInterval=FOREVER)
    assert back.payloads(2) == ["long", "ever"]
    back.nothing_more()
    connected("c", clean=True)


def test_live_messages_keep_their_expiry(connected, name):
    """A message that is delivered at once has its interval, less at most a second."""
    subscriber = connected()
    subscriber.subscribe(name, qos=1)
    connected().publish(name, b"x", qos=1, MessageExpiryInterval=3600)
    assert subscriber.receive().properties.MessageExpiryInterval in range(3595, 3601)


@pytest.mark.guest
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_many_user_properties(connected, name, qos):
    """[MQTT-3.3.2-18]: the order of user properties is kept, however many."""
    subscriber = connected()
    subscriber.subscribe(name, qos=qos)
    user = [(f"key{index % 7}", f"value{index}") for index in range(60)]
    connected().publish(name, b"x", qos, UserProperty=user)
    assert subscriber.receive().properties.UserProperty == user


@pytest.mark.ringlane
def test_no_subscriber_has_its_reason_code(connected, name):
    """Ringlane knows at PUBACK whether anybody subscribes: 0x10 without, 0x00 with a subscriber."""
    publisher = connected()
    wait_until(lambda: publisher.publish(name, b"x", qos=1) == 0x10, "0x10 without a subscriber", PATIENCE)
    publisher.subscribe(name, qos=1)
    assert publisher.publish(name, b"x", qos=1) == 0x00
    assert publisher.publish(name, b"x", qos=2) == 0x00
