// Restate: a server with a log of its own. Its server, the service with the handlers, and the client are three processes.

import http from 'node:http';
import { createRequire } from 'node:module';
import { arch, availableParallelism, platform } from 'node:os';

import { freePort } from '../stage.mjs';

const SERVICE = new URL('restate-service.mjs', import.meta.url).pathname;

/** `handler`: which workflow of the service runs. */
export async function prepare(stage, handler = 'remote') {
  const [ingress, admin, node, service] = await Promise.all([freePort(), freePort(), freePort(), freePort()]);
  const server = stage.start(serverBinary(), ['--no-logo'], {
    env: {
      RESTATE_BASE_DIR: stage.dir,
      RESTATE_LISTEN_MODE: 'tcp',
      RESTATE_BIND_ADDRESS: `127.0.0.1:${node}`,
      RESTATE_ADMIN__BIND_ADDRESS: `127.0.0.1:${admin}`,
      RESTATE_INGRESS__BIND_ADDRESS: `127.0.0.1:${ingress}`,
      // Not the default of 24, which is meant for more cores: on two, it was up to half as fast.
      RESTATE_DEFAULT_NUM_PARTITIONS: `${2 * availableParallelism()}`,
      RESTATE_DISABLE_TELEMETRY: 'true',
      RESTATE_LOG_FILTER: 'warn',
      // The default, spelt out: a record of the log is synced before it counts.
      RESTATE_LOG_SERVER__ROCKSDB_DISABLE_WAL_FSYNC: 'false',
    },
    signal: 'SIGKILL',
  });
  const services = stage.start(process.execPath, [SERVICE, `${service}`], {
    env: { RESTATE_LOGGING: 'ERROR' },
  });
  await stage.ready(server, () => answers(admin, '/health'));
  await stage.ready(server, () => answers(ingress, '/restate/health'));
  await stage.ready(services, () => register(admin, service));
  return { ingress, handler };
}

export async function open({ ingress, handler }) {
  const agent = new http.Agent({ keepAlive: true });
  const chain = (input) => post(ingress, `/chain/${handler}`, input, agent);
  return { chain, close: () => agent.destroy() };
}

function serverBinary() {
  try {
    return createRequire(import.meta.url).resolve(`@restatedev/restate-server-${platform()}-${arch()}/bin/restate-server`);
  } catch {
    const machine = `${platform()}-${arch()}`;
    throw new Error(`there is no Restate server for ${machine} among its packages, or \`make compare\` did not install it`);
  }
}

const answers = (port, path) => fetch(`http://127.0.0.1:${port}${path}`).then((answer) => answer.ok, () => false);

const register = (admin, service) =>
  post(admin, '/deployments', { uri: `http://127.0.0.1:${service}` }).then(() => true, () => false);

/** Not `fetch`, which costs the client several times as much. */
function post(port, path, body, agent) {
  return new Promise((resolve, reject) => {
    const headers = { 'content-type': 'application/json' };
    const request = http.request({ agent, host: '127.0.0.1', port, path, method: 'POST', headers }, (answer) => {
      let text = '';
      answer.setEncoding('utf8').on('data', (more) => (text += more)).on('error', reject);
      answer.on('end', () => {
        if (answer.statusCode >= 300) reject(new Error(`${path} answered ${answer.statusCode}: ${text}`));
        else resolve(JSON.parse(text));
      });
    });
    request.on('error', reject).end(JSON.stringify(body));
  });
}
