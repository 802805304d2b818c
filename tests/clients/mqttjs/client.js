// MQTT.js with promises and a bound on every wait.

import mqtt from 'mqtt';
import { PATIENCE } from './broker.js';

/** Resolves or rejects with `promise`; rejects naming `what` after the bound. */
export function within(promise, what) {
  let timer;
  const bound = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not within ${PATIENCE} ms: ${what}`)), PATIENCE);
  });
  return Promise.race([promise, bound]).finally(() => clearTimeout(timer));
}

/** A connected client that keeps its messages in order of arrival. */
export class Client {
  #arrived = [];
  #waiting = [];

  static async connect(url, options) {
    const client = new Client();
    client.mqtt = mqtt.connect(url, { reconnectPeriod: 0, connectTimeout: PATIENCE, ...options });
    client.mqtt.on('message', (topic, payload, packet) => client.#deliver({ topic, payload, packet }));
    client.mqtt.on('error', () => {}); // Told by the rejected promise or by `closed`.
    client.disconnectPacket = new Promise((resolve) => client.mqtt.once('disconnect', resolve));
    client.closed = new Promise((resolve) => client.mqtt.once('close', resolve));
    client.connack = await within(
      new Promise((resolve, reject) => {
        client.mqtt.once('connect', resolve);
        client.mqtt.once('error', reject);
      }),
      'CONNACK',
    );
    return client;
  }

  #deliver(message) {
    const waiter = this.#waiting.shift();
    if (waiter) waiter(message);
    else this.#arrived.push(message);
  }

  /** The next message. */
  receive() {
    const message = this.#arrived.shift();
    if (message) return Promise.resolve(message);
    return within(new Promise((resolve) => this.#waiting.push(resolve)), 'a message');
  }

  /** The next `count` messages. */
  async receiveMany(count) {
    const messages = [];
    while (messages.length < count) messages.push(await this.receive());
    return messages;
  }

  subscribe(filter, options = { qos: 0 }) {
    return within(this.mqtt.subscribeAsync(filter, options), `SUBACK for ${filter}`);
  }

  unsubscribe(filter) {
    return within(this.mqtt.unsubscribeAsync(filter), `UNSUBACK for ${filter}`);
  }

  publish(topic, payload, options = { qos: 0 }) {
    return within(this.mqtt.publishAsync(topic, payload, options), `the answer to PUBLISH of ${topic}`);
  }

  /** Ends with DISCONNECT. */
  end() {
    return within(this.mqtt.endAsync(), 'the end of the client');
  }

  /** Drops the connection without DISCONNECT. */
  async kill() {
    this.mqtt.stream.destroy();
    await within(this.closed, 'the close');
  }
}
