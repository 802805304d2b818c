"""CONNECT and CONNACK: identifiers, keep alive, versions, refusals, and how the server says goodbye."""

import pytest
from harness.client import V5, V31, V311
from harness.deadline import wait_until

VERSIONS = pytest.mark.parametrize("version", [V31, V311, V5], ids=["v31", "v311", "v5"])


@pytest.mark.guest
def test_an_assigned_client_identifier(client, connected, name):
    """[MQTT-3.2.2-16]: CONNECT without an identifier gets a unique one in CONNACK, which can be used."""
    first = client(client_id="", SessionExpiryInterval=100).connect()
    second = client(client_id="").connect()
    given = first.connack.properties.AssignedClientIdentifier
    assert given and given != second.connack.properties.AssignedClientIdentifier
    first.subscribe(name, qos=1)
    first.disconnect()
    back = connected(client_id=given, clean=False, SessionExpiryInterval=0)
    assert back.connack.session_present
    assert not hasattr(back.connack.properties, "AssignedClientIdentifier")


def test_an_empty_identifier_in_311(client, name):
    """[MQTT-3.1.3-6]: 3.1.1 allows an empty identifier with a clean session."""
    one = client(client_id="", version=V311).connect()
    one.subscribe(name, qos=1)
    one.publish(name, b"x", qos=1)
    assert one.receive().payload == b"x"


@pytest.mark.guest
@VERSIONS
def test_a_silent_client_is_disconnected(connected, version):
    """[MQTT-3.1.2-22]: silence of one and a half keep alive intervals ends the connection."""
    silent = connected(version=version, keep_alive=1)
    silent.paho.loop_stop()
    sock = silent.paho.socket()
    assert wait_until(lambda: closed(sock), "the broker closes the connection")


def closed(sock):
    """Whether the peer has closed the connection; what it sent before is read and dropped."""
    try:
        return sock.recv(4096) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def test_keep_alive_is_kept_by_pings(connected, name):
    """A client that pings in time stays connected for several intervals."""
    pinging, other = connected(keep_alive=1), connected()
    pinging.subscribe(name, qos=1)
    other.will(name, b"", 0)
    idle = connected(keep_alive=2)
    idle.paho.loop_stop()
    sock = idle.paho.socket()
    wait_until(lambda: closed(sock), "three intervals of the other client have passed")
    other.publish(name, b"still there", qos=1)
    assert pinging.receive().payload == b"still there"


def test_server_keep_alive(start_broker, connected):
    """[MQTT-3.2.2-21, -22]: the server's keep alive is announced, and holds instead of the client's."""
    broker = start_broker({"mqtt.max_keep_alive": 10})
    asked_more = connected(port=broker.port, keep_alive=600)
    assert asked_more.connack.properties.ServerKeepAlive == 10
    asked_less = connected(port=broker.port, keep_alive=5)
    assert getattr(asked_less.connack.properties, "ServerKeepAlive", 5) in (5, 10)


@pytest.mark.guest
def test_capabilities_are_announced_or_default(connected):
    """All optional features are there: a property that is absent means yes (MQTT 5 3.2.2.3)."""
    props = connected().connack.properties
    for feature in ("RetainAvailable", "WildcardSubscriptionAvailable", "SubscriptionIdentifierAvailable",
                    "SharedSubscriptionAvailable"):
        assert getattr(props, feature, 1) == 1
    assert getattr(props, "MaximumQoS", 2) == 2


def test_authentication_methods_are_refused(client):
    """[MQTT-4.12.0-1]: an authentication method that the server does not have: CONNACK 0x8C."""
    assert client(AuthenticationMethod="SCRAM-SHA-256", AuthenticationData=b"n,,n=u").connect_raw().reason == 0x8C


def test_user_name_and_password_are_accepted(client, name):
    """Without authentication configured, credentials are no obstacle."""
    for version in (V31, V311, V5):
        one = client(version=version, user=("user", "password")).connect()
        one.subscribe(name, qos=1)


@pytest.mark.guest
@pytest.mark.parametrize("length", [1, 23, 24, 200])
@VERSIONS
def test_identifier_lengths(connected, name, version, length):
    """[MQTT-3.1.3-5]: 23 characters must be allowed; longer ones are, too."""
    identifier = (name + "x" * length)[-length:] if length > len(name) else f"{version}{length}"[-length:]
    assert connected(client_id=identifier, version=version).connack.reason == 0


@pytest.mark.guest
def test_identifiers_may_have_any_characters(connected, name):
    """[MQTT-3.1.3-4]: an identifier is a UTF-8 string, with slashes, wildcards and spaces."""
    for text in ("a/b", "+", "#", "with space", "größe", "$SYS", "日本語"):
        one = connected(client_id=f"{name}{text}", version=V311)
        one.publish(name, b"x", qos=1)


@pytest.mark.ringlane
def test_stopping_says_server_shutting_down(start_broker, connected):
    """SIGTERM: MQTT 5 clients get DISCONNECT 0x8B, older ones a close; the exit code is 0."""
    broker = start_broker({})
    new, old = connected(port=broker.port), connected(port=broker.port, version=V311)
    broker.stop()
    assert new.ended().reason == 0x8B
    assert old.ended().reason is None


def test_many_clients_at_once(connected, name):
    """A hundred clients of three versions: each gets what it subscribed to and nothing else."""
    clients = [connected(version=(V31, V311, V5)[index % 3]) for index in range(100)]
    for index, one in enumerate(clients):
        one.subscribe(f"{name}/{index}", qos=1)
    for index, one in enumerate(clients):
        one.send(f"{name}/{(index + 1) % 100}", str(index), qos=1)
    for index, one in enumerate(clients):
        message = one.receive()
        assert (message.topic, message.payload.decode()) == (f"{name}/{index}", str((index - 1) % 100))
    clients[0].nothing_more()
