// What one measured system stands on: a temporary folder and the processes in it. Both are gone when the stage is
// struck, and also when this process is killed.

import { spawn, spawnSync } from 'node:child_process';
import { chmodSync, closeSync, mkdtempSync, openSync, readFileSync, rmSync, statfsSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

const START_SECONDS = 60;
const STOP_SECONDS = 10;
const TAIL_LINES = 15;
const TMPFS = 0x01021994;
/** Below the range that outgoing connections take theirs from. */
const PORTS = { from: 20_000, count: 12_000 };
/** What the caller has set for himself must not change what is measured. */
const NOT_PASSED_ON = /^(PG|LC_|DATABASE_URL|DBOS_|GRAPHILE_|NODE_|RESTATE_|TASKER_)/;

// Only Linux sends a child a signal when its parent dies. Elsewhere, a SIGKILL of ours leaves the children behind.
const hasSetpriv = spawnSync('setpriv', ['--version']).status === 0;
const standing = new Set();

/** Ends everything: for the end of this process. */
export const strikeAll = () => Promise.all([...standing].map((stage) => stage.strike()));

export class Stage {
  #processes = [];
  #broom;
  #struck;

  constructor() {
    if (statfsSync(tmpdir()).type === TMPFS) {
      throw new Error(`${tmpdir()} is in memory, where a sync costs nothing; set TMPDIR to a folder on a disk`);
    }
    this.dir = mkdtempSync(join(tmpdir(), 'tasker-compare-'));
    this.#broom = broom(this.dir);
    standing.add(this);
    // Postgres' own user passes through; the folders in it say for themselves who may enter.
    chmodSync(this.dir, 0o711);
  }

  /** Starts a program that is ended with `signal`, with the stage at the latest. Its words go to a log. */
  start(program, args, { env, user, signal = 'SIGTERM', stdout = 'log' } = {}) {
    if (this.#struck) throw new Error('we are ending');
    const name = basename(program);
    const log = join(this.dir, `${name}-${this.#processes.length}.log`);
    const fd = openSync(log, 'a', 0o600);
    const stdio = stdout === 'pipe' ? ['ignore', 'pipe', 'inherit'] : ['ignore', fd, fd];
    const child = spawn(...tied(program, args, user, signal), {
      cwd: this.dir,
      // Not in the terminal's group: Ctrl-C is for us, and we end the others in order.
      detached: true,
      env: { ...environment(), ...env },
      stdio,
    });
    closeSync(fd);
    const started = { name, log, signal, child, end: null };
    started.ended = new Promise((resolve) => {
      child.once('error', (error) => resolve((started.end = error.message)));
      child.once('close', (code, killer) => resolve((started.end = killer ?? `status ${code}`)));
    });
    this.#processes.push(started);
    return started;
  }

  /** Waits until `isReady` says so. */
  async ready(started, isReady) {
    const until = Date.now() + START_SECONDS * 1e3;
    while (!(await isReady())) {
      const why = started.end ?? (Date.now() > until && `not ready after ${START_SECONDS} s`);
      if (why) throw new Error(`${started.name} did not start (${why}); the end of what it said:\n${tail(started.log)}`);
      await sleep(20);
    }
  }

  /** Runs a program to its end and returns what it printed. Its stderr is shown. */
  async run(program, args, { seconds, ...options }) {
    const started = this.start(program, args, { ...options, stdout: 'pipe' });
    let printed = '';
    started.child.stdout?.setEncoding('utf8').on('data', (text) => (printed += text));
    const timer = new AbortController();
    const late = sleep(seconds * 1e3, `not done after ${seconds} s`, { signal: timer.signal, ref: false });
    const end = await Promise.race([started.ended, late.catch(() => {})]);
    timer.abort();
    if (end !== 'status 0') throw new Error(`${started.name} failed: ${end}; what it said is above`);
    return printed;
  }

  async #stop({ child, signal, ended }) {
    child.kill(signal);
    const timer = setTimeout(() => child.kill('SIGKILL'), STOP_SECONDS * 1e3);
    await ended;
    clearTimeout(timer);
  }

  /** Ends the processes, the last one first, and removes the folder. */
  strike() {
    return (this.#struck ??= this.#strike());
  }

  async #strike() {
    standing.delete(this);
    while (this.#processes.length) await this.#stop(this.#processes.pop());
    rmSync(this.dir, { recursive: true, force: true, maxRetries: 10 });
    this.#broom.stdin.end();
  }
}

/** A port that is free now. */
export async function freePort() {
  for (;;) {
    const port = PORTS.from + Math.floor(Math.random() * PORTS.count);
    const server = createServer();
    const isFree = await new Promise((resolve) => {
      server.once('error', () => resolve(false)).listen(port, '127.0.0.1', () => resolve(true));
    });
    if (isFree) return new Promise((resolve) => server.close(() => resolve(port)));
  }
}

function environment() {
  const passedOn = Object.entries(process.env).filter(([name]) => !NOT_PASSED_ON.test(name));
  return { ...Object.fromEntries(passedOn), LC_ALL: 'C', NODE_ENV: 'production' };
}

/** How to run a program as a user, and so that it ends when we do. */
function tied(program, args, user, signal) {
  if (!hasSetpriv) return [program, args];
  const as = user ? ['--reuid', user.uid, '--regid', user.gid, '--clear-groups'] : [];
  return ['setpriv', ['--pdeathsig', signal.replace('SIG', ''), ...as, '--', program, ...args]];
}

/** A small process that removes the folder when we are gone, however that comes about. */
function broom(dir) {
  const script = 'read -r _; n=0; until rm -rf -- "$1" || [ $((n += 1)) -gt 50 ]; do sleep 0.2; done';
  return spawn('/bin/sh', ['-c', script, 'sh', dir], { cwd: '/', detached: true, stdio: ['pipe', 'ignore', 'ignore'] });
}

function tail(log) {
  return readFileSync(log, 'utf8').trimEnd().split('\n').slice(-TAIL_LINES).join('\n');
}
