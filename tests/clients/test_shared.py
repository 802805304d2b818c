"""Shared subscriptions: each message to one member, balance, members that leave or stall."""

from collections import Counter

import pytest
from harness.client import V5, V311
from harness.deadline import wait_until

FOREVER = 0xFFFFFFFF


def drain(members, total):
    """Waits until the members together have `total` messages; returns the payloads per member."""
    wait_until(lambda: sum(m.messages.qsize() for m in members) >= total, f"{total} messages at the members")
    return [[message.payload.decode() for message in m.messages.queue] for m in members]


@pytest.mark.guest
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_each_message_goes_to_one_member(connected, name, qos):
    """[MQTT-4.8.2-4, -5]: one copy in the group, every member gets some, other subscriptions get all."""
    members = [connected(f"m{index}") for index in range(4)]
    for member in members:
        assert member.subscribe(f"$share/group/{name}/+", qos=qos) == [qos]
    plain = connected("plain")
    plain.subscribe(f"{name}/#", qos=qos)
    payloads = [str(number) for number in range(200)]
    publisher = connected("publisher")
    for payload in payloads:
        publisher.send(f"{name}/x", payload, qos)
    assert plain.payloads(200) == payloads
    received = drain(members, 200)
    assert Counter(payload for part in received for payload in part) == Counter(payloads)
    # Four members with free windows and equal speed: nobody is left out, nobody gets most.
    assert all(20 <= len(part) <= 100 for part in received), [len(part) for part in received]


def test_order_within_a_member(connected, name):
    """What one member gets of one publisher and topic is in order."""
    members = [connected(f"m{index}") for index in range(3)]
    for member in members:
        member.subscribe(f"$share/g/{name}", qos=1)
    connected().publish_all(name, [str(number) for number in range(150)], qos=1)
    for part in drain(members, 150):
        assert [int(payload) for payload in part] == sorted(int(payload) for payload in part)


@pytest.mark.guest
def test_groups_are_independent(connected, name):
    """Two groups on the same filter, and the same group on two filters, each get a copy."""
    first, second, other = connected(), connected(), connected()
    first.subscribe(f"$share/a/{name}", qos=1)
    second.subscribe(f"$share/b/{name}", qos=1)
    other.subscribe(f"$share/a/{name}/#", qos=1)
    connected().publish(name, b"x", qos=1)
    for member in (first, second, other):
        assert member.receive().payload == b"x"
        member.nothing_more()


@pytest.mark.guest
def test_a_member_that_leaves_loses_nothing(connected, name):
    """[MQTT-4.8.2-6]: what a member has not acknowledged when it goes for good goes to another one."""
    leaving = connected("leaving", manual_ack=True)
    leaving.subscribe(f"$share/g/{name}", qos=1)
    publisher = connected("publisher")
    publisher.publish_all(name, [str(number) for number in range(20)], qos=1)
    assert leaving.payloads(20) == [str(number) for number in range(20)]
    staying = connected("staying")
    staying.subscribe(f"$share/g/{name}", qos=1)
    leaving.kill()
    assert sorted(int(payload) for payload in staying.payloads(20)) == list(range(20))
    publisher.publish(name, b"next", qos=1)
    assert staying.receive().payload == b"next"


def test_unsubscribing_leaves_the_group(connected, name):
    """After UNSUBACK the others get everything."""
    leaving, staying = connected("leaving"), connected("staying")
    for member in (leaving, staying):
        member.subscribe(f"$share/g/{name}", qos=1)
    assert leaving.unsubscribe(f"$share/g/{name}") == [0]
    payloads = [str(number) for number in range(30)]
    connected().publish_all(name, payloads, qos=1)
    assert staying.payloads(30) == payloads
    leaving.nothing_more()


def test_a_stalled_member_does_not_stop_the_others(connected, name):
    """A member whose window is full is passed over; the others get the rest."""
    stalled = connected("stalled", manual_ack=True, ReceiveMaximum=2)
    busy = connected("busy")
    for member in (stalled, busy):
        member.subscribe(f"$share/g/{name}", qos=1)
    connected().publish_all(name, [str(number) for number in range(100)], qos=1)
    assert len(busy.receive_many(98)) == 98
    assert len(stalled.receive_many(2)) == 2
    for message in list(stalled.messages.queue):
        stalled.ack(message)


def test_no_member_connected(connected, name):
    """A group whose only member is away with a lasting session keeps QoS 1 messages for it."""
    away = connected("away", clean=False, SessionExpiryInterval=FOREVER)
    away.subscribe(f"$share/g/{name}", qos=1)
    away.disconnect()
    payloads = [str(number) for number in range(10)]
    connected().publish_all(name, payloads, qos=1)
    back = connected("away", clean=False, SessionExpiryInterval=FOREVER)
    assert back.connack.session_present
    assert sorted(back.payloads(10)) == sorted(payloads)
    connected("away", clean=True)


def test_retained_messages_are_not_sent_to_groups(connected, name):
    """A shared subscription gets no retained messages when it is made [MQTT 5 4.8.2]."""
    publisher = connected()
    publisher.publish(name, b"kept", qos=1, retain=True)
    member = connected()
    member.subscribe(f"$share/g/{name}", qos=1)
    member.nothing_more()
    publisher.publish(name, b"", qos=1, retain=True)


def test_no_local_is_an_error(connected, name):
    """[MQTT-3.8.3-4]: No Local on a shared subscription is a protocol error, 0x82."""
    client = connected()
    client.paho.subscribe(f"$share/g/{name}", options=no_local())
    assert client.ended().reason == 0x82


def no_local():
    """Subscription options with No Local."""
    from paho.mqtt.subscribeoptions import SubscribeOptions

    return SubscribeOptions(qos=1, noLocal=True)


def test_members_of_both_versions(connected, name):
    """MQTT 3.1.1 clients can be members too."""
    members = [connected("m5", version=V5), connected("m4", version=V311)]
    for member in members:
        member.subscribe(f"$share/g/{name}", qos=1)
    connected().publish_all(name, [str(number) for number in range(40)], qos=1)
    received = drain(members, 40)
    assert sorted(int(payload) for part in received for payload in part) == list(range(40))
    assert all(received)
