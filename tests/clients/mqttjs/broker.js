// One broker for a test file: started by the harness that the other suites use, stopped with it.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const clients = path.dirname(path.dirname(fileURLToPath(import.meta.url)));

/** Every bound of the suite, in milliseconds; scaled for slow machines like the Python suite's. */
export const PATIENCE = 10_000 * Number(process.env.RINGLANE_TEST_TIME_FACTOR ?? '1');

/** Starts a broker; `overrides` are configuration keys. Returns its ports and `stop`. */
export async function startBroker(overrides = {}) {
  const settings = Object.entries(overrides).map(([key, value]) => `${key}=${JSON.stringify(value)}`);
  const child = spawn('python3', ['-m', 'harness.serve', ...settings], {
    cwd: clients,
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const exited = once(child, 'exit');
  const [line] = await Promise.race([
    once(child.stdout, 'data'),
    exited.then(([code]) => assert.fail(`the broker did not start: ${code}`)),
  ]);
  const stop = async () => {
    child.stdin.end();
    const [code] = await exited;
    assert.equal(code, 0, 'the broker drains and exits with 0');
  };
  return { ports: JSON.parse(line), stop };
}
