"""A synchronous client around paho-mqtt: every call waits, with a bound, for the broker's answer."""

import itertools
import queue
import socket
import time

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from .broker import HOST
from .deadline import PATIENCE

V31, V311, V5 = paho.MQTTv31, paho.MQTTv311, paho.MQTTv5

#: How many QoS 1 and 2 messages a client sends without waiting: below every Receive Maximum here
#: (paho leaves it to its user to honour the server's [MQTT-3.3.4-7]).
IN_FLIGHT = 500

_fences = itertools.count()


def properties(packet, **values):
    """MQTT 5 properties of one packet type, e.g. `properties(PacketTypes.PUBLISH, TopicAlias=1)`."""
    made = Properties(packet)
    for name, value in values.items():
        setattr(made, name, value)
    return made


def publish_properties(**values):
    """Properties of a PUBLISH."""
    return properties(PacketTypes.PUBLISH, **values)


def _drain(line):
    """Reads a connection until its other end has closed it, and closes it."""
    line.settimeout(PATIENCE)
    try:
        while line.recv(65536):
            pass
    except ConnectionError:
        pass  # Closed as well.
    finally:
        line.close()


class Connack:
    """What CONNACK said: reason code (or 3.x return code) as a number, session present, properties."""

    def __init__(self, reason, session_present, props):
        self.reason = reason
        self.session_present = session_present
        self.properties = props


class Ended:
    """How a connection ended: the DISCONNECT reason code, or None if there was no packet."""

    def __init__(self, reason, props):
        self.reason = reason
        self.properties = props


class Client:
    """One client. Keyword arguments in CamelCase are MQTT 5 CONNECT properties."""

    def __init__(self, port, client_id, version=V5, clean=True, keep_alive=60, transport="tcp",
                 manual_ack=False, user=None, **connect_properties):
        self.port = port
        self.client_id = client_id
        self.version = version
        self.clean = clean
        self.keep_alive = keep_alive
        self.connect_properties = connect_properties
        self.messages = queue.Queue()
        self.answers = queue.Queue()
        self.connacks = queue.Queue()
        self.endings = queue.Queue()
        options = {} if version == V5 else {"clean_session": clean}
        self.paho = paho.Client(
            paho.CallbackAPIVersion.VERSION2, client_id=client_id, protocol=version, transport=transport,
            reconnect_on_failure=False, manual_ack=manual_ack, **options)
        if transport == "websockets":
            self.paho.ws_set_options(path="/mqtt")
        if user:
            self.paho.username_pw_set(*user)
        self.paho.max_inflight_messages_set(IN_FLIGHT)
        self.paho.on_connect = self._on_connect
        self.paho.on_disconnect = self._on_disconnect
        self.paho.on_message = lambda _client, _data, message: self.messages.put(message)
        self.paho.on_publish = lambda _c, _d, mid, reason, props: self.answers.put((mid, reason, props))
        self.paho.on_subscribe = lambda _c, _d, mid, reasons, props: self.answers.put((mid, reasons, props))
        self.paho.on_unsubscribe = lambda _c, _d, mid, reasons, props: self.answers.put((mid, reasons, props))

    def _on_connect(self, _client, _data, flags, reason, props):
        self.connacks.put(Connack(reason.value, flags.session_present, props))

    def _on_disconnect(self, _client, _data, flags, reason, props):
        from_server = flags.is_disconnect_packet_from_server
        self.endings.put(Ended(reason.value if from_server else None, props))

    def will(self, topic, payload, qos=0, retain=False, **will_properties):
        """Sets the will message; call before `connect`."""
        props = properties(PacketTypes.WILLMESSAGE, **will_properties) if self.version == V5 else None
        self.paho.will_set(topic, payload, qos, retain, properties=props)
        return self

    def connect_raw(self):
        """Connects and returns CONNACK, whatever it says."""
        options = {}
        if self.version == V5:
            options["clean_start"] = self.clean
            options["properties"] = properties(PacketTypes.CONNECT, **self.connect_properties)
        self.paho.connect(HOST, self.port, self.keep_alive, **options)
        self.paho.loop_start()
        return self._take(self.connacks, "CONNACK")

    def connect(self):
        """Connects and asserts success; CONNACK is kept in `connack`."""
        self.connack = self.connect_raw()
        assert self.connack.reason == 0, f"CONNACK {self.connack.reason:#x}"
        return self

    def subscribe(self, *filters, qos=0, props=None, **options):
        """Subscribes in one packet; returns the SUBACK codes. `options` are MQTT 5 subscription options."""
        if self.version == V5:
            made = SubscribeOptions(qos=qos, **options)
            result, mid = self.paho.subscribe(
                [(topic_filter, made) for topic_filter in filters],
                properties=properties(PacketTypes.SUBSCRIBE, **(props or {})))
        else:
            result, mid = self.paho.subscribe([(topic_filter, qos) for topic_filter in filters])
        assert result == paho.MQTT_ERR_SUCCESS
        return [reason.value for reason in self._answer(mid, "SUBACK")[1]]

    def unsubscribe(self, *filters):
        """Unsubscribes in one packet; returns the UNSUBACK codes (none before MQTT 5)."""
        result, mid = self.paho.unsubscribe(list(filters))
        assert result == paho.MQTT_ERR_SUCCESS
        return [reason.value for reason in self._answer(mid, "UNSUBACK")[1]]

    def send(self, topic, payload=b"", qos=0, retain=False, **publish):
        """Publishes without waiting; returns the packet identifier."""
        props = publish_properties(**publish) if self.version == V5 else None
        info = self.paho.publish(topic, payload, qos, retain, properties=props)
        assert info.rc == paho.MQTT_ERR_SUCCESS, f"publish: {info.rc}"
        return info.mid

    def publish(self, topic, payload=b"", qos=0, retain=False, **publish):
        """Publishes and waits for the end of the hand-shake; returns the reason code."""
        mid = self.send(topic, payload, qos, retain, **publish)
        return self._answer(mid, f"the answer to PUBLISH of {topic}")[1].value

    def publish_all(self, topic, payloads, qos=0, retain=False):
        """Publishes a row of messages, all in flight at once, and waits for every answer."""
        waiting = {self.send(topic, payload, qos, retain) for payload in payloads}
        while waiting:
            waiting.discard(self._take(self.answers, f"{len(waiting)} answers")[0])

    def receive(self, seconds=PATIENCE):
        """The next message."""
        return self._take(self.messages, f"a message for {self.client_id}", seconds)

    def receive_many(self, count, seconds=PATIENCE):
        """The next `count` messages."""
        return [self.receive(seconds) for _ in range(count)]

    def payloads(self, count):
        """The payloads of the next `count` messages, as text."""
        return [message.payload.decode() for message in self.receive_many(count)]

    def nothing_more(self, publisher=None):
        """Asserts that no message waits or is under way.

        A message that `publisher` (this client itself by default) sends now through a topic of its
        own must be the next to arrive: what was accepted before it would have come first.
        """
        publisher = publisher or self
        fence = f"fence/{publisher.client_id}/{next(_fences)}"
        self.subscribe(fence, qos=1)
        publisher.publish(fence, b"", qos=1)
        message = self.receive()
        assert message.topic == fence, f"unexpected message {message.topic} {message.payload[:60]!r}"
        self.unsubscribe(fence)

    def ack(self, message):
        """Acknowledges a message of a client with `manual_ack`."""
        self.paho.ack(message.mid, message.qos)

    def ended(self, seconds=PATIENCE):
        """Waits until the connection has ended and returns how."""
        return self._take(self.endings, "the end of the connection", seconds)

    def disconnect(self, reason=None, **disconnect_properties):
        """Sends DISCONNECT and waits until the broker has closed the connection: it has taken note then.

        Without that, what another client publishes next may still be sent on this connection, and
        counts as under way, not as pending.
        """
        line = self._line()
        if self.version == V5 and (reason is not None or disconnect_properties):
            code = ReasonCode(PacketTypes.DISCONNECT, identifier=reason or 0)
            self.paho.disconnect(code, properties(PacketTypes.DISCONNECT, **disconnect_properties))
        else:
            self.paho.disconnect()
        self.paho.loop_stop()
        if line is not None:
            _drain(line)

    def kill(self):
        """Drops the connection without DISCONNECT, as a crash or a lost network does."""
        line = self._line()
        if line is not None:
            try:
                line.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # The broker was faster.
            line.close()
        self.paho.loop_stop()

    def _line(self):
        """A second descriptor of the connection, which outlives paho's; None if there is none."""
        sock = self.paho.socket()
        if sock is None:
            return None
        try:
            return getattr(sock, "_socket", sock).dup()  # paho wraps WebSockets.
        except OSError:
            return None  # paho was faster.

    def _answer(self, mid, what):
        end = time.monotonic() + PATIENCE
        held = []
        try:
            while True:
                answer = self._take(self.answers, what, max(0.0, end - time.monotonic()))
                if answer[0] == mid:
                    return answer
                held.append(answer)
        finally:
            for answer in held:
                self.answers.put(answer)

    def _take(self, source, what, seconds=PATIENCE):
        try:
            return source.get(timeout=seconds)
        except queue.Empty:
            ending = ""
            if not self.endings.empty():
                reason = self.endings.queue[0].reason
                ending = f"; the connection ended, DISCONNECT {reason if reason is None else hex(reason)}"
            raise AssertionError(f"{what} did not come within {seconds:.1f} s{ending}") from None
