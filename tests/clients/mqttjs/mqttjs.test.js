// MQTT.js over TCP and WebSocket, in 3.1.1 and 5: what a web page or a Node service does.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { PATIENCE, startBroker } from './broker.js';
import { Client, within } from './client.js';

/** A test whose waits add up to more than this has failed. */
const LIMIT = { timeout: 3 * PATIENCE };

let broker;
let number = 0;
before(async () => {
  broker = await startBroker();
}, { timeout: 2 * PATIENCE });
after(() => broker.stop());

const url = {
  tcp: () => `mqtt://127.0.0.1:${broker.ports.tcp}`,
  websocket: () => `ws://127.0.0.1:${broker.ports.websocket}/mqtt`,
};

/** Runs `body` with a unique word and a function that connects clients, and ends those clients. */
function withClients(transport, protocolVersion, body) {
  return async () => {
    const name = `js${process.pid}-${(number += 1)}`;
    const made = [];
    const connect = async (suffix = String(made.length), options = {}) => {
      const client = await Client.connect(url[options.transport ?? transport](), {
        protocolVersion,
        clientId: `${name}-${suffix}`,
        ...options,
      });
      made.push(client);
      return client;
    };
    try {
      await body(name, connect);
    } finally {
      await Promise.all(made.map((client) => client.end()));
    }
  };
}

for (const transport of ['tcp', 'websocket']) {
  for (const version of [3, 4, 5]) {
    describe(`${transport}, protocol level ${version}`, () => {
      const clientTest = (title, body) => test(title, LIMIT, withClients(transport, version, body));

      /** Properties of MQTT 5; nothing in older versions. */
      const v5 = (properties) => (version === 5 ? { properties } : {});
      const versionOptions = version === 3 ? { protocolId: 'MQIsdp' } : {};

      clientTest('QoS 0, 1 and 2 in both directions', async (name, connect) => {
        const subscriber = await connect('s', versionOptions);
        const publisher = await connect('p', versionOptions);
        for (const qos of [0, 1, 2]) {
          const [granted] = await subscriber.subscribe(`${name}/${qos}`, { qos });
          assert.equal(granted.qos, qos);
          await publisher.publish(`${name}/${qos}`, `ä ${qos}`, { qos });
          const message = await subscriber.receive();
          assert.equal(message.topic, `${name}/${qos}`);
          assert.equal(message.payload.toString(), `ä ${qos}`);
          assert.equal(message.packet.qos, qos);
          assert.equal(message.packet.retain, false);
        }
      });

      for (const qos of [0, 1, 2]) {
        clientTest(`QoS ${qos}: 500 messages in flight arrive once and in order`, async (name, connect) => {
          const subscriber = await connect('s', versionOptions);
          const publisher = await connect('p', versionOptions);
          await subscriber.subscribe(name, { qos });
          const payloads = Array.from({ length: 500 }, (_, index) => String(index));
          await Promise.all(payloads.map((payload) => publisher.publish(name, payload, { qos })));
          const received = await subscriber.receiveMany(500);
          assert.deepEqual(received.map((message) => message.payload.toString()), payloads);
        });
      }

      clientTest('large payloads are whole', async (name, connect) => {
        const subscriber = await connect('s', versionOptions);
        const publisher = await connect('p', versionOptions);
        await subscriber.subscribe(name, { qos: 1 });
        for (const size of [0, 1, 125, 126, 127, 65_535, 65_536, 800_000]) {
          const payload = Buffer.alloc(size, 'payload');
          await publisher.publish(name, payload, { qos: 1 });
          assert.ok((await subscriber.receive()).payload.equals(payload), `${size} bytes`);
        }
      });

      clientTest('retained: kept, then cleared', async (name, connect) => {
        const publisher = await connect('p', versionOptions);
        await publisher.publish(name, 'kept', { qos: 1, retain: true });
        const first = await connect('first', versionOptions);
        await first.subscribe(`${name}/#`, { qos: 1 });
        const message = await first.receive();
        assert.equal(message.payload.toString(), 'kept');
        assert.equal(message.packet.retain, true);
        await publisher.publish(name, '', { qos: 1, retain: true });
        const second = await connect('second', versionOptions);
        await second.subscribe(name, { qos: 1 });
        await publisher.publish(name, 'live', { qos: 1 });
        assert.equal((await second.receive()).payload.toString(), 'live');
      });

      clientTest('the will of a lost connection', async (name, connect) => {
        const witness = await connect('witness', versionOptions);
        await witness.subscribe(`${name}/will`, { qos: 1 });
        const dying = await connect('dying', {
          ...versionOptions,
          will: { topic: `${name}/will`, payload: Buffer.from('gone'), qos: 1, retain: false },
        });
        await dying.kill();
        assert.equal((await witness.receive()).payload.toString(), 'gone');
      });

      clientTest('a session is resumed with what it missed', async (name, connect) => {
        const options = { ...versionOptions, clean: false, ...v5({ sessionExpiryInterval: 1000 }) };
        const first = await connect('session', options);
        await first.subscribe(name, { qos: 1 });
        await first.end();
        const publisher = await connect('p', versionOptions);
        for (const payload of ['1', '2', '3']) await publisher.publish(name, payload, { qos: 1 });
        const second = await connect('session', options);
        if (version > 3) assert.equal(second.connack.sessionPresent, true);
        const received = await second.receiveMany(3);
        assert.deepEqual(received.map((message) => message.payload.toString()), ['1', '2', '3']);
        await second.end();
        await connect('session', { ...versionOptions, clean: true });
      });

      clientTest('unsubscribe ends delivery', async (name, connect) => {
        const client = await connect('c', versionOptions);
        await client.subscribe([`${name}/a`, `${name}/b`], { qos: 1 });
        await client.unsubscribe(`${name}/a`);
        await client.publish(`${name}/a`, 'a', { qos: 1 });
        await client.publish(`${name}/b`, 'b', { qos: 1 });
        assert.equal((await client.receive()).topic, `${name}/b`);
      });

      clientTest('takeover closes the older connection', async (name, connect) => {
        const older = await connect('same', versionOptions);
        await connect('same', versionOptions);
        await within(older.closed, 'the close of the older connection');
        if (version !== 5) return;
        const packet = await within(older.disconnectPacket, 'DISCONNECT');
        assert.equal(packet.reasonCode, 0x8e);
      });
    });
  }

  describe(`${transport}, MQTT 5 properties`, () => {
    const clientTest = (title, body) => test(title, LIMIT, withClients(transport, 5, body));

    clientTest('are forwarded unaltered', async (name, connect) => {
      const subscriber = await connect('s');
      await subscriber.subscribe(name, { qos: 1, properties: { subscriptionIdentifier: 77 } });
      const publisher = await connect('p');
      await publisher.publish(name, '{}', {
        qos: 1,
        properties: {
          payloadFormatIndicator: true,
          messageExpiryInterval: 3600,
          contentType: 'application/json',
          responseTopic: `${name}/re`,
          correlationData: Buffer.from([0, 255, 7]),
          userProperties: { first: ['1', '2'], second: '3' },
        },
      });
      const { properties } = (await subscriber.receive()).packet;
      assert.equal(properties.payloadFormatIndicator, true);
      assert.ok([3600, 3599].includes(properties.messageExpiryInterval));
      assert.equal(properties.contentType, 'application/json');
      assert.equal(properties.responseTopic, `${name}/re`);
      assert.deepEqual([...properties.correlationData], [0, 255, 7]);
      assert.deepEqual({ ...properties.userProperties }, { first: ['1', '2'], second: '3' });
      assert.equal([properties.subscriptionIdentifier].flat()[0], 77);
    });

    clientTest('topic aliases of the client are understood', async (name, connect) => {
      const subscriber = await connect('s');
      await subscriber.subscribe(`${name}/#`, { qos: 1 });
      const publisher = await connect('p', { autoAssignTopicAlias: true });
      for (let round = 0; round < 3; round += 1) {
        for (const topic of [`${name}/a`, `${name}/b`]) await publisher.publish(topic, topic, { qos: 1 });
      }
      for (const message of await subscriber.receiveMany(6)) {
        assert.equal(message.payload.toString(), message.topic);
      }
    });

    clientTest('topic aliases of the server are understood', async (name, connect) => {
      const subscriber = await connect('s', { properties: { topicAliasMaximum: 2 } });
      await subscriber.subscribe(`${name}/#`, { qos: 1 });
      const publisher = await connect('p');
      for (let index = 0; index < 12; index += 1) {
        await publisher.publish(`${name}/${index % 3}`, `${name}/${index % 3}`, { qos: 1 });
      }
      for (const message of await subscriber.receiveMany(12)) {
        assert.equal(message.topic, message.payload.toString());
      }
    });

    clientTest('a shared subscription gives each message to one member', async (name, connect) => {
      const members = [await connect('m0'), await connect('m1'), await connect('m2')];
      const counts = members.map(() => 0);
      const seen = new Set();
      const everything = new Promise((resolve) => {
        members.forEach((member, index) => {
          member.mqtt.on('message', (_topic, payload) => {
            counts[index] += 1;
            assert.ok(!seen.has(payload.toString()), 'delivered twice');
            seen.add(payload.toString());
            if (seen.size === 90) resolve();
          });
        });
      });
      for (const member of members) await member.subscribe(`$share/g/${name}`, { qos: 1 });
      const publisher = await connect('p');
      await Promise.all(Array.from({ length: 90 }, (_, index) => publisher.publish(name, String(index), { qos: 1 })));
      await within(everything, '90 messages');
      assert.ok(Math.min(...counts) > 0, `every member has a part: ${counts}`);
    });

    clientTest('no local and retain as published', async (name, connect) => {
      const one = await connect('one');
      const other = await connect('other');
      await one.subscribe(name, { qos: 1, nl: true });
      await other.subscribe(name, { qos: 1, rap: true });
      await one.publish(name, 'mine', { qos: 1, retain: true });
      await other.publish(name, 'theirs', { qos: 1 });
      assert.equal((await one.receive()).payload.toString(), 'theirs');
      assert.equal((await other.receive()).packet.retain, true);
      await one.publish(name, '', { qos: 1, retain: true });
    });
  });
}

test('TCP and WebSocket clients meet, in different versions', LIMIT, withClients('tcp', 4, async (name, connect) => {
  const node = await connect('node');
  const page = await connect('page', { transport: 'websocket', protocolVersion: 5 });
  await node.subscribe(`${name}/to-node`, { qos: 2 });
  await page.subscribe(`${name}/to-page`, { qos: 2 });
  await page.publish(`${name}/to-node`, 'from the page', { qos: 2 });
  await node.publish(`${name}/to-page`, 'from node', { qos: 2 });
  assert.equal((await node.receive()).payload.toString(), 'from the page');
  assert.equal((await page.receive()).payload.toString(), 'from node');
}));
