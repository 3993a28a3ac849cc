// A private Postgres: fresh, on this machine, and it syncs every commit.

import { execFileSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { chownSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';

import { freePort } from './stage.mjs';

const MIN_MAJOR = 14;
const INITDB_SECONDS = 60;

/** The settings of `tasker bench`'s own Postgres, the promises spelt out. All else is Postgres' default. */
const settings = (port) => ({
  fsync: 'on',
  synchronous_commit: 'on',
  full_page_writes: 'on',
  listen_addresses: '127.0.0.1',
  port,
  unix_socket_directories: '',
  max_connections: 200,
  dynamic_shared_memory_type: 'mmap',
});

/** Starts one; returns its URL. */
export async function startPostgres(stage) {
  const { bin } = findPostgres();
  const user = unprivileged();
  const [data, pwfile] = [join(stage.dir, 'postgres'), join(stage.dir, 'pwfile')];
  const password = randomUUID();
  mkdirSync(data, { mode: 0o700 });
  writeFileSync(pwfile, password, { mode: 0o600 });
  if (user) [data, pwfile].forEach((path) => chownSync(path, user.uid, user.gid));
  const how = ['--username=postgres', '--auth=scram-sha-256', '--encoding=UTF8', '--no-locale'];
  await stage.run(join(bin, 'initdb'), ['--pgdata', data, '--pwfile', pwfile, ...how], { user, seconds: INITDB_SECONDS });

  const port = await freePort();
  const args = Object.entries(settings(port)).flatMap(([name, value]) => ['-c', `${name}=${value}`]);
  // SIGQUIT: at once, without a checkpoint of data that nobody will look at again.
  const postgres = stage.start(join(bin, 'postgres'), ['-D', data, ...args], { user, signal: 'SIGQUIT' });
  await stage.ready(postgres, () => isReady(data));
  return `postgres://postgres:${password}@127.0.0.1:${port}/postgres`;
}

/** The one that TASKER_POSTGRES_BIN names, else the one on the PATH, else the newest installed. */
export function findPostgres() {
  const named = process.env.TASKER_POSTGRES_BIN;
  const dirs = named ? [named] : [...(process.env.PATH ?? '').split(delimiter), ...debian()];
  for (const bin of dirs) {
    if (!['postgres', 'initdb'].every((name) => existsSync(join(bin, name)))) continue;
    const version = execFileSync(join(bin, 'postgres'), ['--version'], { encoding: 'utf8' }).match(/\d+(\.\d+)?/)?.[0];
    if (parseInt(version, 10) >= MIN_MAJOR) return { bin, version };
  }
  if (named) throw new Error(`TASKER_POSTGRES_BIN=${named} has no PostgreSQL ${MIN_MAJOR} or newer`);
  const next = 'run `scripts/setup.sh demo`, or name the folder of its binaries in TASKER_POSTGRES_BIN';
  throw new Error(`found no PostgreSQL ${MIN_MAJOR} or newer; ${next}`);
}

function debian() {
  const root = '/usr/lib/postgresql';
  const versions = existsSync(root) ? readdirSync(root).sort((a, b) => parseInt(b, 10) - parseInt(a, 10)) : [];
  return versions.map((version) => join(root, version, 'bin'));
}

/** Postgres refuses to run as root: the user that it runs as then. */
function unprivileged() {
  if (process.getuid() !== 0) return undefined;
  const users = readFileSync('/etc/passwd', 'utf8').split('\n').map((line) => line.split(':'));
  const user = users.find(([name]) => name === 'postgres') ?? users.find(([name]) => name === 'nobody');
  if (!user) throw new Error('Postgres cannot run as root, and there is no user `postgres` nor `nobody` here');
  return { uid: Number(user[2]), gid: Number(user[3]) };
}

/** The eighth line of this file is the server's own word on whether it takes connections. */
function isReady(data) {
  const file = join(data, 'postmaster.pid');
  return existsSync(file) && readFileSync(file, 'utf8').split('\n')[7]?.trim() === 'ready';
}
